//! `herald demo`: everything embedded, no set-up.

use std::env;
use std::fs;
use std::io::{self, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use anyhow::{Context as _, anyhow};
use clap::Args;
use tempfile::TempDir;
use tokio::signal::unix::{Signal, SignalKind, signal};

use super::failure::Failure;
use crate::demo::{Options, Report, Screen, Story, Target};

/// Play a story on an embedded broker and a private Postgres, and account for every record
#[derive(Args, Clone, Debug)]
pub(super) struct DemoArguments {
    /// Orders that are to be notified
    #[arg(long, value_name = "N", default_value_t = 5_000, value_parser = clap::value_parser!(u64).range(50..=1_000_000))]
    orders: u64,
    /// End after the account instead of staying up; implied where the output is no terminal
    #[arg(long)]
    exit: bool,
    /// The account as one JSON object; the story goes to standard error
    #[arg(long)]
    json: bool,
    /// Leave the worker's logs and the account behind
    #[arg(long)]
    keep: bool,
    /// Tell the same story again
    #[arg(long, value_name = "SEED")]
    seed: Option<u64>,
}

/// How a demo ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ending {
    /// Every record is accounted for.
    Balanced,
    Unbalanced,
    /// Interrupted before it was known.
    Interrupted,
}

/// What the signals of a terminal or a supervisor ask for.
struct Interrupts {
    interrupt: Signal,
    terminate: Signal,
    hangup: Signal,
}

/// Runs the demo to its end, in a runtime of its own.
pub(super) fn execute(arguments: &DemoArguments) -> Result<(), Failure> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .context("cannot start the asynchronous runtime")?;
    match runtime.block_on(run(arguments))? {
        Ending::Balanced => Ok(()),
        // The account, or that there is none, was told already.
        Ending::Unbalanced | Ending::Interrupted => Err(Failure::Failed(anyhow!(""))),
    }
}

async fn run(arguments: &DemoArguments) -> anyhow::Result<Ending> {
    let screen = Screen::on(if arguments.json { Target::Stderr } else { Target::Stdout });
    let kept = if arguments.keep { "logs are kept" } else { "nothing is kept" };
    screen
        .say(&format!("herald demo · embedded Kafka, private Postgres, stub gateway · nothing is installed, {kept}\n"));
    let mut interrupts = Interrupts::listen()?;
    let directory = demo_directory()?;
    let played = tokio::select! {
        played = play(arguments, &directory, &screen) => played,
        () = interrupts.next() => Ok(None),
    };
    screen.finish();
    let ending = match played {
        Ok(Some((story, report))) => end(arguments, story, &report, &screen, &mut interrupts, &directory).await,
        Ok(None) => {
            screen.say("\n  interrupted, everything is stopped");
            Ok(Ending::Interrupted)
        }
        Err(error) => Err(error),
    };
    if arguments.keep {
        screen.say(&format!("  kept          {}", directory.keep().display()));
    }
    ending
}

async fn play(
    arguments: &DemoArguments,
    directory: &TempDir,
    screen: &Screen,
) -> anyhow::Result<Option<(Story, Report)>> {
    let options = Options {
        orders: arguments.orders,
        seed: arguments.seed.unwrap_or_else(|| fastrand::u64(1..1_000_000)),
        worker: env::current_exe().context("cannot find this program to run the worker with")?,
        directory: directory.path().to_owned(),
    };
    let mut story = Story::prepare(options, screen).await?;
    let report = story.play(screen).await?;
    Ok(Some((story, report)))
}

async fn end(
    arguments: &DemoArguments,
    story: Story,
    report: &Report,
    screen: &Screen,
    interrupts: &mut Interrupts,
    directory: &TempDir,
) -> anyhow::Result<Ending> {
    let json = report.json()?;
    if arguments.json {
        writeln!(io::stdout(), "{json}")?;
    } else {
        screen.say(&format!("\n{}", report.table(screen.style())));
    }
    if arguments.keep {
        let path = directory.path().join("report.json");
        fs::write(&path, &json).with_context(|| format!("cannot write {}", path.display()))?;
    }
    if !arguments.exit && screen.is_live() {
        screen.say(&report.places());
        interrupts.next().await;
    }
    story.end().await?;
    Ok(if report.balances() { Ending::Balanced } else { Ending::Unbalanced })
}

/// Open to all: Postgres does not run as root, and its user must get through.
fn demo_directory() -> anyhow::Result<TempDir> {
    let directory = tempfile::Builder::new().prefix("herald-demo-").tempdir().context("cannot make a directory")?;
    open_to_all(directory.path()).with_context(|| format!("cannot prepare {}", directory.path().display()))?;
    Ok(directory)
}

fn open_to_all(path: &Path) -> io::Result<()> {
    fs::set_permissions(path, fs::Permissions::from_mode(0o755))
}

impl Interrupts {
    fn listen() -> io::Result<Self> {
        Ok(Self {
            interrupt: signal(SignalKind::interrupt())?,
            terminate: signal(SignalKind::terminate())?,
            hangup: signal(SignalKind::hangup())?,
        })
    }

    /// Cancel safe.
    async fn next(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
            _ = self.hangup.recv() => {}
        }
    }
}
