# noqa: INP001 - a script; deploy is no package
"""Write the Grafana dashboard: ``python deploy/grafana/dashboard.py``.

The JSON beside it is committed, because Grafana provisions files; a test holds the two together. It can be
imported into any Grafana: it names no data source, but has a variable for it.
A query that needs data older than the service shows nothing at first; none of them divides by zero.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

TARGET: Final = Path(__file__).parent / "dashboards" / "purchase-stream.json"
_DATASOURCE: Final = {"type": "prometheus", "uid": "${datasource}"}
_DOCS: Final = "https://github.com/purchase-stream/purchase-stream/blob/main/docs"
_WITH_JOB: Final = re.compile(r"(?<![\w:])((?:job\w*:)?purchase_stream_\w+(?::\w+)?)(\{)?")
"""A metric of a role, or a recorded series that keeps the label ``job``."""
_COLUMNS: Final = 24
"""Width of Grafana's grid."""

_HEIGHT: Final = {"stat": 4}
_DEFAULT_HEIGHT: Final = 8


@dataclass(frozen=True, slots=True)
class Panel:
    """One picture; the panels of a row share its width.

    Attributes:
        title: What it shows.
        queries: PromQL expressions by how their series are called.
        unit: Grafana's name of the unit.
        kind: Grafana's name of the panel type.
        red_above: From this value on it is shown in red.
        red_below: Below this value it is shown in red.
        help: What to make of it.
    """

    title: str
    queries: dict[str, str]
    unit: str = "short"
    kind: str = "timeseries"
    red_above: float | None = None
    red_below: float | None = None
    help: str = ""

    def as_json(self, number: int, x: int, y: int, width: int) -> dict[str, Any]:
        """Return Grafana's form of it at a place of the grid."""
        instant = self.kind in {"stat", "table"}
        form = {"heatmap": "heatmap", "table": "table"}.get(self.kind, "time_series")
        defaults: dict[str, Any] = {"unit": self.unit, "thresholds": self._thresholds()}
        if self.kind == "timeseries":
            defaults |= {"min": 0, "custom": {"fillOpacity": 8, "showPoints": "never"}}
        return {
            "id": number,
            "type": self.kind,
            "title": self.title,
            "description": self.help,
            "datasource": _DATASOURCE,
            "gridPos": {"x": x, "y": y, "w": width, "h": _HEIGHT.get(self.kind, _DEFAULT_HEIGHT)},
            "fieldConfig": {"defaults": defaults, "overrides": []},
            "options": _OPTIONS[self.kind],
            "targets": [
                {
                    "refId": chr(ord("A") + i),
                    "datasource": _DATASOURCE,
                    "expr": of_chosen_jobs(expression),
                    "legendFormat": legend,
                    "format": form,
                    "instant": instant,
                    "range": not instant,
                }
                for i, (legend, expression) in enumerate(self.queries.items())
            ],
        }

    def _thresholds(self) -> dict[str, Any]:
        steps: list[dict[str, Any]] = [{"color": "green", "value": None}]
        if self.red_above is not None:
            steps.append({"color": "red", "value": self.red_above})
        if self.red_below is not None:
            steps = [{"color": "red", "value": None}, {"color": "green", "value": self.red_below}]
        return {"mode": "absolute", "steps": steps}


def of_chosen_jobs(expression: str) -> str:
    """Return a query of the jobs that the variable ``job`` chooses.

    >>> of_chosen_jobs('sum(purchase_stream_scorers) / up{job="score"}')
    'sum(purchase_stream_scorers{job=~"$job"}) / up{job="score"}'
    """

    def select(found: re.Match[str]) -> str:
        return found[1] + '{job=~"$job"' + ("," if found[2] else "}")

    return _WITH_JOB.sub(select, expression)


_OPTIONS: Final[dict[str, dict[str, Any]]] = {
    "stat": {"colorMode": "background", "graphMode": "none", "reduceOptions": {"calcs": ["lastNotNull"]}},
    "timeseries": {"legend": {"displayMode": "list", "placement": "bottom"}, "tooltip": {"mode": "multi"}},
    "heatmap": {"calculate": False, "yAxis": {"unit": "percentunit"}, "color": {"scheme": "Blues"}},
    "table": {"showHeader": True},
}


def _rate(metric: str, *labels: str) -> str:
    by = f" by ({', '.join(labels)})" if labels else ""
    return f"sum{by} (rate(purchase_stream_{metric}[$__rate_interval]))"


def _quantile(quantile: float, metric: str, *labels: str) -> str:
    return f"histogram_quantile({quantile}, {_rate(f'{metric}_bucket', *labels, 'le')})"


def _quality(figure: str) -> dict[str, str]:
    return {
        f"{kind}, {{{{model_version}}}}": f"model_version:purchase_stream_{kind}_{figure}:ratio_increase1d"
        for kind in ("realised", "expected")
    }


_DRIFT: Final = "model_version_feature:purchase_stream_drift_"

