//! `herald check`: what is wrong, and how to mend it.

use std::fmt::Write;

use clap::Args;
use serde_json::json;

use super::arguments::ConfigArguments;
use super::failure::Failure;
use super::output::{Style, print};
use super::run;
use crate::config::Purpose;
use crate::preflight::{self, Finding, Verdict};

#[derive(Args, Debug)]
pub(super) struct Arguments {
    /// As JSON
    #[arg(long)]
    json: bool,
}

/// Wide enough for the longest area.
const AREA_WIDTH: usize = 12;

pub(super) async fn execute(arguments: &Arguments, config: ConfigArguments) -> Result<(), Failure> {
    let settings = config.load(Purpose::Work)?.settings;
    let (postgres, channel) = run::connect(&settings)?;
    let mut findings = preflight::before_start(&settings, &postgres).await.findings;
    findings.push(channel.inspect().await);
    let problems = findings.iter().filter(|finding| finding.is_problem()).count();

    if arguments.json {
        print(&format!("{:#}\n", as_json(&findings)))?;
    } else {
        let style = Style::of(&std::io::stdout());
        print(&format!("{}{}\n", described(&findings, style), closing(problems)))?;
    }
    if problems > 0 {
        // Everything was told already.
        return Err(Failure::Refused(String::new()));
    }
    Ok(())
}

/// One line for each finding, its remedies below.
pub(super) fn described(findings: &[Finding], style: Style) -> String {
    let mut text = String::new();
    for finding in findings {
        let mark = match finding.verdict {
            Verdict::Ok => style.good("✓"),
            Verdict::Warning => style.bad("!"),
            Verdict::Problem => style.bad("✗"),
        };
        // Writing to a string cannot fail.
        let _ = writeln!(text, "{:AREA_WIDTH$}{mark} {}", finding.area, finding.detail);
        for remedy in &finding.remedies {
            let _ = writeln!(text, "{:indent$}{remedy}", "", indent = AREA_WIDTH + 2);
        }
    }
    text
}

fn closing(problems: usize) -> String {
    match problems {
        0 => "ready: herald run would start".to_owned(),
        1 => "1 problem; herald run would refuse to start (exit 3)".to_owned(),
        count => format!("{count} problems; herald run would refuse to start (exit 3)"),
    }
}

fn as_json(findings: &[Finding]) -> serde_json::Value {
    let rows = findings.iter().map(|finding| {
        json!({
            "area": finding.area,
            "verdict": finding.verdict.as_str(),
            "detail": finding.detail,
            "remedies": finding.remedies,
        })
    });
    rows.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_problem_stands_out_and_its_remedies_are_below_it() {
        let findings = [
            Finding::ok("topic", "order_events: 12 partitions"),
            Finding::problem("dead letter", "order_events.dlq does not exist", vec!["create it".to_owned()]),
        ];
        let expected = "topic       ✓ order_events: 12 partitions\n\
                        dead letter ✗ order_events.dlq does not exist\n              create it\n";
        assert_eq!(described(&findings, Style::Plain), expected);
        assert_eq!(as_json(&findings)[1]["verdict"], "problem");
    }
}
