-- Batches, the address of results, and what leaves through the outbox.

ALTER TABLE jobs ADD COLUMN batch TEXT;                              -- submitted together
ALTER TABLE jobs ADD COLUMN result_root TEXT;                        -- address that the manifest's key is under; null: the store's
ALTER TABLE jobs ADD COLUMN started_at INTEGER;                      -- of the last attempt
ALTER TABLE jobs ADD COLUMN quiet_until INTEGER NOT NULL DEFAULT 0;  -- the reaper looks at it no earlier

CREATE INDEX jobs_by_state ON jobs (state, created_at DESC, id DESC);
CREATE INDEX jobs_by_kind ON jobs (kind, created_at DESC, id DESC);
CREATE INDEX jobs_by_batch ON jobs (batch, created_at DESC, id DESC) WHERE batch IS NOT NULL;
CREATE INDEX jobs_queued ON jobs (priority DESC, available_at, id, kind) WHERE state = 'queued';
CREATE INDEX jobs_quiet ON jobs (quiet_until) WHERE state = 'queued';
CREATE INDEX jobs_running ON jobs (lease_until) WHERE state = 'running';

-- Messages that must be sent because a row has changed, written with that change.
CREATE TABLE outbox (
    id           INTEGER PRIMARY KEY AUTOINCREMENT,
    job          TEXT    NOT NULL,
    topic        TEXT    NOT NULL CHECK (topic IN ('dispatch', 'job.succeeded', 'job.failed', 'job.cancelled')),
    kind         TEXT    NOT NULL,
    priority     INTEGER NOT NULL,
    payload      TEXT,                   -- JSON; a dispatch's is the job's request
    available_at INTEGER NOT NULL,
    taken_until  INTEGER,                -- by a relay; null: never taken
    created_at   INTEGER NOT NULL,
    CHECK (payload IS NOT NULL OR topic = 'dispatch')
) STRICT;

CREATE INDEX outbox_due ON outbox (available_at, id);
-- One that a relay has in its hands may have been sent already, so it does not stand in the way of another.
CREATE UNIQUE INDEX outbox_one_dispatch ON outbox (job) WHERE topic = 'dispatch' AND taken_until IS NULL;

-- Messages that could be read as far as their id.
CREATE TABLE rejections (
    id          TEXT    PRIMARY KEY,
    received_at INTEGER NOT NULL,
    error       TEXT    NOT NULL,        -- JSON
    body        TEXT    NOT NULL         -- its first 64 KiB
) STRICT, WITHOUT ROWID;
