-- Which queued jobs are dispatched, and when; src/database/dispatch.rs explains it.

ALTER TABLE jobs ADD COLUMN tenant TEXT COLLATE "C";  -- the label `tenant`; null: none, or a row of an older version

-- A dispatch stays in the outbox while its message waits in the broker, until a worker starts the job. Its taken_until is
-- then so late that relays of older versions leave it alone.
ALTER TABLE outbox ADD COLUMN sent_at BIGINT;         -- when its message was confirmed
ALTER TABLE outbox ADD COLUMN tenant TEXT COLLATE "C" NOT NULL DEFAULT '';
ALTER TABLE outbox ADD COLUMN batch TEXT COLLATE "C" NOT NULL DEFAULT '';

CREATE INDEX outbox_waiting ON outbox (kind, priority, tenant, batch, available_at, id) WHERE topic = 'dispatch' AND taken_until IS NULL;
CREATE INDEX outbox_dispatched ON outbox (job) WHERE topic = 'dispatch' AND taken_until IS NOT NULL;
CREATE INDEX outbox_events ON outbox (available_at, id) WHERE topic <> 'dispatch';

-- What is not dispatched and not claimed until it is resumed.
CREATE TABLE pauses (
    scope     TEXT   COLLATE "C" NOT NULL CHECK (scope IN ('all', 'kind', 'batch')),
    name      TEXT   COLLATE "C" NOT NULL,            -- empty for all
    paused_at BIGINT NOT NULL,
    PRIMARY KEY (scope, name)
);

-- Live workers, whose slots decide how many jobs are dispatched ahead.
CREATE TABLE workers (
    name    TEXT   COLLATE "C" PRIMARY KEY,
    slots   BIGINT NOT NULL,
    seen_at BIGINT NOT NULL
);

-- Whether a tenant may start one more job. The lock makes claims of one tenant take turns until they are committed, and a
-- statement of this function sees what was committed before.
CREATE OR REPLACE FUNCTION acetate_tenant_has_room(p_tenant TEXT, p_most BIGINT) RETURNS BOOLEAN LANGUAGE plpgsql VOLATILE AS $$
BEGIN
    IF p_most <= 0 THEN
        RETURN TRUE;
    END IF;
    PERFORM pg_advisory_xact_lock(hashtextextended(format('acetate tenant %s %s', current_schema(), p_tenant), 0));
    RETURN p_most > (SELECT COUNT(*) FROM jobs WHERE state = 'running' AND tenant = p_tenant AND lease_until > acetate_now());
END $$;

-- Takes the next dispatches for a relay: as many as the window of each kind has room for. p_window 0: two for each slot
-- of the live workers. p_each limits the jobs of each tenant, p_limits those of the tenants in p_names; 0: no limit.
CREATE OR REPLACE FUNCTION acetate_dispatch(p_kinds TEXT[], p_most BIGINT, p_lease BIGINT, p_window BIGINT, p_each BIGINT, p_names TEXT[], p_limits BIGINT[])
RETURNS TABLE (message BIGINT, id TEXT, job TEXT, topic TEXT, kind TEXT, priority BIGINT, available_at BIGINT, created_at BIGINT, payload TEXT)
LANGUAGE plpgsql VOLATILE SET plan_cache_mode = force_custom_plan SET enable_seqscan = off SET jit = off AS $$
#variable_conflict use_column
DECLARE
    v_now   BIGINT := (EXTRACT(EPOCH FROM clock_timestamp()) * 1000)::BIGINT;
    v_size  BIGINT := p_window;
    v_least BIGINT;
    v_room  BIGINT;
    v_left  BIGINT := p_most;
    v_taken BIGINT;
    v_kind  TEXT;
    v_kinds TEXT[] := '{}';
    v_stale BOOLEAN;
    v_late  BOOLEAN;
    v_first RECORD;
    v_last  RECORD;