ROWS: Final[dict[str, tuple[Panel, ...]]] = {
    "Is it well?": (
        Panel("Scorers", {"": 'sum(up{job="score"})'}, kind="stat", red_below=1),
        Panel("Monitor", {"": 'sum(up{job="monitor"})'}, kind="stat", red_below=1),
        Panel(
            "Firing alerts",
            {"": 'count(ALERTS{alertname=~"PurchaseStream.*", alertstate="firing"}) or vector(0)'},
            kind="stat",
            red_above=1,
            help="Each has a page in docs/runbooks.",
        ),
        Panel(
            "Retraining recommended",
            {"": "max(purchase_stream_retraining_recommended)"},
            kind="stat",
            red_above=1,
            help="The monitor's /monitoring/retraining_trigger says why.",
        ),
        Panel(
            "Performance decay",
            {"": "max(purchase_stream_performance_status)"},
            kind="stat",
            red_above=1,
            help="Precision and recall against expectation: 1 decay, 0 ok, -1 unknown.",
        ),
        Panel("Events waiting", {"": "sum(partition:purchase_stream_consumer_lag_events:max)"}, kind="stat"),
        Panel(
            "Since the last commit",
            {"": "time() - max(purchase_stream_last_commit_timestamp_seconds)"},
            "s",
            "stat",
            help="Only a worry while events wait.",
        ),
        Panel(
            "Rejected, last 15 minutes",
            {"": "job:purchase_stream_rejected:ratio_increase15m"},
            "percentunit",
            "stat",
            red_above=0.05,
        ),
    ),
    "Flow": (
        Panel("Events by outcome", {"{{outcome}}": _rate("events_total", "outcome")}, "eps"),
        Panel(
            "Lag by partition",
            {"partition {{partition}}": "partition:purchase_stream_consumer_lag_events:max"},
        ),
        Panel(
            "Batches by result",
            {"{{result}}": _rate("transactions_total", "result"), "rebalances": _rate("rebalances_total")},
            "ops",
        ),
    ),
    "Latency": (
        Panel(
            "From event to prediction",
            {f"{q:.0%} are faster than": _quantile(q, "event_age_seconds") for q in (0.5, 0.9, 0.99)},
            "s",
            help="From occurred_at, so an upstream that sends late shows here, too.",
        ),
        Panel(
            "Stages of a batch, slowest percent",
            {"{{stage}}": _quantile(0.99, "stage_duration_seconds", "stage")},
            "s",
        ),
        Panel(
            "Events per batch",
            {
                "mean": f"{_rate('batch_events_sum')} / {_rate('batch_events_count')}",
                "99%": _quantile(0.99, "batch_events"),
            },
        ),
    ),
    "The synchronous API": (
        Panel(
            "Requests by route and status",
            {"{{route}} {{status}}": _rate("http_requests_total", "route", "status")},
            "reqps",
        ),
        Panel(
            "Duration of /predict",
            {
                f"{q:.0%} are faster than": f"histogram_quantile({q}, sum by (le) (rate("
                'purchase_stream_http_request_duration_seconds_bucket{route="/predict"}[$__rate_interval])))'
                for q in (0.5, 0.99)
            },
            "s",
            red_above=0.2,
            help="Until Kafka has acknowledged the prediction. The objective: 99 % within 0.2 s.",
        ),
        Panel(
            "Requests in flight",
            {"{{instance}}": "sum by (instance) (purchase_stream_http_requests_in_flight)"},
        ),
        Panel(
            "Failed, one hour",
            {"of the prediction requests": "job:purchase_stream_http_failed:ratio_rate1h"},
            "percentunit",
            help="Answered with 5xx. The objective: less than 0.5 %.",
        ),
    ),
    "Rejections": (
        Panel("Dead letters by code", {"{{code}}": _rate("rejections_total", "code")}, "eps"),
        Panel(
            "Unknown countries",
            {
                "of the scored events": _rate("unknown_country_total")
                + ' / sum (rate(purchase_stream_events_total{outcome="scored"}[$__rate_interval]))'
            },
            "percentunit",
        ),
    ),
    "Scores": (
        Panel(
            "Probabilities",
            {
                "{{le}}": "sum by (le) (increase("
                "purchase_stream_prediction_probability_bucket[$__rate_interval]))"
            },
            kind="heatmap",
        ),
        Panel(
            "Predicted purchases",
            {
                "last six hours": "model_version:purchase_stream_predicted_positive:ratio_increase6h",
                "the monitor's window": "max(purchase_stream_predicted_positive_ratio)",
                "training": "max(purchase_stream_training_positive_ratio)",
            },
            "percentunit",
        ),
    ),
    "Drift": (
        Panel(
            "PSI over six hours, all replicas",
            {"{{feature}}": f"{_DRIFT}psi:sum_increase6h"},
            help="predicted_purchase is the decision; it is judged by its share, in the row above.",
        ),
        Panel(
            "PSI over its threshold",
            {
                "{{feature}}, six hours": f'{_DRIFT}psi:sum_increase6h{{feature!="predicted_purchase"}}'
                f" / {_DRIFT}psi_threshold:increase6h",
                "{{feature}}, the monitor's window": "max by (feature) (purchase_stream_drift_psi)"
                " / max by (feature) (purchase_stream_drift_psi_threshold)",
            },
            "percentunit",
            help="Above 100 % is drift. The threshold falls as observations come in.",
        ),
        Panel(
            "The monitor's verdicts",
            {"{{feature}}": "max by (feature) (purchase_stream_drift_status)"},
            kind="stat",
            red_above=1,
            help="1 drift, 0 ok, -1 unknown.",
        ),
        Panel(
            "Observations in six hours",
            {"{{feature}}": f"{_DRIFT}observations:increase6h"},
            help="Under 500 nothing is said. A student counts once per window of the monitor.",
        ),
    ),
    "Outcomes, where there is a feed of them": (
        Panel(
            "Precision, one day",
            _quality("precision"),
            "percentunit",
            help="Of those predicted to buy, the share that bought; expected: if probabilities are right.",
        ),
        Panel(
            "Recall, one day",
            _quality("recall"),
            "percentunit",
            help="Of those who bought, the share that was predicted to; expected: as for precision.",
        ),
        Panel(
            "Brier score, one day",
            _quality("brier_score"),
            help="Mean squared error of the probabilities: lower is better.",
        ),
        Panel(
            "Outcomes by what became of them",
            {
                "{{result}}": _rate("outcomes_total", "result"),
                "matured": _rate("matured_outcomes_total"),
            },
            "eps",
            help="Unmatched: no prediction waited for them.",
        ),
    ),
    "Model": (
        Panel(
            "On now",
            {"": "count by (model_version, estimator, scikit_learn) (purchase_stream_model_info)"},
            kind="table",
            help="Value: how many scorers run it.",
        ),
        Panel(
            "Looks at another model", {"{{result}}": "sum by (result) (purchase_stream_model_reloads_total)"}
        ),
    ),
    "Audit log": (
        Panel(
            "Predictions and lines",
            {"predictions": _rate("predictions_total"), "lines": _rate("audit_lines_total")},
            "eps",
        ),
        Panel("Growth", {"log": _rate("audit_bytes_total")}, "Bps"),
        Panel(
            "Records that are no predictions",
            {"records": "sum(purchase_stream_audit_undecodable_records_total)"},
        ),
    ),
}


