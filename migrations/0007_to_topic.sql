-- A replay to the topic publishes its letters there again, for every group that reads it. The command does that, and not the
-- workers: they look only after what is running.
ALTER TABLE replays
    ADD COLUMN to_topic boolean NOT NULL DEFAULT false,
    -- Who had the plan executed.
    ADD COLUMN started_by text COLLATE "C",
    DROP CONSTRAINT replays_state_check,
    ADD CONSTRAINT replays_state_check CHECK (state IN
        ('planned', 'running', 'publishing', 'paused', 'stopped', 'cancelled', 'done'));

ALTER TABLE replay_letters
    DROP CONSTRAINT replay_letters_outcome_check,
    ADD CONSTRAINT replay_letters_outcome_check CHECK (outcome IN
        ('notified', 'duplicate', 'dead_again', 'quarantined', 'published', 'left_out', 'cancelled'));
