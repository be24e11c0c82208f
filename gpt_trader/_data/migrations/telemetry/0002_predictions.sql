-- Predictions and, once the session is over, what really happened. Bulk data: not journalled.
CREATE TABLE predictions (
  session TEXT NOT NULL,          -- the session predicted, YYYY-MM-DD
  symbol TEXT NOT NULL,
  head TEXT NOT NULL,             -- range_expansion, direction
  model_version TEXT NOT NULL,    -- of the registry
  probability REAL NOT NULL,      -- of label 1
  predicted INTEGER NOT NULL,     -- 1 when the probability is at least one half
  naive INTEGER,                  -- what the naive rule said; NULL where it could not tell
  majority INTEGER NOT NULL,      -- what the majority rule said
  label INTEGER,                  -- what happened; NULL until it is known
  made_at TEXT NOT NULL,          -- UTC, by the workspace's clock
  settled_at TEXT,                -- UTC; NULL until the label is known
  features_hash TEXT NOT NULL,    -- of the features' definitions
  PRIMARY KEY (head, session, symbol, model_version)
) WITHOUT ROWID;
CREATE INDEX predictions_by_settlement ON predictions (head, settled_at);
