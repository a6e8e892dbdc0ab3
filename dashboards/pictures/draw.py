#!/usr/bin/env python3
"""Draws pictures of the dashboards: draw.py PROMETHEUS_URL SECONDS DIRECTORY

Not by Grafana: a page of our own (page.html) reads the JSON that Grafana imports, and shows what a real Prometheus answers to its queries.
A headless Chromium takes the picture. Standard library only.
"""

import json
import math
import subprocess
import sys
import tempfile
import time
import urllib.parse
import urllib.request
from pathlib import Path

HERE = Path(__file__).parent
DASHBOARDS = ("overview", "infrastructure", "dead-letters", "objectives")
WIDTH = 1600
LINE_PIXELS = 38  # as in Grafana: 30 and a gap of 8


def ask(url, what, **parameters):
    query = urllib.parse.urlencode(parameters)
    with urllib.request.urlopen(f"{url}/api/v1/{what}?{query}", timeout=30) as answer:
        return json.load(answer)["data"]["result"]


def number(text):
    value = float(text)
    return value if math.isfinite(value) else None


def answers(panel, url, start, end):
    """Each series of each query: its legend, its labels and its points."""
    found = []
    for target in panel.get("targets", []):
        query = target["expr"].replace("$__rate_interval", "15s")
        for name in ("job", "instance", "topic"):
            query = query.replace(f"${name}", ".+")
        if target.get("instant"):
            result = ask(url, "query", query=query, time=end)
            points = [[one["value"]] for one in result]
        else:
            result = ask(url, "query_range", query=query, start=start, end=end, step=1)
            points = [one["values"] for one in result]
        for one, values in zip(result, points):
            legend = target["legendFormat"]
            for label, value in one["metric"].items():
                legend = legend.replace("{{%s}}" % label, value).replace("{{ %s }}" % label, value)
            values = [[at, number(value)] for at, value in values]
            found.append({"legend": legend, "labels": one["metric"], "points": values})
    return found


def draw(name, url, seconds, directory):
    dashboard = json.loads((HERE.parent / f"herald-{name}.json").read_text())
    end = time.time()
    start = end - seconds
    for panel in dashboard["panels"]:
        panel["answers"] = answers(panel, url, start, end)
    lines = max(panel["gridPos"]["y"] + panel["gridPos"]["h"] for panel in dashboard["panels"])
    data = json.dumps({"dashboard": dashboard, "start": start, "end": end}).replace("</", "<\\/")
    page = (HERE / "page.html").read_text().replace("/*DATA*/null", data)
    with tempfile.TemporaryDirectory() as work:
        file = Path(work) / "page.html"
        file.write_text(page)
        picture = directory / f"dashboard-{name}.png"
        subprocess.run(
            [
                "chromium", "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--hide-scrollbars",
                f"--user-data-dir={work}/profile", f"--window-size={WIDTH},{lines * LINE_PIXELS + 96}",
                f"--screenshot={picture.resolve()}", file.as_uri(),
            ],
            check=True, capture_output=True, timeout=120,
        )
    print(picture)


def main():
    # Without the start of everything.
    url, seconds, directory = sys.argv[1], int(sys.argv[2]) - 20, Path(sys.argv[3])
    directory.mkdir(parents=True, exist_ok=True)
    for name in DASHBOARDS:
        draw(name, url, seconds, directory)


if __name__ == "__main__":
    main()
