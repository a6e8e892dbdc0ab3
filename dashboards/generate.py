#!/usr/bin/env python3
"""Writes the dashboards of Herald: python3 dashboards/generate.py [--check]

The JSON beside this file is what Grafana imports; this file is what people edit. Panels flow from left to right into 24 columns.
Thresholds are read from the alerts, so a line on a panel is where its alert fires. Standard library only.
"""

import json
import math
import re
import sys
from pathlib import Path

HERE = Path(__file__).parent
ALERTS = (HERE / "rules" / "herald-alerts.yml").read_text()
RUNBOOK = "https://docs.example.org/runbooks/{}.md"
OPERATIONS = "https://docs.example.org/operations.md"

# In queries, @S stands for the matchers of every instance, @T for those of a series of a topic, @R for those of a recorded series,
# which belongs to no instance, and @J for those of a series of the job as a whole.
MATCHERS = {
    "@S": 'job=~"$job", instance=~"$instance"',
    "@T": 'job=~"$job", instance=~"$instance", topic=~"$topic"',
    "@R": 'job=~"$job", topic=~"$topic"',
    "@J": 'job=~"$job"',
}
GREEN, YELLOW, RED = "green", "#EAB839", "red"
# The same thing has the same colour on every panel: good is green, bad is red, what waits is orange, what is repeated is blue.
COLORS = {
    **dict.fromkeys(("notified", "ok", "used", "fresh", "assigned", "running"), "green"),
    **dict.fromkeys(("dead_lettered", "permanent", "error", "failed tries", "refused", "lost", "stopped", "ledger"), "red"),
    **dict.fromkeys(("parked", "transient", "retry", "retry in parked", "takeover", "revoked", "paused", "open", "parked_limit"), "orange"),
    **dict.fromkeys(("duplicate", "resolved", "replay", "publishing", "backpressure"), "blue"),
    **dict.fromkeys(("replaying", "unknown", "busy"), "yellow"),
    **dict.fromkeys(("ignored", "discarded", "idle", "planned"), "#8e8ea0"),
    **dict.fromkeys(("outage", "quarantined", "breaker", "fenced"), "purple"),
}


def limit(alert):
    """The number an alert compares with, and the colour of its severity."""
    body = re.search(rf"- alert: {alert}\n(.*?)(?=- alert: |\Z)", ALERTS, re.S)[1]
    compared = re.findall(r"[<>] (\d[\d.]*(?: \* \d[\d.]*)*)", body)
    numbers = [math.prod(float(factor) for factor in factors.split(" * ")) for factors in compared]
    # A comparison with 0 only says that there is something to compare.
    return next(number for number in numbers if number), RED if "severity: critical" in body else YELLOW


def steps(alerts, scale, base):
    found = sorted((limit(alert)[0] / scale, limit(alert)[1]) for alert in alerts)
    return [{"color": base, "value": None}] + [{"color": color, "value": round(number, 9)} for number, color in found]


