-- Times are milliseconds since 1970, UTC, of this server's clock. JSON stands as text: jsonb would refuse \u0000 and
-- change the bytes of a request that was accepted. Ids compare by bytes, as in SQLite.

CREATE FUNCTION acetate_now() RETURNS BIGINT LANGUAGE SQL STABLE PARALLEL SAFE
    AS 'SELECT (EXTRACT(EPOCH FROM statement_timestamp()) * 1000)::BIGINT';

CREATE TABLE jobs (
    id                TEXT    COLLATE "C" PRIMARY KEY,
    fingerprint       TEXT    COLLATE "C" NOT NULL, -- SHA-256 of the request without its id
    kind              TEXT    COLLATE "C" NOT NULL,
    request           TEXT    NOT NULL,             -- the message, JSON
    priority          BIGINT  NOT NULL,
    batch             TEXT    COLLATE "C",          -- submitted together
    state             TEXT    COLLATE "C" NOT NULL
                      CHECK (state IN ('queued', 'running', 'succeeded', 'failed', 'cancelled')),
    attempts          BIGINT  NOT NULL DEFAULT 0,
    epoch             BIGINT  NOT NULL DEFAULT 0,   -- raised by every claim; fences every later write
    worker            TEXT,                         -- who holds the lease
    lease_until       BIGINT,
    available_at      BIGINT  NOT NULL,             -- not before this time
    quiet_until       BIGINT  NOT NULL,             -- the reaper looks at it no earlier
    cancel_requested  BOOLEAN NOT NULL DEFAULT FALSE,
    progress_sequence BIGINT  NOT NULL DEFAULT 0,   -- only grows, over all attempts
    progress          TEXT,                         -- JSON
    error             TEXT,                         -- JSON: the last attempt's, or the final one
    manifest          TEXT,                         -- object key
    result_root       TEXT,                         -- address that the key is under; null: the store's
    outputs           TEXT,                         -- JSON: the manifest's files
    created_at        BIGINT  NOT NULL,
    started_at        BIGINT,                       -- of the last attempt
    updated_at        BIGINT  NOT NULL,
    finished_at       BIGINT
) WITH (fillfactor = 80);

CREATE INDEX jobs_by_age ON jobs (created_at DESC, id DESC);
CREATE INDEX jobs_by_state ON jobs (state, created_at DESC, id DESC);
CREATE INDEX jobs_by_kind ON jobs (kind, created_at DESC, id DESC);
CREATE INDEX jobs_by_batch ON jobs (batch, created_at DESC, id DESC) WHERE batch IS NOT NULL;
CREATE INDEX jobs_unfinished ON jobs (fingerprint) WHERE state IN ('queued', 'running');
CREATE INDEX jobs_queued ON jobs (priority DESC, available_at, id) INCLUDE (kind) WHERE state = 'queued';
CREATE INDEX jobs_quiet ON jobs (quiet_until) WHERE state = 'queued';
CREATE INDEX jobs_running ON jobs (lease_until) WHERE state = 'running';

CREATE TABLE attempts (
    job        TEXT   COLLATE "C" NOT NULL REFERENCES jobs (id) ON DELETE CASCADE,
    epoch      BIGINT NOT NULL,
    attempt    BIGINT NOT NULL,
    worker     TEXT   NOT NULL,
    started_at BIGINT NOT NULL,
    ended_at   BIGINT,
    outcome    TEXT,                                -- succeeded, failed, requeued, given_back, cancelled, lost
    error      TEXT,                                -- JSON
    PRIMARY KEY (job, epoch)
);

-- Messages that must be sent because a row has changed, written with that change.
CREATE TABLE outbox (
    id           BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    job          TEXT   COLLATE "C" NOT NULL,
    topic        TEXT   COLLATE "C" NOT NULL
                 CHECK (topic IN ('dispatch', 'job.succeeded', 'job.failed', 'job.cancelled')),
    kind         TEXT   COLLATE "C" NOT NULL,
    priority     BIGINT NOT NULL,
    payload      TEXT,                              -- JSON; a dispatch's is the job's request
    available_at BIGINT NOT NULL,
    taken_until  BIGINT,                            -- by a relay; null: never taken
    created_at   BIGINT NOT NULL,
    CHECK (payload IS NOT NULL OR topic = 'dispatch')
) WITH (autovacuum_vacuum_scale_factor = 0.0, autovacuum_vacuum_threshold = 2000);

CREATE INDEX outbox_due ON outbox (available_at, id);
-- One that a relay has in its hands may have been sent already, so it does not stand in the way of another.
CREATE UNIQUE INDEX outbox_one_dispatch ON outbox (job) WHERE topic = 'dispatch' AND taken_until IS NULL;

-- Messages that could be read as far as their id.
CREATE TABLE rejections (
    id          TEXT   COLLATE "C" PRIMARY KEY,
    received_at BIGINT NOT NULL,
    error       TEXT   NOT NULL,                    -- JSON
    body        TEXT   NOT NULL                     -- its first 64 KiB
);
