-- Who did what, written together with the change. Entries outlive the jobs that they are about; workers delete them after
-- audit.keep_days. An action on many jobs is one entry.
CREATE TABLE actions (
    id        BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    operation TEXT   COLLATE "C" NOT NULL UNIQUE,   -- a command or request may take several transactions
    at        BIGINT NOT NULL,
    actor     TEXT   COLLATE "C" NOT NULL,          -- a token's name, or cli:USER@HOST
    address   TEXT,                                 -- of the client, over HTTP
    action    TEXT   COLLATE "C" NOT NULL,          -- submitted, cancelled, retried, deleted, pruned, ...
    job       TEXT   COLLATE "C",                   -- null: many jobs, or none
    batch     TEXT   COLLATE "C",
    jobs      BIGINT NOT NULL,                      -- how many
    detail    TEXT                                  -- JSON
);

CREATE INDEX actions_by_age ON actions (at, id);
CREATE INDEX actions_by_job ON actions (job, id) WHERE job IS NOT NULL;
CREATE INDEX actions_by_batch ON actions (batch, id) WHERE batch IS NOT NULL;
CREATE INDEX actions_by_actor ON actions (actor, at);
