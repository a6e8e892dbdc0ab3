-- The number of the statement that last claimed, started or parked the record: it grows with each statement of an ownership, so that one
-- that arrives late changes nothing that came after it.
ALTER TABLE processed_orders ADD COLUMN serial bigint NOT NULL DEFAULT 0;
