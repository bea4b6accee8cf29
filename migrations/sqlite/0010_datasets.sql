-- For datasets: jobs that a user of this machine submitted, and the rows that a batch was made of.

-- The job was submitted on the worker's machine by a user who may read its files; see worker/mod.rs.
ALTER TABLE jobs ADD COLUMN local INTEGER NOT NULL DEFAULT 0;

-- The rows of a batch's dataset, with the columns that are carried through to the results. Two rows with the same
-- content are one job.
CREATE TABLE dataset_rows (
    batch  TEXT    NOT NULL,
    number INTEGER NOT NULL,               -- from 1
    job    TEXT    NOT NULL REFERENCES jobs (id) ON DELETE CASCADE,
    run    INTEGER NOT NULL,               -- of the submission; a later one replaces the rows of its jobs
    meta   TEXT,                           -- JSON, an object
    PRIMARY KEY (batch, number, job)
) STRICT, WITHOUT ROWID;

CREATE INDEX dataset_rows_by_job ON dataset_rows (job);
