-- A replay: dead letters that were frozen as a plan, and how far their processing has come.
CREATE TABLE replays (
    id                bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    consumer_group    text COLLATE "C" NOT NULL,
    topic             text COLLATE "C" NOT NULL,
    state             text COLLATE "C" NOT NULL CHECK (state IN
        ('planned', 'running', 'paused', 'stopped', 'cancelled', 'done')),
    planned_by        text COLLATE "C" NOT NULL,
    planned_at        timestamptz NOT NULL DEFAULT clock_timestamp(),
    valid_until       timestamptz NOT NULL,
    started_at        timestamptz,
    finished_at       timestamptz,
    -- Who changed the state last, and why.
    changed_by        text COLLATE "C" NOT NULL,
    changed_at        timestamptz NOT NULL DEFAULT clock_timestamp(),
    reason            text COLLATE "C" NOT NULL,
    filter            jsonb NOT NULL,
    rate              float8 NOT NULL CHECK (rate > 0),
    canary            integer NOT NULL,
    max_failure_ratio float8 NOT NULL,
    replay_cap        integer NOT NULL,
    override_cap      boolean NOT NULL,
    -- The time for which the next letter is scheduled, so that the rate holds whoever schedules.
    next_due_at       timestamptz
);
CREATE INDEX replays_by_topic ON replays (consumer_group, topic, id);
CREATE INDEX replays_under_way ON replays (consumer_group, topic) WHERE state IN ('running', 'cancelled');

CREATE TABLE replay_letters (
    replay_id      bigint NOT NULL REFERENCES replays ON DELETE CASCADE,
    place          integer NOT NULL,
    dead_letter_id bigint NOT NULL,
    -- The failure that was planned for: a later one makes the plan stale for this letter.
    failed_at      timestamptz NOT NULL,
    -- What an operator made of the record; the letter keeps the original.
    edited         bytea,
    state          text COLLATE "C" NOT NULL DEFAULT 'planned' CHECK (state IN ('planned', 'scheduled', 'ended')),
    outcome        text COLLATE "C" CHECK (outcome IN
        ('notified', 'duplicate', 'dead_again', 'quarantined', 'left_out', 'cancelled')),
    detail         text COLLATE "C",
    scheduled_at   timestamptz,
    ended_at       timestamptz,
    PRIMARY KEY (replay_id, place)
);
CREATE INDEX replay_letters_by_letter ON replay_letters (dead_letter_id);
CREATE INDEX replay_letters_planned ON replay_letters (replay_id, place) WHERE state = 'planned';

-- The replay that has it, or had it last.
ALTER TABLE dead_letters ADD COLUMN run_id bigint;
-- A replayed record is in a worker's memory: it is not taken back any more.
ALTER TABLE parked_events ADD COLUMN loaded_at timestamptz;
