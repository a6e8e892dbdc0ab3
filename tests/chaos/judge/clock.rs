//! Times of Postgres on our clock: both are on one machine, but each reads its own.

use std::time::{Duration, Instant};

use sqlx::PgPool;

/// The quickest of so many readings is taken.
const READINGS: usize = 50;

/// When Postgres said what time it is: at some moment between the question and the answer.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    pub asked: Instant,
    pub answered: Instant,
    pub said: Micros,
}

/// Microseconds since 1970, by the clock of Postgres.
pub type Micros = i64;

impl Clock {
    pub async fn read(database: &PgPool) -> Self {
        let mut connection = database.acquire().await.unwrap();
        let mut best: Option<Self> = None;
        for _ in 0..READINGS {
            let asked = Instant::now();
            let statement = "SELECT (extract(epoch FROM clock_timestamp()) * 1000000)::bigint";
            let said = sqlx::query_scalar(statement).fetch_one(&mut *connection).await.unwrap();
            let reading = Self { asked, answered: Instant::now(), said };
            if best.is_none_or(|best| reading.width() < best.width()) {
                best = Some(reading);
            }
        }
        best.expect("there are readings")
    }

    /// The time on our clock, or less than the time of a quick statement later: never earlier than it was.
    pub fn latest(&self, time: Micros) -> Instant {
        shifted(self.answered, time - self.said)
    }

    /// As [`Clock::latest`], never later than it was.
    pub fn earliest(&self, time: Micros) -> Instant {
        shifted(self.asked, time - self.said)
    }

    fn width(&self) -> Duration {
        self.answered - self.asked
    }
}

fn shifted(at: Instant, by: Micros) -> Instant {
    let distance = Duration::from_micros(by.unsigned_abs());
    let shifted = if by < 0 { at.checked_sub(distance) } else { at.checked_add(distance) };
    shifted.expect("the run began after the machine")
}
