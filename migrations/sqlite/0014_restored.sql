-- Notices that this database was restored from a backup; see src/worker/restored.rs.

-- One row: a random name of this database, and until when it is known to have been in use. The store remembers the same,
-- or an earlier time.
CREATE TABLE lineage (
    name     TEXT    PRIMARY KEY,
    alive_at INTEGER NOT NULL
) STRICT;
INSERT INTO lineage (name, alive_at) VALUES (lower(hex(randomblob(16))), unixepoch() * 1000);

-- Why it is paused, in words; null: a person knows.
ALTER TABLE pauses ADD COLUMN reason TEXT;