def panel(kind, title, description, unit, width, height, *queries, alerts=(), runbooks=(), scale=1, rising=(), lines=(), draw="lines", **more):
    """One panel. A query is (expression, legend). `alerts` draw their thresholds and link to their runbooks, `runbooks` link only;
    `rising` gives thresholds of values that are bad when low: (value, colour) from the bottom up; `lines` are other limits. `draw` is lines, stack, or bars: for
    what happens now and then, which a line would not show."""
    thresholds = steps(alerts, scale, GREEN)
    thresholds += [{"color": YELLOW, "value": value} for value in lines]
    if rising:
        thresholds = [{"color": RED, "value": None}] + [{"color": color, "value": value} for value, color in rising]
    is_instant = kind in ("stat", "table", "bargauge")
    targets = []
    for index, (expression, legend) in enumerate(queries):
        for short, matchers in MATCHERS.items():
            expression = expression.replace(short, matchers)
        target = {"refId": chr(ord("A") + index), "expr": expression, "legendFormat": legend, "datasource": SOURCE}
        if is_instant:
            target |= {"instant": True, "range": False, "format": "table" if kind == "table" else "time_series"}
        targets.append(target)
    custom = {}
    if kind == "timeseries":
        custom = {
            "drawStyle": "bars" if draw == "bars" else "line",
            # Where areas are stacked, the line of one that is 0 would cover the edge of the one below.
            "lineWidth": 0 if draw == "stack" else 1,
            "fillOpacity": {"lines": 8, "stack": 70, "bars": 80}[draw],
            "showPoints": "never",
            "stacking": {"mode": "none" if draw == "lines" else "normal", "group": "A"},
            "thresholdsStyle": {"mode": "dashed" if alerts or rising or lines else "off"},
        }
    options = {
        "timeseries": {"legend": {"displayMode": "list", "placement": "bottom"}, "tooltip": {"mode": "multi", "sort": "desc"}},
        # Small ones may shout; of large ones the number is enough.
        "stat": {"colorMode": "background" if height <= 4 else "value", "graphMode": "none", "reduceOptions": {"calcs": ["lastNotNull"], "fields": ""}},
        "bargauge": {"orientation": "horizontal", "displayMode": "basic", "reduceOptions": {"calcs": ["lastNotNull"]}},
        "state-timeline": {"showValue": "never", "legend": {"displayMode": "list", "placement": "bottom"}},
        "table": {"showHeader": True},
    }[kind]
    defaults = {"unit": unit, "custom": custom, "thresholds": {"mode": "absolute", "steps": thresholds}, "mappings": []}
    defaults |= {"color": {"mode": "thresholds" if kind in ("stat", "bargauge", "state-timeline") else "palette-classic"}}
    if kind in ("timeseries", "bargauge") and "min" not in more:
        defaults["min"] = 0
    defaults |= {key: value for key, value in more.items() if key in ("min", "max", "mappings", "decimals")}
    return {
        "type": kind,
        "title": title,
        "description": description,
        "datasource": SOURCE,
        "gridPos": {"w": width, "h": height},
        "targets": targets,
        "fieldConfig": {"defaults": defaults, "overrides": [colored(name) for name in sorted(COLORS)] if kind == "timeseries" else []},
        "options": options,
        "links": [link(f"Runbook: {alert}", RUNBOOK.format(alert)) for alert in (*alerts, *runbooks)],
        **({"transformations": more["transformations"]} if "transformations" in more else {}),
    }


def colored(name):
    color = {"id": "color", "value": {"mode": "fixed", "fixedColor": COLORS[name]}}
    return {"matcher": {"id": "byName", "options": name}, "properties": [color]}


def link(title, url):
    return {"title": title, "url": url, "targetBlank": True}


def row(title):
    return {"type": "row", "title": title, "collapsed": False, "gridPos": {"w": 24, "h": 1}, "panels": []}


SOURCE = {"type": "prometheus", "uid": "${datasource}"}


def variable(name, label, query):
    return {
        "name": name,
        "label": label,
        "type": "query",
        "datasource": SOURCE,
        "query": {"query": query, "refId": name},
        "definition": query,
        "refresh": 2,
        "sort": 1,
        "multi": True,
        "includeAll": True,
        "allValue": ".+",
        "current": {"text": ["All"], "value": ["$__all"]},
    }


VARIABLES = [
    {
        "name": "datasource",
        "label": "Data source",
        "type": "datasource",
        "query": "prometheus",
        "current": {"text": "default", "value": "default"},
    },
    variable("job", "Job", "label_values(herald_build_info, job)"),
    variable("instance", "Instance", 'label_values(herald_build_info{job=~"$job"}, instance)'),
    variable("topic", "Topic", 'label_values(herald_records_total{job=~"$job"}, topic)'),
]


def dashboard(uid, title, description, panels):
    x = y = tallest = 0
    for number, one in enumerate(panels, start=1):
        place = one["gridPos"]
        if x + place["w"] > 24:
            x, y, tallest = 0, y + tallest, 0
        place |= {"x": x, "y": y}
        one["id"] = number
        x, tallest = x + place["w"], max(tallest, place["h"])
    others = {
        "type": "dashboards",
        "tags": ["herald"],
        "title": "Herald",
        "asDropdown": True,
        "includeVars": True,
        "keepTime": True,
        "icon": "external link",
    }
    return {
        "uid": uid,
        "title": title,
        "description": description,
        "tags": ["herald"],
        "editable": False,
        "graphTooltip": 1,
        "schemaVersion": 38,
        "version": 1,
        "refresh": "30s",
        "time": {"from": "now-3h", "to": "now"},
        "timezone": "browser",
        "links": [others, {"type": "link", "title": "Operations", "url": OPERATIONS, "icon": "doc", "targetBlank": True}],
        "templating": {"list": VARIABLES},
        "annotations": {"list": []},
        "panels": panels,
    }


