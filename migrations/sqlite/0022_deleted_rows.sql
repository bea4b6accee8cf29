-- Rows of datasets whose jobs were deleted, so that results can count them.

ALTER TABLE tombstones ADD COLUMN batch TEXT;
ALTER TABLE tombstones ADD COLUMN row_count INTEGER NOT NULL DEFAULT 0;  -- of the batch's datasets

CREATE INDEX tombstones_of_rows ON tombstones (batch) WHERE row_count > 0;
