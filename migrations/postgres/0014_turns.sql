-- The next dispatches without a look at every batch; src/database/dispatch.rs explains it.

-- What waits, in the order of arrival.
CREATE INDEX outbox_arrivals ON outbox (kind, priority, available_at, id) WHERE topic = 'dispatch' AND taken_until IS NULL;

-- Where the next look at the batches of a kind and priority goes on. Without a row, it begins at the first.
CREATE TABLE dispatch_turns (
    kind     TEXT   COLLATE "C" NOT NULL,
    priority BIGINT NOT NULL,
    tenant   TEXT   COLLATE "C" NOT NULL,
    batch    TEXT   COLLATE "C" NOT NULL,
    PRIMARY KEY (kind, priority)
);

-- Some of the tenants and batches that wait, in the order of the index, after a given one or from the first. Those of
-- tenants in p_full are left out.
CREATE OR REPLACE FUNCTION acetate_shares(p_kind TEXT, p_priority BIGINT, p_tenant TEXT, p_batch TEXT, p_full TEXT[], p_most BIGINT)
RETURNS TABLE (tenant TEXT, batch TEXT)
LANGUAGE plpgsql STABLE SET plan_cache_mode = force_custom_plan SET enable_seqscan = off SET jit = off AS $$
#variable_conflict use_column
BEGIN
    IF p_most <= 0 THEN
        RETURN;
    END IF;
    IF p_tenant IS NULL THEN
        SELECT tenant, batch INTO p_tenant, p_batch FROM outbox
         WHERE topic = 'dispatch' AND taken_until IS NULL AND kind = p_kind AND priority = p_priority
         ORDER BY tenant DESC, batch DESC LIMIT 1;
    ELSE
        SELECT tenant, batch INTO p_tenant, p_batch FROM outbox
         WHERE topic = 'dispatch' AND taken_until IS NULL AND kind = p_kind AND priority = p_priority
           AND (tenant, batch) < (p_tenant, CASE WHEN p_tenant = ANY(p_full) THEN '' ELSE p_batch END)
         ORDER BY tenant DESC, batch DESC LIMIT 1;
    END IF;
    IF NOT FOUND THEN
        RETURN;
    END IF;
    RETURN QUERY
    WITH RECURSIVE shares AS (
        SELECT p_tenant COLLATE "C" AS tenant, p_batch COLLATE "C" AS batch, 1 AS place
        UNION ALL
        SELECT further.tenant, further.batch, shares.place + 1 FROM shares CROSS JOIN LATERAL (
            SELECT tenant, batch FROM outbox
             WHERE topic = 'dispatch' AND taken_until IS NULL AND kind = p_kind AND priority = p_priority
               AND (tenant, batch) < (shares.tenant, CASE WHEN shares.tenant = ANY(p_full) THEN '' ELSE shares.batch END)
             ORDER BY tenant DESC, batch DESC LIMIT 1) AS further
         WHERE shares.place < p_most)
    SELECT shares.tenant, shares.batch FROM shares ORDER BY place;
END $$;

