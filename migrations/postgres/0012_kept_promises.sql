-- What was promised to be told is told, also after its job was deleted, and not without end to those who refuse it.
--
-- Several tables are locked, one after the other; see 0007_traces.sql.
SELECT set_config('lock_timeout', '500ms', true);

-- A call outlives its job. The job's trace stands here, too; null: see the job, or a call that an older version wrote.
ALTER TABLE webhooks DROP CONSTRAINT IF EXISTS webhooks_job_fkey;
ALTER TABLE webhooks ADD COLUMN traceparent TEXT;
ALTER TABLE webhooks ADD COLUMN tracestate TEXT;

-- How often a queue of a listener has refused the event.
ALTER TABLE outbox ADD COLUMN refusals BIGINT NOT NULL DEFAULT 0;

-- The version of a worker; null: one that does not say it.
ALTER TABLE workers ADD COLUMN version TEXT;
