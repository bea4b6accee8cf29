-- Who did what, written together with the change. Entries outlive the jobs that they are about; workers delete them after
-- audit.keep_days. An action on many jobs is one entry.
CREATE TABLE actions (
    id        INTEGER PRIMARY KEY AUTOINCREMENT,
    operation TEXT    NOT NULL UNIQUE,   -- a command or request may take several transactions
    at        INTEGER NOT NULL,
    actor     TEXT    NOT NULL,          -- a token's name, or cli:USER@HOST
    address   TEXT,                      -- of the client, over HTTP
    action    TEXT    NOT NULL,          -- submitted, cancelled, retried, deleted, pruned, ...
    job       TEXT,                      -- null: many jobs, or none
    batch     TEXT,
    jobs      INTEGER NOT NULL,          -- how many
    detail    TEXT                       -- JSON
) STRICT;

CREATE INDEX actions_by_age ON actions (at, id);
CREATE INDEX actions_by_job ON actions (job, id) WHERE job IS NOT NULL;
CREATE INDEX actions_by_batch ON actions (batch, id) WHERE batch IS NOT NULL;
CREATE INDEX actions_by_actor ON actions (actor, at);
