-- The order of the sources of a batch.

CREATE TABLE dataset_sources (
    batch    TEXT   COLLATE "C" NOT NULL,
    source   TEXT   COLLATE "C" NOT NULL,             -- as in dataset_rows
    position BIGINT NOT NULL,                         -- from 1, in the order of their first submission
    PRIMARY KEY (batch, source)
);

INSERT INTO dataset_sources (batch, source, position)
SELECT batch, source, ROW_NUMBER() OVER (PARTITION BY batch ORDER BY MIN(run), source)
  FROM dataset_rows GROUP BY batch, source;

-- The rows of one source in their order.
CREATE INDEX dataset_rows_in_source ON dataset_rows (batch, source, number, job);
