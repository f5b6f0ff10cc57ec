"""What lies in deploy/ and docs/runbooks fits together, and fits the service."""

from __future__ import annotations

import json
import re
import runpy
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

from consumer.cli import VERBS, load_verb
from consumer.monitor.drift.statistics import alarm_z, psi, psi_threshold, smoothed_ratios
from consumer.monitor.drift.window import SERIES
from consumer.monitor.health import Health, Level
from consumer.monitor.metrics import HealthTelemetry, MonitorTelemetry
from consumer.monitor.stream_status import StreamSnapshot
from consumer.roles.shared import role_registry
from consumer.runtime.readiness import Readiness
from consumer.scorer.metrics import ScorerTelemetry
from consumer.serve.metrics import HttpTelemetry
from consumer.settings import DriftSettings

ROOT = Path(__file__).parents[3]
PROMETHEUS = ROOT / "deploy" / "prometheus"
RULES, ALERTS = (PROMETHEUS / name for name in ("rules.yml", "alerts.yml"))
CASES = sorted((PROMETHEUS / "tests").glob("*.yml"))
RUNBOOKS = sorted((ROOT / "docs" / "runbooks").glob("Purchase*.md"))
DASHBOARD = ROOT / "deploy" / "grafana" / "dashboards" / "purchase-stream.json"
COMPOSE = ROOT / "docker-compose.yml"

ALERT_NAMES = re.findall(r"- alert: (\w+)", ALERTS.read_text())
METRICS_USED = sorted(
    set(
        re.findall(
            r"(?<![\w:])purchase_stream_\w+(?![\w:])",
            "\n".join(re.sub(r"#.*", "", path.read_text()) for path in (RULES, ALERTS, DASHBOARD)),
        )
    )
)
needs_promtool = pytest.mark.skipif(
    shutil.which("promtool") is None, reason="needs promtool: apt-get install prometheus"
)