def dashboard() -> dict[str, Any]:
    """Lay the rows out and return Grafana's form of the dashboard."""
    panels: list[dict[str, Any]] = []
    y = 0
    for title, row in ROWS.items():
        panels.append(
            {
                "id": len(panels) + 1,
                "type": "row",
                "title": title,
                "collapsed": False,
                "gridPos": {"x": 0, "y": y, "w": _COLUMNS, "h": 1},
                "panels": [],
            }
        )
        y += 1
        width = _COLUMNS // len(row)
        for column, panel in enumerate(row):
            panels.append(panel.as_json(len(panels) + 1, column * width, y, width))
        y += max(panel["gridPos"]["h"] for panel in panels[-len(row) :])
    return {
        "uid": "purchase-stream",
        "title": "Purchase Stream",
        "description": "Needs the recording rules of deploy/prometheus.",
        "tags": ["purchase-stream"],
        "schemaVersion": 39,
        "timezone": "browser",
        "refresh": "15s",
        "time": {"from": "now-1h", "to": "now"},
        "editable": True,
        "templating": {"list": _variables()},
        "annotations": {"list": [_alerts()]},
        "links": [
            {"type": "link", "title": title, "url": f"{_DOCS}/{page}", "targetBlank": True, "icon": "doc"}
            for title, page in (
                ("Runbooks", "runbooks/index.md"),
                ("States", "states.md"),
                ("Metrics", "metrics.md"),
            )
        ],
        "panels": panels,
    }


def _variables() -> list[dict[str, Any]]:
    """Return the variables: the data source, and the jobs whose metrics are shown."""
    return [
        {
            "name": "datasource",
            "label": "Data source",
            "type": "datasource",
            "query": "prometheus",
            "refresh": 1,
            "hide": 0,
        },
        {
            "name": "job",
            "label": "Job",
            "description": "Series that were added over all jobs are not filtered.",
            "type": "query",
            "datasource": _DATASOURCE,
            "query": {"query": "label_values(purchase_stream_build_info, job)", "refId": "job"},
            "refresh": 2,
            "sort": 1,
            "multi": True,
            "includeAll": True,
            "allValue": ".*",
            "current": {"text": "All", "value": "$__all"},
            "hide": 0,
        },
    ]


def _alerts() -> dict[str, Any]:
    """Return the annotations: a mark wherever an alert fires."""
    return {
        "name": "Alerts",
        "datasource": _DATASOURCE,
        "enable": True,
        "iconColor": "red",
        "expr": 'ALERTS{alertname=~"PurchaseStream.*", alertstate="firing"}',
        "step": "60s",
        "titleFormat": "{{alertname}}",
        "textFormat": "{{severity}} {{job}} {{cause}}{{condition}}",
    }


def text() -> str:
    """Return the file's content."""
    return json.dumps(dashboard(), indent=1) + "\n"


if __name__ == "__main__":
    TARGET.write_text(text())
