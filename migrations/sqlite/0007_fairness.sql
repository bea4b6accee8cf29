-- Which queued jobs are dispatched, and when; src/database/dispatch.rs explains it.

ALTER TABLE jobs ADD COLUMN tenant TEXT;              -- the label `tenant`; null: none, or a row of an older version

-- A dispatch stays in the outbox while its message waits in the broker, until a worker starts the job. Its taken_until is
-- then so late that relays of older versions leave it alone.
ALTER TABLE outbox ADD COLUMN sent_at INTEGER;        -- when its message was confirmed
ALTER TABLE outbox ADD COLUMN tenant TEXT NOT NULL DEFAULT '';
ALTER TABLE outbox ADD COLUMN batch TEXT NOT NULL DEFAULT '';

CREATE INDEX outbox_waiting ON outbox (kind, priority, tenant, batch, available_at, id)
 WHERE topic = 'dispatch' AND taken_until IS NULL;
CREATE INDEX outbox_dispatched ON outbox (job) WHERE topic = 'dispatch' AND taken_until IS NOT NULL;
CREATE INDEX outbox_events ON outbox (available_at, id) WHERE topic <> 'dispatch';
-- Without a broker, the rows themselves are the queue.
CREATE INDEX jobs_waiting ON jobs (priority, IFNULL(tenant, ''), IFNULL(batch, ''), available_at, id, kind)
 WHERE state = 'queued';

-- What is not dispatched and not claimed until it is resumed.
CREATE TABLE pauses (
    scope     TEXT    NOT NULL CHECK (scope IN ('all', 'kind', 'batch')),
    name      TEXT    NOT NULL,                       -- empty for all
    paused_at INTEGER NOT NULL,
    PRIMARY KEY (scope, name)
) STRICT, WITHOUT ROWID;

-- Live workers, whose slots decide how many jobs are dispatched ahead.
CREATE TABLE workers (
    name    TEXT    PRIMARY KEY,
    slots   INTEGER NOT NULL,
    seen_at INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
