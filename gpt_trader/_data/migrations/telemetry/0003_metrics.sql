-- Every measurement of every metric. Bulk data: not journalled. A series measured twice at one moment keeps the later value,
-- so a replay that is resumed writes nothing twice.
CREATE TABLE metrics (
  name TEXT NOT NULL,             -- lower case, as Prometheus allows, without the gpt_trader_ prefix
  labels TEXT NOT NULL,           -- JSON object of strings with sorted keys
  at TEXT NOT NULL,               -- UTC, by the workspace's clock
  session TEXT,                   -- the exchange's session, YYYY-MM-DD, where the measurement belongs to one
  value REAL,                     -- NULL: it was measured, and nothing could be said
  n INTEGER,                      -- observations that it rests on
  low REAL,                       -- its confidence interval
  high REAL,
  PRIMARY KEY (name, labels, at)
) WITHOUT ROWID;
CREATE INDEX metrics_by_session ON metrics (session, name);
