//! What no schema knows of `deploy/`: that its pieces fit to each other and to the binary.

use std::time::Duration;

use herald::config::Settings;

use crate::files::{metric_names, path, read, rules};

/// The number behind this key, in seconds.
fn seconds(file: &str, key: &str) -> Duration {
    let text = read(file);
    let value =
        text.lines().find_map(|line| line.trim().strip_prefix(key)).unwrap_or_else(|| panic!("{file}: no {key}"));
    Duration::from_secs(value.trim().trim_end_matches('s').parse().unwrap())
}

#[test]
fn whoever_ends_herald_waits_longer_than_it_drains() {
    let settings = Settings::load_from(None, Vec::<(String, String)>::new(), &[]).unwrap();
    for (file, key) in [
        ("deploy/kubernetes/herald.yaml", "terminationGracePeriodSeconds:"),
        ("deploy/compose.yaml", "stop_grace_period:"),
        ("deploy/herald.service", "TimeoutStopSec="),
    ] {
        let patience = seconds(file, key);
        assert!(patience >= 2 * settings.delivery.drain_timeout, "{file}: {patience:?}");
    }
}

#[test]
fn probes_scrapes_and_ports_are_those_of_the_binary() {
    let settings = Settings::load_from(None, Vec::<(String, String)>::new(), &[]).unwrap();
    let port = settings.http.address.port().to_string();
    for file in [
        "deploy/Dockerfile",
        "deploy/compose.yaml",
        "deploy/kubernetes/herald.yaml",
        "deploy/prometheus/prometheus.yml",
    ] {
        assert!(read(file).contains(&port), "{file} does not know the port {port}");
    }
    let deployment = read("deploy/kubernetes/herald.yaml");
    for probe in ["startupProbe", "livenessProbe", "readinessProbe"] {
        assert!(deployment.contains(probe), "no {probe}");
    }
    // The alerts and dashboards know Herald by its job.
    assert!(read("deploy/prometheus/prometheus.yml").contains("job_name: herald"));
}

#[test]
fn instances_are_added_by_a_series_that_is_recorded() {
    let recorded: Vec<String> = rules().into_iter().map(|rule| rule.name).collect();
    let text = read("deploy/kubernetes/autoscaling.yaml");
    let query = text.lines().find_map(|line| line.trim().strip_prefix("query:")).unwrap();
    let used = metric_names(query);
    assert!(!used.is_empty() && used.iter().all(|name| recorded.contains(name)), "{used:?}");
}

#[test]
fn grafana_is_given_the_dashboards_and_prometheus_the_rules() {
    let compose = read("deploy/compose.yaml");
    let mounted = "/var/lib/herald/dashboards";
    assert!(compose.contains(&format!("- ../dashboards:{mounted}:ro")));
    assert!(read("deploy/grafana/provisioning/dashboards/herald.yaml").contains(&format!("path: {mounted}")));
    assert!(
        compose.contains(&format!("{mounted}/herald-overview.json"))
            && path("dashboards/herald-overview.json").exists()
    );
    assert!(read("deploy/grafana/provisioning/datasources/prometheus.yaml").contains("url: http://prometheus:9090"));
    for rules in crate::files::RULES {
        assert!(path("dashboards/rules").join(rules).exists());
    }
    assert!(compose.contains("- ../dashboards/rules:/etc/prometheus/rules:ro"));
    assert!(read("deploy/prometheus/prometheus.yml").contains("rules/herald-"));
}