BEGIN
    IF v_size <= 0 THEN
        SELECT COALESCE(2 * SUM(slots), 16) INTO v_size FROM workers WHERE seen_at > v_now - 30000;
    END IF;
    -- Refilled by a quarter at a time, so that fast jobs do not cost a round of their own each.
    v_least := (LEAST(v_size, 1000) + 3) / 4;
    -- The usual case: there is nothing to do, which needs no lock.
    FOREACH v_kind IN ARRAY p_kinds LOOP
        CONTINUE WHEN NOT EXISTS (SELECT 1 FROM outbox WHERE topic = 'dispatch' AND taken_until IS NULL AND kind = v_kind);
        CONTINUE WHEN EXISTS (SELECT 1 FROM pauses WHERE scope = 'all' OR (scope = 'kind' AND name = v_kind));
        SELECT v_size - COUNT(*) INTO v_room FROM outbox AS sent
         WHERE topic = 'dispatch' AND taken_until > v_now AND kind = v_kind
           AND (SELECT jobs.state = 'queued' OR (jobs.state = 'running' AND jobs.lease_until <= v_now) FROM jobs WHERE jobs.id = sent.job);
        IF v_room >= v_least THEN
            v_kinds := v_kinds || v_kind;
        END IF;
    END LOOP;
    v_late := EXISTS (SELECT 1 FROM outbox WHERE topic = 'dispatch' AND taken_until <= v_now);
    IF v_kinds = '{}' AND NOT v_late THEN
        RETURN;
    END IF;
    v_stale := EXISTS (SELECT 1 FROM outbox AS sent
         WHERE topic = 'dispatch' AND taken_until > v_now
           AND (SELECT jobs.state = 'queued' OR (jobs.state = 'running' AND jobs.lease_until <= v_now) FROM jobs WHERE jobs.id = sent.job) IS NOT TRUE);

    -- One relay at a time, and each sees what the one before it has taken.
    PERFORM pg_advisory_xact_lock(hashtextextended(format('acetate dispatch %s', current_schema()), 0));
    v_now := (EXTRACT(EPOCH FROM clock_timestamp()) * 1000)::BIGINT;

    IF v_stale THEN
        -- Messages of jobs that were started or have ended, also by workers of older versions.
        DELETE FROM outbox WHERE id = ANY(ARRAY(
            SELECT sent.id FROM outbox AS sent
             WHERE topic = 'dispatch' AND taken_until > v_now
               AND (SELECT jobs.state = 'queued' OR (jobs.state = 'running' AND jobs.lease_until <= v_now) FROM jobs WHERE jobs.id = sent.job) IS NOT TRUE
               FOR UPDATE SKIP LOCKED));
    END IF;
    IF v_late THEN
        -- What a relay took and neither sent nor gave back waits again, once for each job.
        DELETE FROM outbox WHERE id = ANY(ARRAY(
            SELECT late.id FROM outbox AS late
             WHERE topic = 'dispatch' AND taken_until <= v_now
               AND (EXISTS (SELECT 1 FROM outbox AS other WHERE other.job = late.job AND other.topic = 'dispatch' AND other.taken_until IS NULL)
                 OR EXISTS (SELECT 1 FROM outbox AS other WHERE other.job = late.job AND other.topic = 'dispatch' AND other.taken_until IS NOT NULL AND other.id > late.id))
               FOR UPDATE SKIP LOCKED));
        UPDATE outbox SET taken_until = NULL, sent_at = NULL WHERE id = ANY(ARRAY(
            SELECT late.id FROM outbox AS late WHERE topic = 'dispatch' AND taken_until <= v_now FOR UPDATE SKIP LOCKED));
    END IF;

    FOREACH v_kind IN ARRAY p_kinds LOOP
        CONTINUE WHEN v_left <= 0;
        CONTINUE WHEN EXISTS (SELECT 1 FROM pauses WHERE scope = 'all' OR (scope = 'kind' AND name = v_kind));
        SELECT LEAST(v_left, v_size - COUNT(*)) INTO v_room FROM outbox WHERE topic = 'dispatch' AND taken_until > v_now AND kind = v_kind;
        CONTINUE WHEN v_room < LEAST(v_least, v_left);
        SELECT priority, tenant, batch INTO v_first FROM outbox WHERE topic = 'dispatch' AND taken_until IS NULL AND kind = v_kind
         ORDER BY priority DESC, tenant DESC, batch DESC LIMIT 1;
        CONTINUE WHEN NOT FOUND;
        SELECT priority, tenant, batch INTO v_last FROM outbox WHERE topic = 'dispatch' AND taken_until IS NULL AND kind = v_kind
         ORDER BY priority, tenant, batch LIMIT 1;
        IF v_first = v_last AND v_first.tenant = '' THEN
            -- One batch, or single jobs: nobody to take turns with.
            CONTINUE WHEN EXISTS (SELECT 1 FROM pauses WHERE scope = 'batch' AND name = v_first.batch);
            RETURN QUERY
            WITH held AS (
                SELECT waiting.id FROM outbox AS waiting
                 WHERE topic = 'dispatch' AND taken_until IS NULL AND kind = v_kind AND waiting.priority = v_first.priority
                   AND waiting.tenant = v_first.tenant AND waiting.batch = v_first.batch AND waiting.available_at <= v_now
                 ORDER BY waiting.available_at, waiting.id LIMIT v_room FOR UPDATE SKIP LOCKED),
            taken AS (
                UPDATE outbox SET taken_until = v_now + p_lease WHERE outbox.id = ANY(ARRAY(SELECT held.id FROM held)) RETURNING outbox.*)
            SELECT taken.id, taken.job, taken.job, taken.topic, taken.kind, taken.priority, taken.available_at, taken.created_at,
                   COALESCE(taken.payload, (SELECT jobs.request FROM jobs WHERE jobs.id = taken.job))
              FROM taken ORDER BY taken.available_at, taken.id;
            GET DIAGNOSTICS v_taken = ROW_COUNT;
            v_left := v_left - v_taken;
            CONTINUE;
        END IF;
        RETURN QUERY
        WITH RECURSIVE shares AS (
            (SELECT priority, tenant, batch FROM outbox
              WHERE topic = 'dispatch' AND taken_until IS NULL AND kind = v_kind
              ORDER BY priority DESC, tenant DESC, batch DESC LIMIT 1)
            UNION ALL
            SELECT further.priority, further.tenant, further.batch FROM shares CROSS JOIN LATERAL (
                SELECT priority, tenant, batch FROM outbox
                 WHERE topic = 'dispatch' AND taken_until IS NULL AND kind = v_kind
                   AND (priority, tenant, batch) < (shares.priority, shares.tenant, shares.batch)
                 ORDER BY priority DESC, tenant DESC, batch DESC LIMIT 1) AS further),
        active AS (
            SELECT COALESCE(tenant, '') AS tenant, COALESCE(batch, '') AS batch, kind FROM jobs WHERE state = 'running' AND lease_until > v_now
            UNION ALL
            SELECT tenant, batch, kind FROM outbox WHERE topic = 'dispatch' AND taken_until > v_now),
        busy AS (SELECT tenant, batch, COUNT(*) AS jobs FROM active WHERE kind = v_kind GROUP BY 1, 2),
        tenants AS (SELECT tenant, COUNT(*) AS jobs FROM active GROUP BY 1),
        heads AS (
            SELECT head.id, head.available_at, shares.priority, shares.tenant,
                   COALESCE(busy.jobs, 0) + ROW_NUMBER() OVER (
                       PARTITION BY shares.priority, shares.tenant, shares.batch ORDER BY head.available_at, head.id) AS turn
              FROM shares
              LEFT JOIN busy ON busy.tenant = shares.tenant AND busy.batch = shares.batch
             CROSS JOIN LATERAL (
                SELECT waiting.id, waiting.available_at FROM outbox AS waiting
                 WHERE topic = 'dispatch' AND taken_until IS NULL AND kind = v_kind AND waiting.priority = shares.priority
                   AND waiting.tenant = shares.tenant AND waiting.batch = shares.batch AND waiting.available_at <= v_now
                 ORDER BY waiting.available_at, waiting.id LIMIT v_room) AS head
             WHERE NOT EXISTS (SELECT 1 FROM pauses WHERE scope = 'batch' AND name = shares.batch)),
        limited AS (
            SELECT heads.*, COALESCE(tenants.jobs, 0) + ROW_NUMBER() OVER (
                       PARTITION BY heads.tenant ORDER BY heads.priority DESC, turn, heads.available_at, heads.id) AS nth,
                   CASE heads.tenant WHEN '' THEN 0 ELSE COALESCE(
                       (SELECT own.most FROM UNNEST(p_names, p_limits) AS own (name, most) WHERE own.name = heads.tenant), p_each) END AS most
              FROM heads LEFT JOIN tenants ON tenants.tenant = heads.tenant),
        chosen AS (
            SELECT limited.id, limited.priority, turn, limited.available_at FROM limited WHERE most = 0 OR nth <= most
             ORDER BY limited.priority DESC, turn, limited.available_at, limited.id LIMIT v_room),
        held AS (
            SELECT waiting.id FROM outbox AS waiting
             WHERE waiting.id = ANY(ARRAY(SELECT chosen.id FROM chosen)) AND taken_until IS NULL FOR UPDATE SKIP LOCKED),
        taken AS (
            UPDATE outbox SET taken_until = v_now + p_lease WHERE outbox.id = ANY(ARRAY(SELECT held.id FROM held)) RETURNING outbox.*)
        SELECT taken.id, taken.job, taken.job, taken.topic, taken.kind, taken.priority, taken.available_at, taken.created_at,
               COALESCE(taken.payload, (SELECT jobs.request FROM jobs WHERE jobs.id = taken.job))
          FROM taken JOIN chosen ON chosen.id = taken.id
         ORDER BY chosen.priority DESC, chosen.turn, chosen.available_at, chosen.id;
        GET DIAGNOSTICS v_taken = ROW_COUNT;
        v_left := v_left - v_taken;
    END LOOP;
END $$;
