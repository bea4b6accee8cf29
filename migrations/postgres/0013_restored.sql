-- Notices that this database was restored from a backup; see src/worker/restored.rs.

-- One row: a random name of this database, and until when it is known to have been in use, by this server's clock. The
-- store remembers the same, or an earlier time.
CREATE TABLE lineage (
    name     TEXT   COLLATE "C" PRIMARY KEY,
    alive_at BIGINT NOT NULL
);
INSERT INTO lineage (name, alive_at) VALUES (gen_random_uuid()::TEXT, acetate_now());

-- Why it is paused, in words; null: a person knows.
ALTER TABLE pauses ADD COLUMN reason TEXT;
