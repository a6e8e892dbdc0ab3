//! Everything embedded, no set-up.
