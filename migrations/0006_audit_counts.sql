-- What met a change made meanwhile, or a cluster that was away, is told apart from what was not permitted.
ALTER TABLE operator_audit
    DROP CONSTRAINT operator_audit_result_check,
    ADD CONSTRAINT operator_audit_result_check CHECK (result IN ('done', 'refused', 'conflict', 'failed'));

-- Workers count what operators did and were refused, again and again: from this index alone.
CREATE INDEX audit_counts ON operator_audit (consumer_group, topic, action, result);
