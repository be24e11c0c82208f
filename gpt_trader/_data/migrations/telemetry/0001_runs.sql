-- The index of notebook runs: what reports/index.html lists. Rebuilt from the report folders at any time.
CREATE TABLE runs (
  run_id TEXT PRIMARY KEY,
  name TEXT NOT NULL,
  title TEXT NOT NULL,
  chapter TEXT NOT NULL,
  started_at TEXT NOT NULL,       -- UTC, by the workspace's clock
  seconds REAL NOT NULL,          -- measured, wall time
  status TEXT NOT NULL,           -- ok, warning, critical, unknown
  exit_code INTEGER NOT NULL,
  summary TEXT NOT NULL,
  parameters TEXT NOT NULL,       -- JSON
  parent TEXT,                    -- the run that started this one
  folder TEXT NOT NULL            -- relative to the workspace
);
CREATE INDEX runs_by_name ON runs (name, started_at);
