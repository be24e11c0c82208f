CREATE TABLE events (
    seq             INTEGER PRIMARY KEY,
    execution_id    TEXT NOT NULL UNIQUE,
    broker_order_id TEXT NOT NULL,
    body            TEXT NOT NULL
) STRICT;
CREATE INDEX events_by_order ON events (broker_order_id, seq);
CREATE TABLE orders (
    broker_order_id TEXT PRIMARY KEY,
    client_order_id TEXT NOT NULL,
    submitted_at    TEXT NOT NULL,
    status          TEXT NOT NULL,
    body            TEXT NOT NULL
) STRICT;
CREATE INDEX orders_by_client ON orders (client_order_id);
CREATE TABLE notes (
    name  TEXT PRIMARY KEY,
    value TEXT NOT NULL
) STRICT;
