"""The report: the monitor's numbers, over any span of the audit log."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from consumer.cli import main
from consumer.cli.context import Context
from consumer.cli.formatting import parse_time
from consumer.cli.report import EXIT_DRIFT, add_to
from consumer.dashboard.view import render_report
from consumer.errors import BadInputError, UsageError
from consumer.monitor.audit.lines import audit_lines
from consumer.monitor.audit.log import audit_log_lines
from consumer.monitor.drift.span import Span, read_span
from consumer.monitor.drift.tracker import Baselines, Drift
from consumer.monitor.drift.verdict import DriftStatus, WindowVerdict
from consumer.monitor.drift.window import student_hashes, versions_of
from consumer.monitor.view import report_view
from consumer.settings import DriftSettings
from model_store.countries import country_code

SETTINGS = DriftSettings(window_students=800)
NOON_MS = 1_780_000_000_000
HOUR_MS = 3_600_000


def time_of(ms: int) -> datetime:
    """Return a time."""
    return datetime.fromtimestamp(ms / 1000, UTC)


def written(folder: Path, *batches: Any) -> Path:
    """Write an audit log of two segments."""
    path = folder / "log.jsonl"
    lines = [
        audit_lines(b, source_topic="e", output_topic="p", partitions=[0] * len(b), offsets=range(len(b)))
        for b in batches
    ]
    (folder / "log.jsonl.000001").write_bytes(lines[0])
    path.write_bytes(b"".join(lines[1:]))
    return path


def read(log: Path, store: Any, since: datetime | None = None, until: datetime | None = None) -> Span:
    """Read a span."""
    return read_span(
        audit_log_lines(log), "the audit log", since, until, Baselines(store), country_code, SETTINGS
    )


def test_the_numbers_are_the_monitors(trained: Any, predict: Any, tmp_path: Path) -> None:
    """For the predictions of one window the report and the monitor agree to the last bit."""
    batches = [predict(range(500), scored_at_ms=NOON_MS), predict(range(300, 800), scored_at_ms=NOON_MS + 5)]
    drift = Drift(Baselines(trained.store), country_code, SETTINGS)
    for batch in batches:
        drift.add(batch, student_hashes(batch), versions_of(batch))
    (version,) = read(written(tmp_path, *batches), trained.store).versions
    assert version.predictions == 1000
    assert version.verdict == drift.snapshot().latest


def judged(window: WindowVerdict) -> list[Any]:
    """Return a window without its means, whose last bits depend on how the sums were batched."""
    series = [*window.features.values(), window.score]
    return [
        window.number,
        window.students,
        window.predictions,
        window.opened_ms,
        window.last_ms,
        window.rate,
    ] + [(verdict.status, verdict.psi, verdict.threshold, verdict.counts) for verdict in series]


def test_the_windows_are_the_monitors(trained: Any, predict: Any, tmp_path: Path) -> None:
    """Over several windows the report gives the verdicts that the monitor gave, drift included."""
    settings = SETTINGS.model_copy(update={"window_students": 500})
    batches = [
        predict(range(start, start + 700), scored_at_ms=NOON_MS + start) for start in range(0, 3500, 700)
    ]
    for batch in batches[2:4]:
        batch.numbers["features.minutes_watched"] += 300.0
    drift = Drift(Baselines(trained.store), country_code, settings)
    for batch in batches:
        drift.add(batch, student_hashes(batch), versions_of(batch))
    log = audit_log_lines(written(tmp_path, *batches))
    (version,) = read_span(
        log, "the audit log", None, None, Baselines(trained.store), country_code, settings
    ).versions
    assert [judged(window) for window in version.windows] == [judged(w) for w in drift.snapshot().recent]
    assert len(version.windows) == 7
    assert {window.status for window in version.windows} == {DriftStatus.OK, DriftStatus.DRIFT}
    assert (version.status, version.drifted_features) == (DriftStatus.DRIFT, ["minutes_watched"])


def test_a_span_has_an_inclusive_start_and_an_exclusive_end(
    trained: Any, predict: Any, tmp_path: Path
) -> None:
    """A prediction at the start counts, one at the end doesn't; rotated segments are read, too."""
    log = written(
        tmp_path, *[predict(range(10 * i, 10 * i + 10), scored_at_ms=NOON_MS + i * HOUR_MS) for i in range(3)]
    )
    assert read(log, trained.store).predictions == 30
    assert read(log, trained.store, since=time_of(NOON_MS + HOUR_MS)).predictions == 20
    assert read(log, trained.store, until=time_of(NOON_MS + HOUR_MS)).predictions == 10
    assert read(log, trained.store, time_of(NOON_MS + 1), time_of(NOON_MS + 2 * HOUR_MS)).predictions == 10


def test_each_version_is_compared_with_its_own_training(trained: Any, predict: Any, tmp_path: Path) -> None:
    """A version that isn't in the store is listed without a verdict."""
    log = written(tmp_path, predict(range(20)), predict(range(20, 25), version="gone"))
    known, gone = read(log, trained.store).versions
    assert (known.version, known.predictions) == (trained.version, 20)
    assert (gone.version, gone.predictions, gone.verdict) == ("gone", 5, None)
    html = render_report(report_view(read(log, trained.store), SETTINGS, 0.0)).decode()
    assert "Not comparable" in html