def quantiles(metric, matchers, by=""):
    """p50, p95 and p99 of a histogram."""
    def query(quantile):
        return f"histogram_quantile({quantile}, sum by (le{by}) (rate({metric}_bucket{{{matchers}}}[$__rate_interval])))"

    return [(query(0.5), "p50"), (query(0.95), "p95"), (query(0.99), "p99")]


def rate(metric, matchers, by):
    return f"sum by ({by}) (rate({metric}{{{matchers}}}[$__rate_interval]))"


def since(metric, matchers="@S"):
    """Seconds since a point in time; 0 while there is none."""
    newest = f"max({metric}{{{matchers}}})"
    return f"(time() - ({newest} > 0)) or {newest} * 0"


def overview():
    yield row("Is it working?")
    yield panel(
        "stat", "Delivered, 30 days",
        "Share of the records that ended well (notified, duplicate, ignored) in 30 days. The objective is 99.9 %; below it, look at "
        "Dead letters & replay for the reason.",
        "percentunit", 4, 4, ("1 - max(herald:delivered:bad_ratio30d{@R})", ""),
        rising=[(0.999, GREEN)], decimals=3, runbooks=["HeraldDeliveredBurnFast"],
    )
    yield panel(
        "stat", "Error budget left, 30 days",
        "What is left of the 0.1 % of records that may become dead letters in 30 days. At 0 releases stop until it has grown again. -100 % is that or worse.",
        "percentunit", 4, 4, ("clamp_min(1 - max(herald:delivered:bad_ratio30d{@R}) / 0.001, -1)", ""),
        rising=[(0, YELLOW), (0.25, GREEN)], decimals=1, runbooks=["HeraldDeliveredBurnSlow"],
    )
    yield panel(
        "stat", "Oldest record not ended",
        "How long the oldest record of any partition has been waiting to end. Seconds are good; it grows while Herald stands still.",
        "s", 4, 4, ("max(herald:consumer_lag_seconds{@R})", ""), alerts=["HeraldLagHigh", "HeraldLagCritical"], decimals=1,
    )
    yield panel(
        "stat", "Open dead letters",
        "Records given up on that nobody has replayed or discarded. Each is an order somebody is not told about. 0 is good.",
        "short", 4, 4, ('sum(max by (job, reason) (herald_dead_letters{@S, state="open"}))', ""),
        rising=[(0, GREEN), (1, YELLOW)], runbooks=["HeraldDeadLettersUnattended"],
    )
    yield panel(
        "stat", "Instances up",
        "Instances that Prometheus reaches. Below what is deployed, the others do their work; at 0 nothing is notified.",
        "short", 4, 4, ("sum(up{@S})", ""), rising=[(1, GREEN)], runbooks=["HeraldDown"],
    )
    yield panel(
        "stat", "Alerts firing",
        "Alerts of Herald that fire now. Each has a runbook of its name.",
        "short", 4, 4, ('count(ALERTS{alertname=~"Herald.+", alertstate="firing", job=~"$job|"}) or vector(0)', ""),
        rising=[(0, GREEN), (1, RED)],
    )
    yield row("Rate, errors, duration")
    yield panel(
        "timeseries", "Records ended per second, by outcome",
        "What became of the records. Mostly notified is good; duplicates after a restart are normal; dead_lettered wants a look.",
        "ops", 6, 8, (rate("herald_records_total", "@T", "outcome"), "{{outcome}}"), draw="stack",
    )
    yield panel(
        "timeseries", "Dead-lettered, share of the records",
        "Share of the ended records that became dead letters, over 5 minutes and an hour. The lines are where the budget of 30 days would "
        "be gone in 2 and in 5 days.",
        "percentunit", 6, 8,
        ("max(herald:delivered:bad_ratio5m{@R})", "5 minutes"), ("max(herald:delivered:bad_ratio1h{@R})", "1 hour"),
        alerts=["HeraldDeliveredBurnFast", "HeraldDeliveredBurnSlow"],
    )
    yield panel(
        "timeseries", "Polled to notified",
        "How long a record stays in Herald, retries included. It follows the channel: when it rises, look at the duration of an attempt.",
        "s", 6, 8, *quantiles("herald_record_duration_seconds", '@T, outcome="notified"'),
    )
    yield panel(
        "timeseries", "Age of an event when it is notified",
        "From the record's timestamp to its notification: what a customer waits. The objective is 60 s for 99 %.",
        "s", 6, 8, *quantiles("herald_event_age_seconds", "@T"), lines=[60], runbooks=["HeraldFreshBurnFast", "HeraldFreshBurnSlow"],
    )
    yield row("Backlog")
    yield panel(
        "timeseries", "Lag in seconds, by partition",
        "How long the oldest record of each partition has been waiting. One partition that rises alone is held by one record; all of them "
        "together are behind or stand still.",
        "s", 8, 8, ("max by (partition) (herald:consumer_lag_seconds{@R})", "{{partition}}"),
        alerts=["HeraldLagHigh", "HeraldLagCritical"], runbooks=["HeraldPartitionStuck", "HeraldBacklogNearRetention"],
    )
    yield panel(
        "timeseries", "Lag in records, by partition",
        "Records between the committed offset and the end. Flat is good; growth in all partitions calls for more instances or a faster "
        "channel.",
        "short", 8, 8, ("max by (partition) (herald:consumer_lag_records{@R})", "{{partition}}"), draw="stack",
    )
    yield panel(
        "timeseries", "Time to end the backlog",
        "Backlog divided by the present rate, as if nothing more arrived. A day is a day or more, or that nothing ends.",
        "s", 8, 8,
        ("clamp_max(sum(herald:consumer_lag_records{@R}) / clamp_min(sum(herald:records_ended:rate5m{@R}), 0.000001), 86400)",
         "time to drain"),
        runbooks=["HeraldRetriesPilingUp"],
    )


