//! Where the story is told: a live line on a terminal, plain lines elsewhere.

use std::io::{self, IsTerminal as _, Write as _};
use std::sync::Mutex;
use std::sync::PoisonError;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::cli::output::Style;
use crate::cli::table::number;

const BAR_CELLS: u64 = 24;
const FRAME: Duration = Duration::from_millis(100);
/// How often a line says where a long chapter is, where nothing can be redrawn.
const PLAIN_INTERVAL: Duration = Duration::from_secs(5);

/// Standard output is for the report: where that is JSON, the story goes to standard error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Target {
    Stdout,
    Stderr,
}

#[derive(Debug)]
pub struct Screen {
    target: Target,
    start: Instant,
    kind: Kind,
    style: Style,
}

#[derive(Debug)]
enum Kind {
    Live(ProgressBar),
    Plain { shown: Mutex<Instant> },
}

impl Screen {
    pub fn on(target: Target) -> Self {
        let (is_terminal, style) = match target {
            Target::Stdout => (io::stdout().is_terminal(), Style::of(&io::stdout())),
            Target::Stderr => (io::stderr().is_terminal(), Style::of(&io::stderr())),
        };
        let start = Instant::now();
        let kind = if is_terminal { Kind::Live(live(target)) } else { Kind::Plain { shown: Mutex::new(start) } };
        Self { target, start, kind, style }
    }

    pub fn style(&self) -> Style {
        self.style
    }

    /// Whether it is a terminal, where somebody looks on.
    pub fn is_live(&self) -> bool {
        matches!(self.kind, Kind::Live(_))
    }

    pub fn elapsed(&self) -> Duration {
        self.start.elapsed()
    }

    /// A line that stays, as it is.
    pub fn say(&self, text: &str) {
        if let Kind::Live(bar) = &self.kind {
            bar.suspend(|| self.write(text));
        } else {
            self.write(text);
        }
    }

    /// What is going on: replaced by whatever comes next, and on a plain screen told only now and then.
    pub fn show(&self, title: &str, text: &str) {
        let line = self.line(title, text);
        match &self.kind {
            Kind::Live(bar) => bar.set_message(line),
            Kind::Plain { shown } => {
                let mut shown = shown.lock().unwrap_or_else(PoisonError::into_inner);
                if shown.elapsed() >= PLAIN_INTERVAL {
                    *shown = Instant::now();
                    self.write(&line);
                }
            }
        }
    }

    /// What came of it.
    pub fn tell(&self, title: &str, text: &str) {
        match &self.kind {
            Kind::Live(bar) => bar.set_message(""),
            Kind::Plain { shown } => *shown.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now(),
        }
        self.say(&self.line(title, text));
    }

    /// No live line any more.
    pub fn finish(&self) {
        if let Kind::Live(bar) = &self.kind {
            bar.finish_and_clear();
        }
    }

    fn line(&self, title: &str, text: &str) -> String {
        let seconds = self.elapsed().as_secs();
        format!("  {:02}:{:02}  {title:<26}{text}", seconds / 60, seconds % 60)
    }

    fn write(&self, text: &str) {
        // A closed pipe is no reason to leave servers behind: the story goes on and cleans up.
        let _ = match self.target {
            Target::Stdout => writeln!(io::stdout(), "{text}"),
            Target::Stderr => writeln!(io::stderr(), "{text}"),
        };
    }
}

/// `██████░░░░  1,250 / 5,000`
pub(super) fn progress(done: u64, total: u64) -> String {
    let filled = (done * BAR_CELLS).checked_div(total).unwrap_or(BAR_CELLS).min(BAR_CELLS);
    let bar: String = (0..BAR_CELLS).map(|cell| if cell < filled { '█' } else { '░' }).collect();
    format!("{bar}  {} / {}", number(done), number(total))
}

/// `1 record`, `2 records`
pub(super) fn counted(count: u64, noun: &str) -> String {
    let plural = if count == 1 { "" } else { "s" };
    format!("{} {noun}{plural}", number(count))
}

fn live(target: Target) -> ProgressBar {
    let draw_target = match target {
        Target::Stdout => ProgressDrawTarget::stdout(),
        Target::Stderr => ProgressDrawTarget::stderr(),
    };
    let style = ProgressStyle::with_template("{wide_msg}").unwrap_or_else(|_| ProgressStyle::default_bar());
    let bar = ProgressBar::with_draw_target(None, draw_target).with_style(style);
    bar.enable_steady_tick(FRAME);
    bar
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_is_told_without_a_plural() {
        assert_eq!(counted(1, "record"), "1 record");
        assert_eq!(counted(2_000, "record"), "2,000 records");
    }

    #[test]
    fn the_bar_is_never_longer_than_its_place() {
        for (done, total, filled) in [(0, 10, 0), (5, 10, 12), (10, 10, 24), (20, 10, 24), (0, 0, 24)] {
            let text = progress(done, total);
            assert_eq!(text.chars().filter(|&c| c == '█').count(), filled, "{text}");
            assert_eq!(text.chars().take_while(|c| "█░".contains(*c)).count(), 24);
        }
    }
}
