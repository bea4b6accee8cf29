-- Listings with two filters, also where few rows or none match both.
CREATE INDEX jobs_by_kind_and_state ON jobs (kind, state, created_at DESC, id DESC);
CREATE INDEX jobs_by_batch_and_state ON jobs (batch, state, created_at DESC, id DESC) WHERE batch IS NOT NULL;
