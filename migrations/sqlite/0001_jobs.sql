-- Times are milliseconds since 1970, UTC. JSON columns hold what job/*.rs writes.

CREATE TABLE jobs (
    id                TEXT    PRIMARY KEY,
    fingerprint       TEXT    NOT NULL,             -- SHA-256 of the request without its id
    kind              TEXT    NOT NULL,
    request           TEXT    NOT NULL,             -- the message, JSON
    priority          INTEGER NOT NULL,
    state             TEXT    NOT NULL CHECK (state IN ('queued', 'running', 'succeeded', 'failed', 'cancelled')),
    attempts          INTEGER NOT NULL DEFAULT 0,
    epoch             INTEGER NOT NULL DEFAULT 0,   -- raised by every claim; fences every later write
    worker            TEXT,                         -- who holds the lease
    lease_until       INTEGER,
    available_at      INTEGER NOT NULL,             -- not before this time
    cancel_requested  INTEGER NOT NULL DEFAULT 0,
    progress_sequence INTEGER NOT NULL DEFAULT 0,   -- only grows, over all attempts
    progress          TEXT,                         -- JSON
    error             TEXT,                         -- JSON: the last attempt's, or the final one
    manifest          TEXT,                         -- object key
    outputs           TEXT,                         -- JSON: the manifest's files
    created_at        INTEGER NOT NULL,
    updated_at        INTEGER NOT NULL,
    finished_at       INTEGER
) STRICT;

CREATE INDEX jobs_by_age ON jobs (created_at DESC, id DESC);
CREATE INDEX jobs_unfinished ON jobs (fingerprint) WHERE state IN ('queued', 'running');

CREATE TABLE attempts (
    job        TEXT    NOT NULL REFERENCES jobs (id) ON DELETE CASCADE,
    epoch      INTEGER NOT NULL,
    attempt    INTEGER NOT NULL,
    worker     TEXT    NOT NULL,
    started_at INTEGER NOT NULL,
    ended_at   INTEGER,
    outcome    TEXT,                                -- succeeded, failed, requeued, cancelled, lost
    error      TEXT,                                -- JSON
    PRIMARY KEY (job, epoch)
) STRICT, WITHOUT ROWID;
