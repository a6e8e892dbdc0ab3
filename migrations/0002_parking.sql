-- Parked records are waited for by key: the first of each key of a partition, then those behind it.
ALTER TABLE parked_events
    ADD COLUMN parked_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    ALTER COLUMN key_hash SET NOT NULL;
