-- For datasets: jobs that a user of this machine submitted, and the rows that a batch was made of.

-- The job was submitted on the worker's machine by a user who may read its files. Only with SQLite; see worker/mod.rs.
ALTER TABLE jobs ADD COLUMN local BOOLEAN NOT NULL DEFAULT FALSE;

-- The rows of a batch's dataset, with the columns that are carried through to the results. Two rows with the same
-- content are one job.
CREATE TABLE dataset_rows (
    batch  TEXT   COLLATE "C" NOT NULL,
    number BIGINT NOT NULL,                           -- from 1
    job    TEXT   COLLATE "C" NOT NULL REFERENCES jobs (id) ON DELETE CASCADE,
    run    BIGINT NOT NULL,                           -- of the submission; a later one replaces the rows of its jobs
    meta   TEXT,                                      -- JSON, an object
    PRIMARY KEY (batch, number, job)
);

CREATE INDEX dataset_rows_by_job ON dataset_rows (job);
