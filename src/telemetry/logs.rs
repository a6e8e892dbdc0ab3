//! Where the log goes: standard error, so that what a command prints stays clean.

use std::io::{IsTerminal, stderr};

use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::ParseError;
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::{SubscriberInitExt, TryInitError};
use tracing_subscriber::{Layer, Registry, fmt};

use crate::config::{LogFormat, Telemetry};

#[derive(Debug, thiserror::Error)]
pub enum LogsError {
    #[error(
        "telemetry.log_level: {level:?} is no filter: {reason}; give a level, or as in \"info,herald=debug\" one for each target"
    )]
    Filter { level: String, reason: ParseError },
    #[error("the log is set up already: {0}")]
    AlreadySet(#[from] TryInitError),
}

/// Sends the log of the whole process to standard error. Once in a process.
pub fn init(settings: &Telemetry) -> Result<(), LogsError> {
    let filter = EnvFilter::builder()
        .parse(&settings.log_level)
        .map_err(|reason| LogsError::Filter { level: settings.log_level.clone(), reason })?;
    let lines = lines(settings.log_format, stderr().is_terminal(), stderr);
    tracing_subscriber::registry().with(lines.with_filter(filter)).try_init()?;
    Ok(())
}

/// What a line looks like. JSON has the fields of the event at its top level, where queries look for them.
fn lines<W>(format: LogFormat, colour: bool, writer: W) -> Box<dyn Layer<Registry> + Send + Sync>
where
    W: for<'a> MakeWriter<'a> + Send + Sync + 'static,
{
    match format {
        LogFormat::Json => fmt::layer()
            .json()
            .flatten_event(true)
            .with_current_span(false)
            .with_span_list(false)
            .with_writer(writer)
            .boxed(),
        LogFormat::Pretty => fmt::layer().with_ansi(colour).with_target(false).with_writer(writer).boxed(),
    }
}

#[cfg(test)]
mod tests {
    use std::io::{self, Write};
    use std::sync::{Arc, Mutex};

    use tracing::subscriber::with_default;

    use super::*;

    #[derive(Clone, Default)]
    struct Captured(Arc<Mutex<Vec<u8>>>);

    impl Write for Captured {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().write(bytes)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn line(format: LogFormat) -> String {
        let captured = Captured::default();
        let writer = captured.clone();
        let layer = lines(format, false, move || writer.clone());
        with_default(tracing_subscriber::registry().with(layer), || {
            tracing::warn!(partition = 3, order_id = "a\nb", "delivery failed");
        });
        let bytes = captured.0.lock().unwrap().clone();
        String::from_utf8(bytes).unwrap()
    }

    #[test]
    fn a_json_line_has_its_fields_at_the_top() {
        let value: serde_json::Value = serde_json::from_str(&line(LogFormat::Json)).unwrap();
        assert_eq!(value["level"], "WARN");
        assert_eq!(value["message"], "delivery failed");
        assert_eq!(value["partition"], 3);
        assert_eq!(value["order_id"], "a\nb");
    }

    #[test]
    fn a_pretty_line_is_one_line_without_colour_codes() {
        let line = line(LogFormat::Pretty);
        assert!(line.contains(r#"WARN delivery failed partition=3 order_id="a\nb""#), "{line}");
        assert_eq!(line.lines().count(), 1);
        assert!(!line.contains('\x1b'));
    }

    #[test]
    fn a_filter_that_cannot_be_read_names_its_key() {
        let settings =
            Telemetry { log_format: LogFormat::Pretty, log_level: "herald=loud".to_owned(), ..Telemetry::default() };
        let error = init(&settings).unwrap_err().to_string();
        assert!(error.starts_with("telemetry.log_level: \"herald=loud\""), "{error}");
    }
}
