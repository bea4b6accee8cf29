-- The same row number of two sources of a batch may be the same job.
CREATE TABLE dataset_rows_by_source (
    batch  TEXT    NOT NULL,
    number INTEGER NOT NULL,               -- from 1
    job    TEXT    NOT NULL REFERENCES jobs (id) ON DELETE CASCADE,
    source TEXT    NOT NULL,               -- a digest of its address; empty for rows of earlier versions
    run    INTEGER NOT NULL,               -- of the submission; a later one replaces the rows of its jobs that moved
    meta   TEXT,                           -- JSON, an object
    PRIMARY KEY (batch, number, job, source)
) STRICT, WITHOUT ROWID;

INSERT INTO dataset_rows_by_source (batch, number, job, source, run, meta)
SELECT batch, number, job, '', run, meta FROM dataset_rows;
DROP TABLE dataset_rows;
ALTER TABLE dataset_rows_by_source RENAME TO dataset_rows;
CREATE INDEX dataset_rows_by_job ON dataset_rows (job);