def infrastructure():
    yield row("Kafka")
    yield panel(
        "timeseries", "Assigned partitions, by instance",
        "Who owns how many. Even and steady is good; a total below the topic's partitions means that some have no owner.",
        "short", 6, 7, ("sum by (instance) (herald_consumer_assigned_partitions{@T})", "{{instance}}"), draw="stack",
        runbooks=["HeraldNoPartitionsAssigned", "HeraldDown"],
    )
    yield panel(
        "timeseries", "Changes of the assignment",
        "Partitions that came, were given back in good order, or were lost to another owner. A few at a rollout; `lost` is a process that "
        "stood still.",
        "short", 6, 7, ("sum by (kind) (increase(herald_consumer_rebalances_total{@S}[$__rate_interval]))", "{{kind}}"),
        draw="bars", runbooks=["HeraldRebalanceStorm"],
    )
    yield panel(
        "timeseries", "Paused partitions, by cause",
        "Partitions that are not fetched: memory is full, the channel or the ledger is away, too much is parked. Short backpressure under "
        "load is normal.",
        "short", 6, 7, ("sum by (cause) (herald_consumer_paused_partitions{@T})", "{{cause}}"), draw="stack",
    )
    yield panel(
        "timeseries", "Offset commits per second",
        "Commits by result. `error` for minutes means that a restart polls records again; they end as duplicates.",
        "ops", 6, 7, (rate("herald_offset_commits_total", "@S", "result"), "{{result}}"), runbooks=["HeraldCommitFailing"],
    )
    yield panel(
        "timeseries", "Records polled per second",
        "What is taken from Kafka, by instance, and what was left unfinished to the next owner.",
        "ops", 6, 7, (rate("herald_records_polled_total", "@T", "instance"), "{{instance}}"),
        (rate("herald_records_handed_back_total", "@T", "topic"), "handed back"),
    )
    yield panel(
        "timeseries", "Time to give partitions back",
        "From a revocation to the partitions being released. Close to `delivery.drain_timeout` means that deliveries are cut off.",
        "s", 6, 7, *quantiles("herald_consumer_drain_duration_seconds", "@S"),
    )
    yield panel(
        "timeseries", "Errors of the Kafka clients per second",
        "By class. Single transport errors mend themselves; authentication and authorization need somebody.",
        "ops", 6, 7, (rate("herald_kafka_errors_total", "@S", "class"), "{{class}}"),
    )
    yield panel(
        "timeseries", "Ownership and retention",
        "Refused epochs, processes that stood still, deliveries cut off at a drain, records that retention deleted unread, violated "
        "invariants. All at 0 is good.",
        "short", 6, 7,
        ("sum(increase(herald_consumer_fenced_total{@S}[$__rate_interval]))", "epochs refused"),
        ("sum(increase(herald_process_freezes_total{@S}[$__rate_interval]))", "freezes"),
        ("sum(increase(herald_deliveries_aborted_total{@S}[$__rate_interval]))", "deliveries cut off"),
        ("sum(increase(herald_offsets_lost_total{@T}[$__rate_interval]))", "records lost"),
        ("sum(increase(herald_invariant_violations_total{@S}[$__rate_interval]))", "invariants violated"),
        draw="bars", runbooks=["HeraldOffsetsLost", "HeraldInvariantViolated"],
    )
    yield panel(
        "timeseries", "Since the last poll, and since the last look at the lag",
        "Below a second for the poll and below ten for the lag is good. Both grow when the process or the broker hangs.",
        "s", 6, 7, ("time() - (herald_last_poll_timestamp_seconds{@S} > 0)", "poll {{instance}}"),
        ("time() - (herald_consumer_lag_sample_timestamp_seconds{@S} > 0)", "lag {{instance}}"),
    )
    yield panel(
        "timeseries", "Oldest record against the retention",
        "Lag as a share of the topic's retention, per topic. At 1 Kafka deletes records that were never read.",
        "percentunit", 6, 7,
        ("max by (topic) (herald:consumer_lag_seconds{@R}) / min by (topic) (herald_topic_retention_seconds{@T})", "{{topic}}"),
        alerts=["HeraldBacklogNearRetention"], max=1,
    )
    yield panel(
        "timeseries", "Committed offset, by partition",
        "The committed offset of each partition. A flat line while there is lag is a partition that stands still.",
        "short", 6, 7, ("max by (partition) (herald:consumer_committed_offset{@R})", "{{partition}}"),
        runbooks=["HeraldPartitionStuck"],
    )
    yield panel(
        "table", "What runs",
        "Version, revision and compiler of each instance. More than one version outside a rollout is a rollout that did not finish.",
        "short", 6, 7, ("herald_build_info{@S}", ""),
        transformations=[{"id": "filterFieldsByName", "options": {"include": {"names": ["instance", "version", "revision", "rustc"]}}}],
    )
    yield row("Channel and breaker")
    yield panel(
        "state-timeline", "Breaker, by dependency",
        "Whether Postgres, the gateway and the DLQ topic are available. Open: nothing is tried, nothing is spent, partitions pause.",
        "short", 12, 7,
        ('max by (dependency) (herald_breaker_state{@S, state="half_open"}) '
         '+ 2 * max by (dependency) (herald_breaker_state{@S, state="open"})', "{{dependency}}"),
        mappings=[{
            "type": "value",
            "options": {
                "0": {"text": "closed", "color": GREEN, "index": 0},
                "1": {"text": "half open", "color": YELLOW, "index": 1},
                "2": {"text": "open", "color": RED, "index": 2},
            },
        }],
        runbooks=["HeraldKafkaUnavailable", "HeraldPostgresUnavailable", "HeraldGatewayUnavailable"],
    )
    yield panel(
        "timeseries", "Attempts per second, by result",
        "Tries of a delivery. `outage` spends no attempt; `permanent` is a dead letter; `unknown` may have had its effect.",
        "ops", 6, 7, (rate("herald_attempts_total", "@S", "result"), "{{result}}"), draw="stack",
    )
    yield panel(
        "timeseries", "Duration of an attempt",
        "How long the channel takes to answer. Herald cannot be faster than this times the records of one key.",
        "s", 6, 7, *quantiles("herald_attempt_duration_seconds", "@S"),
    )
    yield panel(
        "timeseries", "Put off per second",
        "Retries by where they wait, deliveries held while the channel is away, ledger batches held while Postgres is, openings of a "
        "breaker.",
        "ops", 8, 7, (rate("herald_retries_scheduled_total", "@S", "where"), "retry in {{where}}"),
        (rate("herald_deliveries_held_total", "@S", "channel"), "held, {{channel}}"),
        ("sum(rate(herald_ledger_batches_held_total{@S}[$__rate_interval]))", "ledger held"),
        (rate("herald_breaker_opened_total", "@S", "dependency"), "opened, {{dependency}}"),
    )
    yield panel(
        "timeseries", "Claims per second, by what they found",
        "`fresh` is new work, `takeover` was left by a worker that died, `busy` waits for another copy, `conflict` is a producer that uses "
        "an order id twice.",
        "ops", 8, 7, (rate("herald_claims_total", "@S", "result"), "{{result}}"), draw="stack",
    )
    yield panel(
        "timeseries", "Records that need patience",
        "Waiting for another copy of their order; kept parked though their attempts are spent, since nothing shows that the channel works; "
        "partitions run carefully after crashes.",
        "short", 8, 7, ("sum(herald_busy_records{@S})", "busy"),
        ("sum(increase(herald_exhausted_without_evidence_total{@S}[$__rate_interval]))", "exhausted without evidence"),
        ("sum(herald_crash_loop_partitions{@S})", "partitions in a crash loop"),
    )
    yield row("Postgres")
    yield panel(
        "timeseries", "Rows in a ledger statement",
        "Average by operation. Small when idle, large under load: what gathered while the last statement was under way.",
        "short", 6, 7,
        ("sum by (operation) (rate(herald_ledger_batch_size_sum{@S}[$__rate_interval])) "
         "/ sum by (operation) (rate(herald_ledger_batch_size_count{@S}[$__rate_interval]))", "{{operation}}"),
    )
    yield panel(
        "timeseries", "Duration of a statement, p99",
        "By operation. Milliseconds are good; all of them rising together is the database or the way to it.",
        "s", 6, 7,
        ("histogram_quantile(0.99, sum by (le, operation) (rate(herald_postgres_duration_seconds_bucket{@S}[$__rate_interval])))",
         "{{operation}}"),
    )
    yield panel(
        "timeseries", "Statements per second, by result",
        "`outage` holds the ledger; `conflict` is repeated at once; `bad_data` splits a batch down to the record that is refused.",
        "ops", 6, 7, (rate("herald_postgres_duration_seconds_count", "@S", "result"), "{{result}}"),
        runbooks=["HeraldPostgresUnavailable"],
    )
    yield panel(
        "timeseries", "Connections",
        "Of the pools of all instances together. `database.max_connections` times the instances has to fit into Postgres.",
        "short", 6, 7, ("sum by (state) (herald_postgres_pool_connections{@S})", "{{state}}"), draw="stack",
    )
    yield panel(
        "timeseries", "Wait for a connection",
        "Time until a statement gets a connection. More than a few milliseconds: raise `database.max_connections`.",
        "s", 8, 7, *quantiles("herald_postgres_pool_wait_seconds", "@S"),
    )
    yield panel(
        "timeseries", "Rows of the ledger",
        "The planner's estimate. It levels off at traffic times `ledger.retention`.",
        "short", 8, 7, ("max by (job) (herald_ledger_rows{@S})", "{{job}}"),
    )
    yield panel(
        "timeseries", "Rows pruned per second",
        "Ledger rows removed after their retention. 0 for a young ledger, or where the topic keeps its records for ever.",
        "ops", 8, 7, ("sum(rate(herald_ledger_pruned_total{@S}[$__rate_interval]))", "pruned"),
    )
    yield row("Process")
    yield panel(
        "timeseries", "Queues, share of their capacity",
        "Records held in memory, running deliveries, batches between threads. At 1 they hold back what comes before them: that is meant.",
        "percentunit", 8, 7,
        ("max by (queue) (herald_queue_length{@S} / herald_queue_capacity{@S})", "{{queue}}"), max=1,
    )
    yield panel(
        "timeseries", "Records in flight",
        "Polled and not ended, by instance. At `limits.records` fetching pauses.",
        "short", 8, 7, ("sum by (instance) (herald_records_in_flight{@T})", "{{instance}}"),
    )
    yield panel(
        "timeseries", "Memory of payloads against their limit",
        "Payloads held, and `limits.bytes`. It never goes beyond.",
        "bytes", 8, 7, ("sum by (instance) (herald_memory_used_bytes{@S})", "used {{instance}}"),
        ("max(herald_memory_limit_bytes{@S})", "limit"),
    )
    yield panel(
        "timeseries", "Resident memory of the process",
        "Flat is good, whatever the backlog.",
        "bytes", 12, 7, ("process_resident_memory_bytes{@S}", "{{instance}}"),
    )
    yield panel(
        "timeseries", "CPU of the process, in cores",
        "At the number of cores of its machine, the process is what bounds the throughput.",
        "short", 12, 7, ("rate(process_cpu_seconds_total{@S}[$__rate_interval])", "{{instance}}"),
    )