-- As in migration 6. Each priority is looked at on its own: first the oldest jobs, which are enough if many batches wait;
-- then a part of the batches, if a large one hides the others; and only as many jobs of each as can have their turn.
CREATE OR REPLACE FUNCTION acetate_dispatch(p_kinds TEXT[], p_most BIGINT, p_lease BIGINT, p_window BIGINT, p_each BIGINT, p_names TEXT[], p_limits BIGINT[])
RETURNS TABLE (message BIGINT, id TEXT, job TEXT, topic TEXT, kind TEXT, priority BIGINT, available_at BIGINT, created_at BIGINT, payload TEXT)
LANGUAGE plpgsql VOLATILE SET plan_cache_mode = force_custom_plan SET enable_seqscan = off SET jit = off AS $$
#variable_conflict use_column
DECLARE
    v_now      BIGINT := (EXTRACT(EPOCH FROM clock_timestamp()) * 1000)::BIGINT;
    v_size     BIGINT := p_window;
    v_least    BIGINT;
    v_room     BIGINT;
    v_left     BIGINT := p_most;
    v_taken    BIGINT;
    v_kind     TEXT;
    v_kinds    TEXT[] := '{}';
    v_stale    BOOLEAN;
    v_late     BOOLEAN;
    v_first    RECORD;
    v_last     RECORD;
    v_priority BIGINT;
    v_full     TEXT[];
    v_tenants  TEXT[];
    v_batches  TEXT[];
    v_arrived  BIGINT;
    v_idle     BIGINT;
    v_look     BIGINT;
    v_turn     RECORD;
    v_began    BOOLEAN;
    v_ended    BOOLEAN;
    v_found    TEXT[];
    v_named    TEXT[];
    v_more     BIGINT;
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

        v_priority := NULL;
        LOOP
            EXIT WHEN v_room <= 0;
            IF v_priority IS NULL THEN
                v_priority := v_first.priority;
            ELSE
                SELECT MAX(priority) INTO v_priority FROM outbox
                 WHERE topic = 'dispatch' AND taken_until IS NULL AND kind = v_kind AND priority < v_priority;
                EXIT WHEN v_priority IS NULL;
            END IF;

            -- The oldest jobs. If there are no others, or many of them are the first of a batch that has none in the broker or
            -- running, no other batch can have its turn now.
            v_look := 2 * v_room + 16;
            SELECT COALESCE(SUM(jobs), 0), COALESCE(ARRAY_AGG(tenant), '{}'), COALESCE(ARRAY_AGG(batch), '{}')
              INTO v_arrived, v_tenants, v_batches FROM (
                SELECT tenant, batch, COUNT(*) AS jobs FROM (
                    SELECT tenant, batch FROM outbox
                     WHERE topic = 'dispatch' AND taken_until IS NULL AND kind = v_kind AND priority = v_priority AND available_at <= v_now
                     ORDER BY available_at, id LIMIT v_look) AS oldest
                 GROUP BY tenant, batch) AS shares;
            CONTINUE WHEN v_arrived = 0;
            WITH active AS (
                SELECT COALESCE(tenant, '') AS tenant, COALESCE(batch, '') AS batch, kind FROM jobs WHERE state = 'running' AND lease_until > v_now
                UNION ALL
                SELECT tenant, batch, kind FROM outbox WHERE topic = 'dispatch' AND taken_until > v_now),
            tenants AS (
                SELECT tenant, COUNT(*) AS jobs, CASE tenant WHEN '' THEN 0 ELSE COALESCE(
                           (SELECT own.most FROM UNNEST(p_names, p_limits) AS own (name, most) WHERE own.name = tenant), p_each) END AS most
                  FROM active GROUP BY tenant),
            idle AS (
                SELECT shares.tenant, COUNT(*) AS jobs FROM UNNEST(v_tenants, v_batches) AS shares (tenant, batch)
                 WHERE NOT EXISTS (SELECT 1 FROM pauses WHERE scope = 'batch' AND name = shares.batch)
                   AND NOT EXISTS (SELECT 1 FROM active WHERE active.kind = v_kind AND active.tenant = shares.tenant AND active.batch = shares.batch)
                 GROUP BY shares.tenant),
            turns AS (
                SELECT idle.jobs, COALESCE(tenants.jobs, 0) AS busy, CASE idle.tenant WHEN '' THEN 0 ELSE COALESCE(
                           (SELECT own.most FROM UNNEST(p_names, p_limits) AS own (name, most) WHERE own.name = idle.tenant), p_each) END AS most
                  FROM idle LEFT JOIN tenants ON tenants.tenant = idle.tenant)
            SELECT (SELECT COALESCE(SUM(CASE most WHEN 0 THEN jobs ELSE LEAST(jobs, GREATEST(most - busy, 0)) END), 0) FROM turns),
                   (SELECT COALESCE(ARRAY_AGG(tenant), '{}') FROM tenants WHERE most > 0 AND jobs >= most)
              INTO v_idle, v_full;

            IF v_arrived = v_look AND v_idle < v_room THEN
                -- A large batch may hide the others. The next look goes on where this one ends, so that all have their turn.
                v_look := 256 + 2 * v_room;
                SELECT tenant, batch INTO v_turn FROM dispatch_turns WHERE kind = v_kind AND priority = v_priority;
                v_began := FOUND;
                SELECT COALESCE(ARRAY_AGG(tenant ORDER BY place), '{}'), COALESCE(ARRAY_AGG(batch ORDER BY place), '{}') INTO v_found, v_named
                  FROM acetate_shares(v_kind, v_priority, v_turn.tenant, v_turn.batch, v_full, v_look) WITH ORDINALITY AS shares (tenant, batch, place);
                v_ended := CARDINALITY(v_found) < v_look;
                IF v_ended AND v_began THEN
                    -- From the first one up to where this look began.
                    v_more := v_look - CARDINALITY(v_found);
                    SELECT v_found || COALESCE(ARRAY_AGG(tenant ORDER BY place), '{}'), v_named || COALESCE(ARRAY_AGG(batch ORDER BY place), '{}'),
                           COUNT(*) < v_more INTO v_found, v_named, v_ended
                      FROM acetate_shares(v_kind, v_priority, NULL, NULL, v_full, v_more) WITH ORDINALITY AS shares (tenant, batch, place)
                     WHERE (tenant, batch) >= (v_turn.tenant, v_turn.batch);
                END IF;
                IF NOT v_ended THEN
                    INSERT INTO dispatch_turns (kind, priority, tenant, batch)
                    VALUES (v_kind, v_priority, v_found[CARDINALITY(v_found)], v_named[CARDINALITY(v_named)])
                    ON CONFLICT (kind, priority) DO UPDATE SET tenant = EXCLUDED.tenant, batch = EXCLUDED.batch;
                ELSIF v_began THEN
                    DELETE FROM dispatch_turns WHERE kind = v_kind AND priority = v_priority;
                END IF;
                v_tenants := v_tenants || v_found;
                v_batches := v_batches || v_named;
            END IF;

            RETURN QUERY
            WITH active AS (
                SELECT COALESCE(tenant, '') AS tenant, COALESCE(batch, '') AS batch, kind FROM jobs WHERE state = 'running' AND lease_until > v_now
                UNION ALL
                SELECT tenant, batch, kind FROM outbox WHERE topic = 'dispatch' AND taken_until > v_now),
            busy AS (SELECT tenant, batch, COUNT(*) AS jobs FROM active WHERE kind = v_kind GROUP BY 1, 2),
            tenants AS (SELECT tenant, COUNT(*) AS jobs FROM active GROUP BY 1),
            candidates AS (
                SELECT tenant, batch FROM UNNEST(v_tenants, v_batches) AS found (tenant, batch)
                UNION
                SELECT tenant, batch FROM busy),
            shares AS MATERIALIZED (
                SELECT candidates.tenant, candidates.batch, COALESCE(busy.jobs, 0) AS jobs, CASE candidates.tenant WHEN '' THEN 0 ELSE COALESCE(
                           (SELECT own.most FROM UNNEST(p_names, p_limits) AS own (name, most) WHERE own.name = candidates.tenant), p_each) END AS most
                  FROM candidates LEFT JOIN busy ON busy.tenant = candidates.tenant AND busy.batch = candidates.batch
                 CROSS JOIN LATERAL (
                    SELECT TRUE AS waits FROM outbox AS waiting
                     WHERE topic = 'dispatch' AND taken_until IS NULL AND kind = v_kind AND waiting.priority = v_priority
                       AND waiting.tenant = candidates.tenant AND waiting.batch = candidates.batch AND waiting.available_at <= v_now
                     LIMIT 1) AS first
                 WHERE candidates.tenant <> ALL(v_full) AND NOT EXISTS (SELECT 1 FROM pauses WHERE scope = 'batch' AND name = candidates.batch)),
            -- The second job of a batch comes after the first one of each that has none in the broker or running.
            depth AS (SELECT GREATEST(1, v_room + 1 - COUNT(*)) AS most FROM shares WHERE jobs = 0 AND most = 0),
            heads AS (
                SELECT head.id, head.available_at, shares.tenant, shares.most,
                       shares.jobs + ROW_NUMBER() OVER (
                           PARTITION BY shares.tenant, shares.batch ORDER BY head.available_at, head.id) AS turn
                  FROM shares CROSS JOIN LATERAL (
                    SELECT waiting.id, waiting.available_at FROM outbox AS waiting
                     WHERE topic = 'dispatch' AND taken_until IS NULL AND kind = v_kind AND waiting.priority = v_priority
                       AND waiting.tenant = shares.tenant AND waiting.batch = shares.batch AND waiting.available_at <= v_now
                     ORDER BY waiting.available_at, waiting.id LIMIT (SELECT depth.most FROM depth)) AS head),
            limited AS (
                SELECT heads.*, COALESCE(tenants.jobs, 0) + ROW_NUMBER() OVER (
                           PARTITION BY heads.tenant ORDER BY turn, heads.available_at, heads.id) AS nth
                  FROM heads LEFT JOIN tenants ON tenants.tenant = heads.tenant),
            chosen AS (
                SELECT limited.id, turn, limited.available_at FROM limited WHERE most = 0 OR nth <= most
                 ORDER BY turn, limited.available_at, limited.id LIMIT v_room),
            held AS (
                SELECT waiting.id FROM outbox AS waiting
                 WHERE waiting.id = ANY(ARRAY(SELECT chosen.id FROM chosen)) AND taken_until IS NULL FOR UPDATE SKIP LOCKED),
            taken AS (
                UPDATE outbox SET taken_until = v_now + p_lease WHERE outbox.id = ANY(ARRAY(SELECT held.id FROM held)) RETURNING outbox.*)
            SELECT taken.id, taken.job, taken.job, taken.topic, taken.kind, taken.priority, taken.available_at, taken.created_at,
                   COALESCE(taken.payload, (SELECT jobs.request FROM jobs WHERE jobs.id = taken.job))
              FROM taken JOIN chosen ON chosen.id = taken.id
             ORDER BY chosen.turn, chosen.available_at, chosen.id;
            GET DIAGNOSTICS v_taken = ROW_COUNT;
            v_left := v_left - v_taken;
            v_room := v_room - v_taken;
        END LOOP;
    END LOOP;
END $$;
