-- Every failed attempt is kept with its error. `at_ms` is the database's clock; a worker says how long ago it was.
ALTER TABLE parked_events
    ADD COLUMN history jsonb NOT NULL DEFAULT '[]';

ALTER TABLE dead_letters
    ADD COLUMN history      jsonb NOT NULL DEFAULT '[]',
    -- The key of the Kafka record; null for letters of before this column, too.
    ADD COLUMN record_key   bytea,
    -- Who closed it and why, while it is discarded.
    ADD COLUMN closed_by    text COLLATE "C",
    ADD COLUMN close_reason text COLLATE "C",
    ADD COLUMN close_note   text COLLATE "C";

CREATE INDEX dead_by_state ON dead_letters (consumer_group, topic, state, id);
CREATE INDEX dead_by_bug ON dead_letters (consumer_group, topic, bug, id);
CREATE INDEX dead_by_age ON dead_letters (consumer_group, topic, failed_at);

-- The attempts before, and those that came since; the last fifty.
CREATE FUNCTION history_with(before jsonb, since jsonb) RETURNS jsonb LANGUAGE sql VOLATILE AS $$
    SELECT coalesce(jsonb_agg(item ORDER BY part, place), '[]')
      FROM (SELECT item, part, place
              FROM (SELECT item, 1 AS part, place FROM jsonb_array_elements(before) WITH ORDINALITY AS b(item, place)
                     UNION ALL
                    SELECT CASE WHEN item ? 'ago_ms'
                           THEN (item - 'ago_ms') || jsonb_build_object('at_ms',
                                floor(extract(epoch FROM clock_timestamp()) * 1000)::bigint - (item ->> 'ago_ms')::bigint)
                           ELSE item END, 2, place
                      FROM jsonb_array_elements(since) WITH ORDINALITY AS s(item, place)) every
             ORDER BY part DESC, place DESC LIMIT 50) kept
$$;

-- The dead letters that an operator selects. One place for all that list, count, export, close and replay them.
CREATE FUNCTION selected_dead_letters(of_group text, of_topic text, filter jsonb) RETURNS SETOF dead_letters
LANGUAGE sql STABLE AS $$
    SELECT d.* FROM dead_letters d
     WHERE d.consumer_group = of_group AND d.topic = of_topic
       AND (filter -> 'ids' IS NULL
            OR d.id = ANY(ARRAY(SELECT jsonb_array_elements_text(filter -> 'ids')::bigint)))
       AND (filter -> 'states' IS NULL
            OR d.state = ANY(ARRAY(SELECT jsonb_array_elements_text(filter -> 'states'))))
       AND (filter -> 'reasons' IS NULL
            OR d.reason = ANY(ARRAY(SELECT jsonb_array_elements_text(filter -> 'reasons'))))
       AND (filter ->> 'group' IS NULL OR starts_with(d.bug, filter ->> 'group'))
       AND (filter ->> 'event_type' IS NULL OR d.event_type = filter ->> 'event_type')
       AND (filter ->> 'order_id' IS NULL OR d.order_id = filter ->> 'order_id')
       AND (filter ->> 'key' IS NULL OR d.record_key = convert_to(filter ->> 'key', 'UTF8'))
       AND (filter ->> 'partition' IS NULL OR d.kpartition = (filter ->> 'partition')::integer)
       AND (filter ->> 'first_offset' IS NULL OR d.koffset >= (filter ->> 'first_offset')::bigint)
       AND (filter ->> 'last_offset' IS NULL OR d.koffset <= (filter ->> 'last_offset')::bigint)
       AND (filter ->> 'since_ms' IS NULL OR d.last_failed_at >= to_timestamp((filter ->> 'since_ms')::float8 / 1000))
       AND (filter ->> 'until_ms' IS NULL OR d.last_failed_at < to_timestamp((filter ->> 'until_ms')::float8 / 1000))
       AND (filter ->> 'min_replays' IS NULL OR d.replays >= (filter ->> 'min_replays')::integer)
       AND (filter ->> 'max_replays' IS NULL OR d.replays <= (filter ->> 'max_replays')::integer)
       AND (filter ->> 'text' IS NULL
            OR position(lower(filter ->> 'text') IN lower(d.error)) > 0
            OR position(convert_to(filter ->> 'text', 'UTF8') IN d.record) > 0)
$$;

-- What operators did and were refused. Rows are only ever added.
CREATE TABLE operator_audit (
    id             bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    at             timestamptz NOT NULL DEFAULT clock_timestamp(),
    consumer_group text COLLATE "C" NOT NULL,
    topic          text COLLATE "C" NOT NULL,
    operator       text COLLATE "C" NOT NULL,
    action         text COLLATE "C" NOT NULL,
    filter         jsonb NOT NULL,
    letters        bigint NOT NULL,
    reason         text COLLATE "C" NOT NULL,
    result         text COLLATE "C" NOT NULL CHECK (result IN ('done', 'refused')),
    detail         text COLLATE "C" NOT NULL
);
CREATE INDEX audit_by_topic ON operator_audit (consumer_group, topic, id);

CREATE FUNCTION refuse_change_of_audit() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 'operator_audit is append-only' USING ERRCODE = 'insufficient_privilege';
END
$$;
CREATE TRIGGER operator_audit_is_append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON operator_audit
    FOR EACH STATEMENT EXECUTE FUNCTION refuse_change_of_audit();
REVOKE UPDATE, DELETE, TRUNCATE ON operator_audit FROM PUBLIC, CURRENT_USER;