def test_the_report_stands_alone(trained: Any, predict: Any, tmp_path: Path) -> None:
    """The report is one file with inline style, without script or address; foreign text stays text."""
    log = written(tmp_path, predict(range(600)), predict(range(5), version="<script>x</script>"))
    html = render_report(report_view(read(log, trained.store), SETTINGS, 0.0)).decode()
    assert "<script" not in html
    assert "&lt;script&gt;x" in html
    assert "http" not in html.replace("http-equiv", "")
    assert " src=" not in html
    assert " href=" not in html
    assert "@media print" in html
    assert html.count("; drift above ") >= 9


def test_an_empty_span_says_so(trained: Any, predict: Any, tmp_path: Path) -> None:
    """A span without predictions is no error."""
    span = read(written(tmp_path, predict(range(3))), trained.store, since=time_of(NOON_MS))
    assert "No prediction in the audit log" in render_report(report_view(span, SETTINGS, 0.0)).decode()


@pytest.mark.parametrize("line", ["{", "[]", '{"timestamp_utc": "today"}', '{"timestamp_utc": 5}'])
def test_a_line_that_is_no_audit_line_is_named(trained: Any, tmp_path: Path, line: str) -> None:
    """A file that is no audit log is refused with its name and the line's number."""
    log = tmp_path / "log.jsonl"
    log.write_text(f"{line}\n")
    with pytest.raises(BadInputError, match=r"log\.jsonl, line 1"):
        read(log, trained.store)


def test_damage_in_the_middle_is_skipped_and_counted(trained: Any, predict: Any, tmp_path: Path) -> None:
    """The first damaged line is named; all others count."""
    log = written(tmp_path, predict(range(3)), predict(range(3, 6)))
    lines = log.read_bytes().splitlines(keepends=True)
    log.write_bytes(b"".join([*lines[:2], b"\0" * 50 + b"\n", b'{"half": \n', *lines[2:]]))
    span = read(log, trained.store)
    assert (span.predictions, span.damaged, span.first_damaged) == (6, 2, "log.jsonl, line 3")


def test_times_are_dates_or_ages() -> None:
    """A time without a zone is UTC, an age is subtracted from now, anything else is refused."""
    now = datetime(2026, 1, 31, 12, tzinfo=UTC)
    assert parse_time("2026-01-31", now, "--since") == datetime(2026, 1, 31, tzinfo=UTC)
    assert parse_time("2026-01-31T13:00+01:00", now, "--since") == now
    assert parse_time("24h", now, "--since") == datetime(2026, 1, 30, 12, tzinfo=UTC)
    assert parse_time(None, now, "--since") is None
    for nonsense in ("yesterday", "99999999999d", ""):
        with pytest.raises(UsageError, match="--since"):
            parse_time(nonsense, now, "--since")


def test_the_command_writes_the_file(trained: Any, predict: Any, tmp_path: Path) -> None:
    """``report`` writes one HTML file and summarizes it."""
    log, out = written(tmp_path, predict(range(600)), predict(range(600, 601))), tmp_path / "report.html"
    app = typer.Typer()
    add_to(app)
    given = Context(None, [f"model_store.path={trained.store.folder.parent}"], debug=False)
    result = CliRunner().invoke(app, ["--log", str(log), "--out", str(out)], obj=given)
    assert result.exit_code == 0, result.exception
    assert out.read_bytes().startswith(b"<!doctype html>")
    assert "601 predictions of 1 model versions" in result.output


def test_the_report_as_json_has_the_same_numbers(trained: Any, predict: Any, tmp_path: Path) -> None:
    """A file name that ends in .json gets the figures that the HTML report shows."""
    log, out = written(tmp_path, predict(range(600))), tmp_path / "report.json"
    app = typer.Typer()
    add_to(app)
    given = Context(None, [f"model_store.path={trained.store.folder.parent}"], debug=False)
    result = CliRunner().invoke(app, ["--log", str(log), "--out", str(out)], obj=given)
    assert result.exit_code == 0, result.exception
    (version,) = json.loads(out.read_bytes())["versions"]
    (expected,) = read(log, trained.store).versions
    assert version["predictions"] == 600
    assert expected.verdict is not None
    assert version["features"]["minutes_watched"]["psi"] == expected.verdict.features["minutes_watched"].psi


def test_fail_on_drift_says_what_the_monitor_said_by_its_exit_code(
    trained: Any, predict: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """One drifted window gives exit code 1, even if the whole span has not drifted; stdout has figures."""
    batches = [
        predict(range(start, start + 500), scored_at_ms=NOON_MS + start) for start in range(0, 5000, 500)
    ]
    batches[4].numbers["features.minutes_watched"] += 300.0
    log = written(tmp_path, *batches)
    arguments = [
        *("--set", f"audit.path={log}", "--set", f"model_store.path={trained.store.folder.parent}"),
        *("--set", "drift.window_students=500", "report", "--json"),
    ]
    main(arguments)
    view = json.loads(capsys.readouterr().out)
    assert [window["status"] for window in view["versions"][0]["windows"]].count("drift") == 1
    assert not (tmp_path / "report.html").exists()
    with pytest.raises(SystemExit) as ended:
        main([*arguments, "--fail-on-drift", "--out", str(tmp_path / "report.html")])
    assert ended.value.code == EXIT_DRIFT
    assert (tmp_path / "report.html").exists()
    calm = written(tmp_path, *batches[:2])
    main([*arguments, "--fail-on-drift", "--log", str(calm)])


def test_a_report_says_what_was_removed_from_the_log(trained: Any, predict: Any, tmp_path: Path) -> None:
    """A reader of the figures must know that they are not of everything."""
    log = written(tmp_path, predict(range(20)))
    removed = "removed by retention: 2 segments with 7 lines"
    html = render_report(report_view(read(log, trained.store), SETTINGS, 0.0, [removed])).decode()
    assert removed in html
