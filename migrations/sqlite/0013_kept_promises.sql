-- What was promised to be told is told, also after its job was deleted, and not without end to those who refuse it.

-- A call outlives its job. The job's trace stands here, too; null: see the job, or a call that an older version wrote.
-- SQLite cannot drop a reference, so the table is made again; its numbers go on, because receivers know calls by them.
CREATE TABLE calls (
    id           INTEGER PRIMARY KEY AUTOINCREMENT,
    job          TEXT    NOT NULL,
    url          TEXT    NOT NULL,
    payload      TEXT    NOT NULL,       -- JSON, the event
    attempts     INTEGER NOT NULL DEFAULT 0,
    available_at INTEGER NOT NULL,
    taken_until  INTEGER,                -- by a sender; null: never taken
    gave_up_at   INTEGER,
    last_error   TEXT,
    created_at   INTEGER NOT NULL,
    traceparent  TEXT,
    tracestate   TEXT
) STRICT;

INSERT INTO sqlite_sequence (name, seq) SELECT 'calls', seq FROM sqlite_sequence WHERE name = 'webhooks';
INSERT INTO calls (id, job, url, payload, attempts, available_at, taken_until, gave_up_at, last_error, created_at)
SELECT id, job, url, payload, attempts, available_at, taken_until, gave_up_at, last_error, created_at FROM webhooks;
DROP TABLE webhooks;
ALTER TABLE calls RENAME TO webhooks;
CREATE INDEX webhooks_due ON webhooks (available_at, id) WHERE gave_up_at IS NULL;
CREATE INDEX webhooks_by_job ON webhooks (job);

-- How often a queue of a listener has refused the event.
ALTER TABLE outbox ADD COLUMN refusals INTEGER NOT NULL DEFAULT 0;

-- The version of a worker; null: one that does not say it.
ALTER TABLE workers ADD COLUMN version TEXT;