def promtool(*arguments: str | Path) -> None:
    """Run promtool and show what it says if it fails."""
    command = ["promtool", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603 - of this file
    assert done.returncode == 0, done.stdout + done.stderr


@needs_promtool
def test_prometheus_accepts_its_configuration_and_rules() -> None:
    """The mounted files pass Prometheus' own validator."""
    promtool("check", "config", PROMETHEUS / "prometheus.yml")


@needs_promtool
@pytest.mark.parametrize("cases", CASES, ids=lambda path: path.stem)
def test_rules_and_alerts_do_what_their_cases_say(cases: Path) -> None:
    """Recorded values are right, and alerts fire when they should and only then."""
    promtool("test", "rules", cases)


@pytest.mark.parametrize("alert", ALERT_NAMES)
def test_every_alert_has_a_firing_and_a_quiet_case(alert: str) -> None:
    """An alert that was never seen firing, or never seen quiet, is not known to work."""
    text = "\n".join(path.read_text() for path in CASES)
    assert re.search(rf"alertname: {alert}, eval_time: \w+, exp_alerts: \[\]", text)
    assert re.search(rf"alertname: {alert}\n\s+eval_time: \w+\n\s+exp_alerts:\n\s+- exp_labels", text)


def test_every_alert_has_a_runbook_and_every_runbook_an_alert() -> None:
    """The pages are named after the alerts, and each alert links to its own."""
    assert sorted(ALERT_NAMES) == [page.stem for page in RUNBOOKS]
    linked = re.findall(r"runbook_url: .*/docs/runbooks\" }}/(\w+)\.md", ALERTS.read_text())
    assert linked == ALERT_NAMES


@pytest.mark.parametrize("page", RUNBOOKS, ids=lambda path: path.stem)
def test_runbooks_name_verbs_and_pages_that_exist(page: Path) -> None:
    """No command of a runbook is a wrong usage, and no link leads nowhere."""
    text = page.read_text()
    assert text.startswith(f"# {page.stem}\n")
    for verb, word in re.findall(r"purchase-stream ([a-z]+)(?: ([a-z]+))?", text):
        assert verb in VERBS
        inner = getattr(load_verb(verb), "commands", None)
        assert inner is None or word in inner
    for target in re.findall(r"\]\((\S+?)\)", text):
        assert (page.parent / target).is_file()


@pytest.mark.parametrize("name", METRICS_USED)
def test_every_metric_that_is_asked_for_is_shown(name: str) -> None:
    """Rules, alerts and dashboard query only metrics that a role exports."""
    registry = role_registry(Readiness(lambda: 0.0))
    ScorerTelemetry(registry)
    MonitorTelemetry(registry, DriftSettings())
    HttpTelemetry(registry)
    health = Health(level=Level.WELL, headline="All is well")
    registry.register(HealthTelemetry(lambda: health, StreamSnapshot, "events"))
    suffixes = {"counter": ["_total"], "histogram": ["_bucket", "_sum", "_count"]}
    shown = {
        family.name + suffix for family in registry.collect() for suffix in suffixes.get(family.type, [""])
    }
    assert name in shown


def test_prometheus_computes_what_the_monitor_computes() -> None:
    """The values that promtool expects of PSI and threshold match `drift.statistics`."""
    z = round(alarm_z(10 * DriftSettings().windows_per_false_alarm, len(SERIES)), 3)
    assert set(re.findall(r"(\d\.\d+) \* sqrt", RULES.read_text())) == {f"{z}"}
    counts = np.array([1, 2, 3, 4]) * 2 * 360  # two replicas, six hours, that much a minute
    index = psi(smoothed_ratios(counts), np.array([0.4, 0.3, 0.2, 0.1])).item()
    cases = (PROMETHEUS / "tests" / "drift.yml").read_text()
    threshold = psi_threshold(int(counts.sum()), 10_000, 4, 0.02, z)  # the tolerance of the cases
    values = re.findall(r'labels: .{model_version="v1",feature="courses_started"}., value: ([\d.]+)', cases)
    assert values == [f"{index:.4f}", f"{threshold:.4f}"]


def test_the_dashboard_is_what_its_code_makes() -> None:
    """The committed JSON is current: python deploy/grafana/dashboard.py."""
    made = runpy.run_path(str(ROOT / "deploy" / "grafana" / "dashboard.py"))["text"]()
    assert DASHBOARD.read_text() == made


def test_the_panels_have_numbers_of_their_own_and_do_not_overlap() -> None:
    """Grafana mixes up panels that share an id, and moves those that share a place."""
    panels = json.loads(DASHBOARD.read_text())["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    cells = [
        (x, y)
        for place in (panel["gridPos"] for panel in panels)
        for x in range(place["x"], place["x"] + place["w"])
        for y in range(place["y"], place["y"] + place["h"])
    ]
    assert len(set(cells)) == len(cells)
    assert max(x for x, _ in cells) < 24


def test_the_dashboard_fits_anybodys_grafana() -> None:
    """It names no data source of ours, its variables exist, and alerts and links stand on it."""
    made = json.loads(DASHBOARD.read_text())
    variables = {variable["name"]: variable for variable in made["templating"]["list"]}
    assert variables["datasource"]["type"] == "datasource"
    assert variables["datasource"]["query"] == "prometheus"
    text = DASHBOARD.read_text()
    uids = re.findall(r'"uid": "([^"]+)"', text)
    assert uids.count("purchase-stream") == 1
    assert set(uids) == {"purchase-stream", "${datasource}"}
    used = set(re.findall(r"\$\{?(\w+)", text)) - {"__rate_interval", "__all"}
    assert used == set(variables)
    queries = [target["expr"] for panel in made["panels"] for target in panel.get("targets", [])]
    own = [
        metric for query in queries for metric in re.findall(r"(?<![\w:])purchase_stream_\w+(.{8})", query)
    ]
    assert set(own) == {'{job=~"$'}
    (alerts,) = made["annotations"]["list"]
    assert alerts["expr"].startswith('ALERTS{alertname=~"PurchaseStream.*"')
    for link in made["links"]:
        assert (ROOT / "docs" / link["url"].split("/docs/", 1)[1]).is_file()


def test_compose_publishes_on_loopback_only_and_mounts_what_exists() -> None:
    """Nothing of the unprotected demo can be reached from another machine."""
    text = COMPOSE.read_text()
    ports = re.findall(r"ports: \[(.*)\]", text)
    assert len(ports) == text.count("ports:") == 5
    short, long = (
        re.compile(r'"127\.0\.0\.1:(\d+):\1"'),
        re.compile(r"{target: \d+, .*, host_ip: 127\.0\.0\.1}"),
    )
    assert all(short.fullmatch(port) or long.fullmatch(port) for port in ports)
    mounts = re.findall(r"- \./(\S+?):(\S+?):ro", text)
    assert mounts
    assert all((ROOT / source).exists() for source, _ in mounts)
    home = re.findall(r"DASHBOARD_PATH: (\S+)", text)[0]
    (folder,) = [Path(source) for source, target in mounts if target == "/etc/grafana/dashboards"]
    assert (ROOT / folder / Path(home).name) == DASHBOARD


def test_compose_runs_the_kafka_that_the_tests_run() -> None:
    """Container and embedded broker are the same release."""
    (image,) = re.findall(r"image: apache/kafka:(\S+)", COMPOSE.read_text())
    pom = (ROOT / "deploy" / "embedded-broker" / "pom.xml").read_text()
    assert re.findall(r"<kafka.version>(.+)</kafka.version>", pom) == [image]


def test_the_build_context_has_exactly_what_the_dockerfile_copies() -> None:
    """A COPY that .dockerignore leaves out would break the build; anything more would slow it."""
    lines = re.findall(
        r"^COPY (?!--from)(.+) \S+$", (ROOT / "deploy" / "Dockerfile").read_text(), re.MULTILINE
    )
    copied = {source for line in lines for source in line.split()}
    let_in = set(re.findall(r"^!(.+)$", (ROOT / ".dockerignore").read_text(), re.MULTILINE))
    assert copied == let_in
    assert all((ROOT / source).exists() for source in copied)
