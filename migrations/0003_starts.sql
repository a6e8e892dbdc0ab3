-- Where the current ownership began: an end without progress is one after which the next begins at the same offset.
ALTER TABLE partition_epochs ADD COLUMN start_offset bigint;
