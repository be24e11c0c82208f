CREATE TABLE journal (
    seq            INTEGER PRIMARY KEY,
    at             TEXT NOT NULL,
    session        TEXT,
    kind           TEXT NOT NULL,
    version        INTEGER NOT NULL,
    subject        TEXT NOT NULL,
    actor          TEXT NOT NULL,
    correlation_id TEXT,
    body           TEXT NOT NULL,
    prev           TEXT NOT NULL,
    hash           TEXT NOT NULL
) STRICT;
CREATE INDEX journal_kind ON journal (kind, seq);
CREATE INDEX journal_subject ON journal (subject, seq);
CREATE TRIGGER journal_is_append_only_update BEFORE UPDATE ON journal
BEGIN SELECT RAISE(ABORT, 'the journal is append-only'); END;
CREATE TRIGGER journal_is_append_only_delete BEFORE DELETE ON journal
BEGIN SELECT RAISE(ABORT, 'the journal is append-only'); END;
CREATE TABLE projections (
    name    TEXT PRIMARY KEY,
    version INTEGER NOT NULL
) STRICT;
