//! `herald run`: the worker.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use prometheus::Registry;

use super::arguments::ConfigArguments;
use super::check;
use super::failure::Failure;
use super::output::Style;
use crate::channels::Channel;
use crate::config::{Purpose, Settings};
use crate::http::AdminServer;
use crate::http::health::Health;
use crate::kafka::dead_letters::DeadLetterProducer;
use crate::kafka::lag::LagReader;
use crate::kafka::preflight::create_dead_letter_topic;
use crate::postgres::Postgres;
use crate::preflight::{self, Preflight, Verdict};
use crate::telemetry::traces::Traces;
use crate::telemetry::{Subject, Telemetry, logs};
use crate::worker::{self, Ending, Parts};

/// A loop that has not come round for this long is dead: `/livez` says so.
const TURN_BOUND: Duration = Duration::from_secs(30);

pub(super) async fn execute(arguments: ConfigArguments) -> Result<(), Failure> {
    let settings = arguments.load(Purpose::Work)?.settings;
    let (postgres, channel) = connect(&settings)?;
    work(settings, postgres, channel).await
}

/// The worker of these settings, whose notifications leave by this channel. Ends with a signal or a fatal error.
pub async fn work(settings: Settings, postgres: Postgres, channel: Channel) -> Result<(), Failure> {
    let health = Arc::new(Health::new(TURN_BOUND));
    let registry = Registry::new();
    let subject = Subject { topic: &settings.kafka.topic, channel: channel.name() };
    let traces =
        Traces::from_settings(&settings, channel.name()).map_err(|error| Failure::Refused(error.to_string()))?;
    let telemetry = Telemetry::new(&registry, subject).context("the metrics cannot be registered")?.with_traces(traces);
    let admin = AdminServer::bind(settings.http.address, Arc::clone(&health), registry)
        .await
        .map_err(|error| Failure::Refused(error.to_string()))?;
    let address = admin.address();
    let (stop_admin, admin_stopped) = tokio::sync::oneshot::channel::<()>();
    let admin = tokio::spawn(admin.serve(async { drop(admin_stopped.await) }));

    let preflight = look(&settings, &postgres).await?;
    // From here on: what clients complain of while they look is told by the findings, in plainer words.
    logs::init(&settings.telemetry).context("the log cannot be set up")?;
    make_ready(&settings, &preflight).await?;
    let topic_retention = preflight.topic_retention;
    telemetry.topic_retention(topic_retention);
    tracing::info!(
        topic = settings.kafka.topic,
        group = settings.kafka.group,
        channel = channel.name(),
        admin = %address,
        version = env!("CARGO_PKG_VERSION"),
        "worker starts"
    );
    let telemetry = Arc::new(telemetry);
    let parts = Parts {
        producer: DeadLetterProducer::new(&settings).context("the producer of dead letters")?,
        lag: LagReader::start(&settings).context("the reader of offsets")?,
        telemetry: Arc::clone(&telemetry),
        settings,
        postgres,
        channel,
        health,
        topic_retention,
    };
    // On a thread of the pool, where what wakes it runs too: waking it is no switch between threads then.
    let ending = tokio::spawn(worker::run(parts)).await.unwrap_or_else(|error| Ending::Failed(error.to_string()));
    // It blocks, and its requests run on this runtime.
    let _ = tokio::task::spawn_blocking(move || telemetry.shutdown()).await;
    let _ = stop_admin.send(());
    let _ = admin.await;
    report(ending)
}

/// Clients only: nothing is sent yet.
pub(super) fn connect(settings: &Settings) -> Result<(Postgres, Channel), Failure> {
    let postgres = Postgres::connect(settings).map_err(|error| Failure::Refused(error.to_string()))?;
    let channel = Channel::from_settings(settings).map_err(|error| Failure::Refused(error.to_string()))?;
    Ok((postgres, channel))
}

/// Migrates where the configuration says so, and refuses to start over any problem that is left.
async fn look(settings: &Settings, postgres: &Postgres) -> Result<Preflight, Failure> {
    if settings.database.migrate {
        postgres.migrate().await.map_err(|error| Failure::Refused(error.to_string()))?;
    }
    let preflight = preflight::before_start(settings, postgres).await;
    if preflight.is_refusal() {
        let told = check::described(&preflight.findings, Style::of(&std::io::stderr()));
        return Err(Failure::Refused(format!("herald run refuses to start\n{}", told.trim_end())));
    }
    Ok(preflight)
}

/// Creates what the configuration allows a start to create, and tells what it may want to know.
async fn make_ready(settings: &Settings, preflight: &Preflight) -> Result<(), Failure> {
    if let (false, Some(partitions)) = (preflight.has_dead_letter_topic, preflight.source_partitions) {
        let topic = &settings.dead_letters.topic;
        create_dead_letter_topic(settings, partitions)
            .await
            .map_err(|error| Failure::Refused(format!("{topic} cannot be created: {error}")))?;
        tracing::info!(topic, partitions, "dead-letter topic created");
    }
    for finding in preflight.findings.iter().filter(|finding| finding.verdict == Verdict::Warning) {
        tracing::warn!(area = finding.area, "{}", finding.detail);
    }
    Ok(())
}

fn report(ending: Ending) -> Result<(), Failure> {
    match ending {
        Ending::Clean => {
            tracing::info!("worker stopped, nothing was cut off");
            Ok(())
        }
        Ending::CutOff(what) => Err(anyhow::anyhow!("stopped before everything had ended: {what}").into()),
        Ending::Failed(why) => Err(anyhow::anyhow!(why).into()),
    }
}
