-- The cancellation of a batch that cancelled the job, or asked its worker to stop, so that it can be taken back.
ALTER TABLE jobs ADD COLUMN cancel_id TEXT;
