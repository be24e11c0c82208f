ALTER TABLE orders ADD COLUMN stop_price TEXT;
ALTER TABLE orders ADD COLUMN trail_price TEXT;
ALTER TABLE orders ADD COLUMN trail_percent TEXT;
ALTER TABLE orders ADD COLUMN best_price TEXT;
ALTER TABLE orders ADD COLUMN triggered_at TEXT;
ALTER TABLE orders ADD COLUMN replaces TEXT NOT NULL DEFAULT '';
ALTER TABLE orders ADD COLUMN replaced_by TEXT NOT NULL DEFAULT '';
ALTER TABLE events ADD COLUMN refers_to TEXT NOT NULL DEFAULT '';
CREATE TABLE quotes (
    symbol   TEXT PRIMARY KEY,
    at       TEXT NOT NULL,
    bid      TEXT NOT NULL,
    ask      TEXT NOT NULL,
    bid_size TEXT NOT NULL,
    ask_size TEXT NOT NULL
) STRICT;
CREATE TABLE floor (
    id      INTEGER PRIMARY KEY CHECK (id = 1),
    session TEXT NOT NULL,
    open    INTEGER NOT NULL
) STRICT;
