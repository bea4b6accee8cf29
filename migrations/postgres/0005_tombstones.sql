-- The ids of deleted jobs. A message of such a job may still be in a queue, and without a row it would look like a new
-- job. One row is about 120 bytes with its indexes; workers delete it after queue.remember_deleted_days.
CREATE TABLE tombstones (
    id         TEXT   COLLATE "C" PRIMARY KEY,
    deleted_at BIGINT NOT NULL
);

CREATE INDEX tombstones_by_age ON tombstones (deleted_at);