def dead_letters():
    yield row("Dead letters")
    yield panel(
        "timeseries", "Given up on per second, by reason",
        "Inflow. `undecodable` and `invalid` are the producer's, `permanent` and `exhausted` the gateway's. 0 is good.",
        "ops", 8, 8, (rate("herald_dead_letters_total", "@T", "reason"), "{{reason}}"), draw="stack",
        runbooks=["HeraldDeadLetterNewReason", "HeraldDeliveredBurnFast"],
    )
    yield panel(
        "bargauge", "Open, by reason",
        "What waits for somebody. `herald dlq groups` shows the same by cause, `herald dlq list` one by one.",
        "short", 8, 8, ('max by (reason) (herald_dead_letters{@S, state="open"})', "{{reason}}"),
        runbooks=["HeraldDeadLettersUnattended", "HeraldDeadLetterNewReason"],
    )
    yield panel(
        "stat", "Oldest open",
        "How long the oldest open dead letter has been waiting. A day is the limit.",
        "s", 4, 8, (since("herald_dead_letters_oldest_open_timestamp_seconds"), ""), alerts=["HeraldDeadLettersUnattended"], decimals=0,
    )
    yield panel(
        "stat", "Expiring",
        "Open dead letters that retention will soon remove. 0 is good; replay or discard them.",
        "short", 4, 8, ("max(herald_dead_letters_expiring{@S})", ""), rising=[(0, GREEN), (1, RED)],
        runbooks=["HeraldDeadLettersExpiring"],
    )
    yield panel(
        "timeseries", "Letters, by state",
        "All letters in Postgres. `quarantined` failed again after its last permitted replay; `discarded` was closed by somebody with a "
        "reason.",
        "short", 8, 8, ("sum by (state) (max by (state, reason) (herald_dead_letters{@S}))", "{{state}}"),
    )
    yield panel(
        "timeseries", "Waiting to be published to the DLQ topic",
        "Letters in Postgres that the topic does not have yet. 0 but for moments is good.",
        "short", 8, 8, ("max(herald_dead_letters_unpublished{@S})", "unpublished"),
    )
    yield panel(
        "stat", "Oldest unpublished",
        "How long the oldest letter has been waiting to be published.",
        "s", 4, 8, (since("herald_dead_letters_oldest_unpublished_timestamp_seconds"), ""),
        alerts=["HeraldDeadLetterPublishFailing"], decimals=0,
    )
    yield panel(
        "stat", "Quarantined",
        "Failed again after the last permitted replay: only a changed cause makes another replay worth while.",
        "short", 4, 8, ('sum(max by (reason) (herald_dead_letters{@S, state="quarantined"}))', ""), rising=[(0, GREEN), (1, YELLOW)],
    )
    yield panel(
        "timeseries", "Published and failed per second",
        "Letters acknowledged by the DLQ topic, and tries that failed.",
        "ops", 12, 7, (rate("herald_dead_letters_published_total", "@T", "topic"), "published {{topic}}"),
        ("sum(rate(herald_dead_letter_publish_failures_total{@S}[$__rate_interval]))", "failed tries"),
        runbooks=["HeraldDeadLetterPublishFailing"],
    )
    yield panel(
        "timeseries", "Time to publish a letter",
        "From produced to acknowledged.",
        "s", 12, 7, *quantiles("herald_dead_letter_publish_duration_seconds", "@S"),
    )
    yield row("Parking")
    yield panel(
        "timeseries", "Parked records, by kind",
        "Waiting in Postgres for a far-away retry or for their turn in a replay; the partitions move on meanwhile.",
        "short", 6, 7, ("max by (kind) (herald_parked_records{@S})", "{{kind}}"), draw="stack",
    )
    yield panel(
        "timeseries", "Keys with parked records",
        "Growth for half an hour is a gateway that fails for more and more orders.",
        "short", 6, 7, ("max(herald:parked_keys{@J})", "keys"), runbooks=["HeraldRetriesPilingUp"],
    )
    yield panel(
        "timeseries", "Oldest parked, next due",
        "Age of the oldest parked record, and the time until the next one is due (0 when it is overdue or nothing is parked).",
        "s", 6, 7, (since("herald_parked_oldest_timestamp_seconds"), "oldest"),
        ("clamp_min(max(herald_parked_next_due_timestamp_seconds{@S}) - time(), 0)", "next due in"),
    )
    yield panel(
        "timeseries", "Parked records ended per second",
        "What became of them. Mostly notified is good; dead_lettered were hopeless after all attempts.",
        "ops", 6, 7, (rate("herald_parked_settled_total", "@T", "outcome"), "{{outcome}}"), draw="stack",
    )
    yield row("Replay and operators")
    yield panel(
        "timeseries", "Replayed records ended per second",
        "By result. Mostly notified or duplicate is good; dead_lettered again means that the cause is still there.",
        "ops", 6, 7, (rate("herald_replays_total", "@S", "result"), "{{result}}"), draw="stack", runbooks=["HeraldReplayFailing"],
    )
    yield panel(
        "timeseries", "Records that running replays have still to process",
        "It falls while a replay runs; a flat line above 0 is a replay that does not move.",
        "short", 6, 7, ("max(herald:replay_remaining_records{@J})", "remaining"), runbooks=["HeraldReplayStuck"],
    )
    yield panel(
        "timeseries", "Replays not ended, by state",
        "`stopped` was stopped by its failure ratio and waits for somebody; `planned` are plans that nobody has executed.",
        "short", 6, 7, ('max by (state) (herald_replay_runs{@S, state!~"done|cancelled"})', "{{state}}"), draw="stack",
    )
    yield panel(
        "timeseries", "Actions of operators, by action and result",
        "Within the interval of a point. `refused` was not permitted or not sensible; `conflict` met a change made meanwhile.",
        "short", 6, 7,
        ("sum by (action, result) (increase(herald:operator_actions{@J}[$__rate_interval])) > 0", "{{action}} {{result}}"),
        draw="bars", runbooks=["HeraldOperatorRefused"],
    )


