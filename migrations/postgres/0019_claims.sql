-- A fence that does not repeat; see src/database/fence.rs.
--
-- Two tables are locked, one after the other; see 0007_traces.sql.
SELECT set_config('lock_timeout', '500ms', true);

-- The id of the last claim; null: none yet. Older versions leave that of an earlier claim, at an epoch of their own.
ALTER TABLE jobs ADD COLUMN claim TEXT COLLATE "C";

-- The last epoch of the deleted job, after which another job with this id goes on; 0: an older version deleted it.
ALTER TABLE tombstones ADD COLUMN epoch BIGINT NOT NULL DEFAULT 0;
