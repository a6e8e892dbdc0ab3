//! What goes on beside the records: lag, facts for gauges, pruning.
