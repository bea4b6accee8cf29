-- For the API: words to find jobs by, and who is told of a job's end.

ALTER TABLE jobs ADD COLUMN search TEXT;              -- lower case, see src/database/search.rs; null: of an older version
ALTER TABLE jobs ADD COLUMN webhook TEXT;             -- address that is told when the job ends

-- Calls that must be made because a job has ended, written with that change.
CREATE TABLE webhooks (
    id           BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    job          TEXT   COLLATE "C" NOT NULL REFERENCES jobs (id) ON DELETE CASCADE,
    url          TEXT   NOT NULL,
    payload      TEXT   NOT NULL,                     -- JSON, the event
    attempts     BIGINT NOT NULL DEFAULT 0,
    available_at BIGINT NOT NULL,
    taken_until  BIGINT,                              -- by a sender; null: never taken
    gave_up_at   BIGINT,
    last_error   TEXT,
    created_at   BIGINT NOT NULL
);

CREATE INDEX webhooks_due ON webhooks (available_at, id) WHERE gave_up_at IS NULL;
CREATE INDEX webhooks_by_job ON webhooks (job);
