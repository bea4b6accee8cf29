-- Jobs that may take the result of an equal one; see src/worker/reuse.rs.

-- Whether it may take one.
ALTER TABLE jobs ADD COLUMN reuse INTEGER NOT NULL DEFAULT 0;
-- A hash of everything that the pictures of its result depend on; null: not known, or no result.
ALTER TABLE jobs ADD COLUMN content_key TEXT;
-- The job whose result it took.
ALTER TABLE jobs ADD COLUMN reused_from TEXT;

CREATE INDEX jobs_content_key ON jobs (content_key) WHERE content_key IS NOT NULL;
