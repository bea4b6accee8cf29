-- The same row number of two sources of a batch may be the same job. `source`: a digest of its address; empty for rows
-- of earlier versions.
ALTER TABLE dataset_rows ADD COLUMN source TEXT COLLATE "C" NOT NULL DEFAULT '';
ALTER TABLE dataset_rows DROP CONSTRAINT dataset_rows_pkey;
ALTER TABLE dataset_rows ADD PRIMARY KEY (batch, number, job, source);
