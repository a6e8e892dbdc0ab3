//! Waiting for conditions, never for time.

use std::fmt::Display;
use std::time::{Duration, Instant};

/// For what takes a moment on an idle machine; generous, since a loaded one is no reason to fail.
pub const SOON: Duration = Duration::from_secs(30);
/// For what includes a rebalance, a session timeout or the start of a server.
pub const EVENTUALLY: Duration = Duration::from_secs(90);

/// Asks until the answer is `Ok`. An `Err` says what is still missing; the last one is told when the limit is reached.
pub async fn wait_until<T, E: Display>(
    what: &str,
    limit: Duration,
    mut condition: impl AsyncFnMut() -> Result<T, E>,
) -> T {
    let start = Instant::now();
    let mut pause = Duration::from_millis(5);
    loop {
        match condition().await {
            Ok(value) => return value,
            Err(missing) => assert!(start.elapsed() < limit, "not within {limit:?}: {what}\nlast seen: {missing}"),
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(Duration::from_millis(100));
    }
}

/// `Ok` when the two are equal, else what they are: a condition for [`wait_until`].
pub fn equal<T: PartialEq + std::fmt::Debug>(seen: T, expected: &T) -> Result<T, String> {
    if seen == *expected { Ok(seen) } else { Err(format!("{seen:?} instead of {expected:?}")) }
}

/// Runs what blocks where blocking is allowed.
pub async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    match tokio::task::spawn_blocking(work).await {
        Ok(value) => value,
        Err(error) => std::panic::resume_unwind(error.into_panic()),
    }
}
