-- For the API: words to find jobs by, and who is told of a job's end.

ALTER TABLE jobs ADD COLUMN search TEXT;   -- lower case, see src/database/search.rs; null: of an older version
ALTER TABLE jobs ADD COLUMN webhook TEXT;  -- address that is told when the job ends

-- Calls that must be made because a job has ended, written with that change.
CREATE TABLE webhooks (
    id           INTEGER PRIMARY KEY AUTOINCREMENT,
    job          TEXT    NOT NULL REFERENCES jobs (id) ON DELETE CASCADE,
    url          TEXT    NOT NULL,
    payload      TEXT    NOT NULL,       -- JSON, the event
    attempts     INTEGER NOT NULL DEFAULT 0,
    available_at INTEGER NOT NULL,
    taken_until  INTEGER,                -- by a sender; null: never taken
    gave_up_at   INTEGER,
    last_error   TEXT,
    created_at   INTEGER NOT NULL
) STRICT;

CREATE INDEX webhooks_due ON webhooks (available_at, id) WHERE gave_up_at IS NULL;
CREATE INDEX webhooks_by_job ON webhooks (job);