def objectives():
    for name, title, target, goal, bad, what in (
        ("delivered", "Delivered", 0.001, "99.9 % of the records that end are notified, a duplicate or ignored", "herald:records_bad",
         "became dead letters"),
        ("fresh", "Fresh", 0.01, "99 % of the notifications come within 60 s of their record", "herald:notified_late", "came late"),
    ):
        alerts = [f"Herald{title}BurnFast", f"Herald{title}BurnSlow"]
        yield row(f"{title}: {goal}")
        yield panel(
            "stat", f"{title}, 30 days", f"The objective: {goal}. Green is met.",
            "percentunit", 4, 8, (f"1 - max(herald:{name}:bad_ratio30d{{@R}})", ""), rising=[(1 - target, GREEN)], decimals=3,
            runbooks=alerts,
        )
        yield panel(
            "stat", f"{title}: budget left", "What is left of the errors that 30 days may have. Below 0 the objective is missed; -100 % "
            "is that or worse.",
            "percentunit", 4, 8, (f"clamp_min(1 - max(herald:{name}:bad_ratio30d{{@R}}) / {target}, -1)", ""),
            rising=[(0, YELLOW), (0.25, GREEN)], decimals=1,
        )
        yield panel(
            "timeseries", f"{title}: burn rate",
            "How many times faster than allowed the budget is burnt, over four windows; 1 lasts exactly 30 days. An alert fires when its "
            "long and its short window are both above its line.",
            "short", 10, 8,
            *[(f"max(herald:{name}:bad_ratio{window}{{@R}}) / {target}", window) for window in ("5m", "1h", "6h", "3d")],
            alerts=alerts, scale=target,
        )
        yield panel(
            "timeseries", f"{title}: bad per hour", f"Records per hour that {what}, averaged over 5 minutes and over an hour.",
            "short", 6, 8, (f"sum({bad}:rate5m{{@R}}) * 3600", "5 minutes"), (f"sum({bad}:rate1h{{@R}}) * 3600", "1 hour"),
        )


DASHBOARDS = {
    "herald-overview.json": dashboard(
        "herald-overview", "Herald / Overview", "One screen for the person on call.", list(overview())
    ),
    "herald-infrastructure.json": dashboard(
        "herald-infrastructure", "Herald / Kafka & Postgres", "What Herald stands on, and how it uses it.", list(infrastructure())
    ),
    "herald-dead-letters.json": dashboard(
        "herald-dead-letters", "Herald / Dead letters & replay", "What was given up on and what became of it.", list(dead_letters())
    ),
    "herald-objectives.json": dashboard(
        "herald-objectives", "Herald / SLO", "The two service level objectives and their budgets.", list(objectives())
    ),
}


def main():
    is_check = sys.argv[1:] == ["--check"]
    stale = []
    for name, content in DASHBOARDS.items():
        text = json.dumps(content, indent=2, ensure_ascii=False) + "\n"
        path = HERE / name
        if is_check and (not path.exists() or path.read_text() != text):
            stale.append(name)
        elif not is_check:
            path.write_text(text)
    if stale:
        sys.exit(f"stale: {', '.join(stale)}; run `make dashboards`")


if __name__ == "__main__":
    main()
