-- Finds the messages of a job. The partial indexes cannot be relied on for that: before statistics are gathered, the planner
-- takes each of them for almost empty and reads all of one for every job. See src/database/postgres/mod.rs.
CREATE INDEX outbox_by_job ON outbox (job);
