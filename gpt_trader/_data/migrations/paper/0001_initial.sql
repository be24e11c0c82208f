CREATE TABLE events (
    seq             INTEGER PRIMARY KEY,
    at              TEXT NOT NULL,
    kind            TEXT NOT NULL,
    execution_id    TEXT NOT NULL UNIQUE,
    session         TEXT,
    client_order_id TEXT NOT NULL,
    broker_order_id TEXT NOT NULL,
    symbol          TEXT NOT NULL,
    side            TEXT NOT NULL,
    quantity        TEXT,
    price           TEXT,
    fee             TEXT NOT NULL,
    ratio           TEXT,
    amount          TEXT,
    cash            TEXT NOT NULL,
    reason          TEXT NOT NULL
) STRICT;
CREATE TRIGGER events_are_append_only_update BEFORE UPDATE ON events
BEGIN SELECT RAISE(ABORT, 'what happened at the broker cannot be changed'); END;
CREATE TRIGGER events_are_append_only_delete BEFORE DELETE ON events
BEGIN SELECT RAISE(ABORT, 'what happened at the broker cannot be removed'); END;
CREATE TABLE orders (
    number          INTEGER PRIMARY KEY,
    client_order_id TEXT NOT NULL UNIQUE,
    symbol          TEXT NOT NULL,
    side            TEXT NOT NULL,
    quantity        TEXT NOT NULL,
    type            TEXT NOT NULL,
    limit_price     TEXT,
    time_in_force   TEXT NOT NULL,
    status          TEXT NOT NULL,
    filled_quantity TEXT NOT NULL,
    filled_value    TEXT NOT NULL,
    commission      TEXT NOT NULL,
    submitted_at    TEXT NOT NULL,
    reason          TEXT NOT NULL
) STRICT;
CREATE INDEX orders_status ON orders (status, number);
CREATE TABLE positions (
    symbol   TEXT PRIMARY KEY,
    quantity TEXT NOT NULL,
    cost     TEXT NOT NULL
) STRICT;
CREATE TABLE marks (
    symbol  TEXT PRIMARY KEY,
    session TEXT NOT NULL,
    price   TEXT NOT NULL
) STRICT;
CREATE TABLE actions (
    execution_id TEXT PRIMARY KEY,
    session      TEXT NOT NULL
) STRICT;
CREATE TABLE sessions (
    session   TEXT PRIMARY KEY,
    digest    TEXT NOT NULL,
    first_seq INTEGER NOT NULL,
    last_seq  INTEGER NOT NULL
) STRICT;
CREATE TABLE account (
    id       INTEGER PRIMARY KEY CHECK (id = 1),
    currency TEXT NOT NULL,
    cash     TEXT NOT NULL,
    blocked  INTEGER NOT NULL
) STRICT;
