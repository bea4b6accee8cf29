-- The ids of deleted jobs. A message of such a job may still be in a queue, and without a row it would look like a new
-- job. One row is about 120 bytes with its index; workers delete it after queue.remember_deleted_days.
CREATE TABLE tombstones (
    id         TEXT    PRIMARY KEY,
    deleted_at INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

CREATE INDEX tombstones_by_age ON tombstones (deleted_at);
