-- A fence that does not repeat; see src/database/fence.rs.

-- The id of the last claim; null: none yet.
ALTER TABLE jobs ADD COLUMN claim TEXT;

-- The last epoch of the deleted job, after which another job with this id goes on; 0: an older version deleted it.
ALTER TABLE tombstones ADD COLUMN epoch INTEGER NOT NULL DEFAULT 0;
