"""The page's words in each state, and its safety against foreign markup."""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import pytest
from prometheus_client import CollectorRegistry, generate_latest
from starlette.applications import Starlette
from starlette.testclient import TestClient

from consumer.dashboard.history import BARS, HOURS, TopicHistory
from consumer.dashboard.records import ReadRecord, RecordPages
from consumer.dashboard.rendering import render
from consumer.dashboard.routes import DashboardData, page_routes
from consumer.dashboard.view import page
from consumer.errors import Condition, StartupError
from consumer.kafka.admin import GroupMember, Topic
from consumer.kafka.reader import PolledRecords
from consumer.monitor.challenger import ComparisonSnapshot, LiveCounts
from consumer.monitor.drift.tracker import Baselines, Drift
from consumer.monitor.drift.window import student_hashes, versions_of
from consumer.monitor.health import assess
from consumer.monitor.loop import CommittedBatch
from consumer.monitor.metrics import ChallengerTelemetry
from consumer.monitor.outcomes.join import OutcomesSnapshot
from consumer.monitor.outcomes.quality import sums_of
from consumer.monitor.recent import HISTORY_S, RecentPredictions, RejectionLog
from consumer.monitor.retraining import recommend
from consumer.monitor.sequential_test import SequentialTest
from consumer.monitor.snapshot import ModelSnapshot, MonitorSnapshot
from consumer.monitor.stream_status import StreamSnapshot
from consumer.monitor.view import challenger_answer, page_view
from consumer.pipeline.decode import Decoder
from consumer.pipeline.rejections import NONE_REJECTED
from consumer.roles.monitor import champion_since
from consumer.runtime.readiness import ActiveCondition
from consumer.settings import ChallengerSettings, DriftSettings, OutcomeSettings, Settings, TopicSettings
from model_store.countries import country_code
from model_store.errors import ModelStoreError
from model_store.reasons import Contribution, Reasons
from schemas.repository import BundledSchemas, purchase_prediction

View = dict[str, Any]

EVIL = '"><script>alert(1)</script>'
NOW_S = 1_800_000_000.0
DRIFT_SETTINGS = DriftSettings(window_students=500)


def committed(predictions: Any) -> CommittedBatch:
    """Return predictions as a batch of one partition."""
    n = len(predictions)
    records = PolledRecords(np.zeros(n, np.int64), np.arange(n), [b""] * n, {0: n})
    return CommittedBatch(records, predictions, NONE_REJECTED)


def model_snapshot(store: Any, *batches: Any, outcomes: OutcomesSnapshot | None = None) -> ModelSnapshot:
    """Return what is known about the model after these predictions."""
    drift = Drift(Baselines(store), country_code, DRIFT_SETTINGS)
    drift.refresh_champion()
    for batch in batches:
        drift.add(batch, student_hashes(batch), versions_of(batch))
    now, outcomes = drift.snapshot(), outcomes or OutcomesSnapshot()
    return ModelSnapshot(drift=now, outcomes=outcomes, recommendation=recommend(now, outcomes, 2), at_s=NOW_S)


def view_of(
    store: Any,
    *batches: Any,
    letters: tuple[bytes, ...] = (),
    outcomes: OutcomesSnapshot | None = None,
    **conditions: str,
) -> View:
    """Return what the monitor knows after these predictions and dead letters."""
    recent = RecentPredictions("events", "predictions", lambda: NOW_S)
    for batch in batches:
        recent.observe(committed(batch))
    rejections = RejectionLog()
    rejections.add(letters, [(0, i) for i in range(len(letters))], counted=[True] * len(letters))
    snapshot = MonitorSnapshot(
        at_s=NOW_S,
        conditions={
            Condition(name): ActiveCondition(reason, NOW_S - 90) for name, reason in conditions.items()
        },
        model=model_snapshot(store, *batches, outcomes=outcomes),
        recent=recent.snapshot(),
        stream=StreamSnapshot(
            lag_events=12,
            lag_by_partition={0: 12, 1: 0, 2: 0},
            members=2,
            group=[
                GroupMember("purchase-stream-b", "10.0.0.2", [("events", 2), ("events", 0)]),
                GroupMember("purchase-stream-a", "10.0.0.1", []),
            ],
            rejections=rejections.counts,
            last=rejections.last,
            progress_problem="",
            rejections_problem="",
        ),
    )
    return page_view(snapshot, assess(snapshot), DRIFT_SETTINGS, OutcomeSettings(), ChallengerSettings())


def shown(answer: View) -> str:
    """Return the page."""
    return render("page.html", page(answer, Settings())).decode()


def explain(version: str, _student: Any) -> Reasons:
    """Return reasons as a model gives them; those of a removed version are not known."""
    if version != "v1":
        raise ModelStoreError(f"no version {version}")
    contributions = (
        Contribution("student_country", "US", 0.5),
        Contribution("minutes_watched", 412.5, -1.25),
        Contribution("days_on_platform", 30.0, 0.0),
    )
    reference: dict[str, float | str] = {"student_country": "unknown", "minutes_watched": 0.0}
    return Reasons("v1", 0.25, "log_odds", reference, -0.35, contributions)


class Topics:
    """A Kafka whose topics get one record per minute and partition, and which has no dead-letter topic."""

    def describe_topic(self, name: str) -> Topic:
        """Return a topic of two partitions."""
        if name == TopicSettings().dead_letters:
            raise StartupError(f"topic {name} does not exist")
        return Topic(partitions=2)

    def end_offsets(self, _topic: str, partitions: Iterable[int]) -> dict[int, int]:
        """Return the offsets of now."""
        return dict.fromkeys(partitions, int(NOW_S / 60))

    def offsets_since(self, _topic: str, partitions: Iterable[int], time_ms: int) -> dict[int, int]:
        """Return the offset of the next minute; the last minute has no record yet."""
        offset = -(-time_ms // 60_000)
        return dict.fromkeys(partitions, offset) if offset < int(NOW_S / 60) else {}


def data_of(
    page: Callable[[], View], read: ReadRecord = lambda _topic, _partition, _offset: None, **changes: Any
) -> DashboardData:
    """Return a dashboard's data over a page and a function that reads records."""
    decoder = Decoder(purchase_prediction(), BundledSchemas())
    data = DashboardData(
        page=page,
        window=lambda _number: None,
        find_rejections=lambda _text: [],
        records=RecordPages(read, TopicSettings(), decoder, explain),
        history=TopicHistory(Topics, TopicSettings(), lambda: NOW_S),
    )
    return dataclasses.replace(data, **changes)


def comparison(champion: str, problem: str = "") -> ComparisonSnapshot:
    """Return a comparison on four students, of whom one could not be scored, and three outcomes."""
    p, q = np.full(4, 0.1), np.array([0.2, 0.2, 0.9, np.nan])
    purchased = np.array([0, 0, 1])
    return ComparisonSnapshot(
        contender="challenger",
        champion=champion,
        version="v-next",
        live=LiveCounts().add(p, np.zeros(4, np.int64), q, 0.5),
        test=SequentialTest().add(p[:3], q[:3], purchased),
        champion_sums=sums_of(p[:3], np.zeros(3, np.int64), purchased),
        sums=sums_of(q[:3], purchased, purchased),
        problem=problem,
    )


def letter(**changes: Any) -> bytes:
    """Return a dead letter."""
    source = {"topic": "events", "partition": 1, "offset": 7, "timestamp": 0, "key": "s-1"}
    return json.dumps(
        {
            "status": 422,
            "code": "rule_violated",
            "detail": "too many",
            "rejected_at": "2026-01-31T12:00:00.000Z",
        }
        | {"source": source, "event": {"event_id": "e-1", "student_id": "s-1"}, "raw": None}
        | changes
    ).encode()


def test_without_a_model_the_page_says_so(empty_store: Any) -> None:
    """Without a model the page says what to do and invents no number."""
    html = shown(view_of(empty_store))
    assert "train and promote a model" in html
    assert "Nothing to compare with" in html
    assert "needs someone to look" in html
    assert "<svg" not in html
    assert "No prediction in the last 120 seconds." in html


def test_without_data_training_stands_alone(trained: Any) -> None:
    """Before the first prediction the page draws the training shares and judges nothing."""
    html = shown(view_of(trained.store))
    assert "No prediction of this model has been seen yet" in html
    assert 'class="live"' not in html.replace('class="swatch live"', "")
    assert html.count("not judged yet") == 9
    assert "No prediction since the monitor started." in html


def test_a_condition_is_shown_with_its_start(trained: Any) -> None:
    """While Kafka is away the page says that all is not well, why, and since when."""
    html = shown(view_of(trained.store, broker="no answer from broker-1"))
    assert "Not well" in html
    assert "no answer from broker-1" in html
    assert "(90.0 s)" in html
    assert "<title>✗ not well" in html


def test_stable_traffic_is_well(trained: Any, predict: Any) -> None:
    """While students are as in training all is well, and each series shows its evidence."""
    html = shown(view_of(trained.store, predict(range(700), scored_at_ms=int(NOW_S * 1000))))
    assert "All is well" in html
    assert html.count("as in training") >= 9
    assert html.count("; drift above ") >= 9
    assert "200 of 500 students are in the running window" in html
    assert "student-699" in html


def test_a_running_window_is_shown_without_a_verdict(trained: Any, predict: Any) -> None:
    """Before the first window is full the page draws its bars and judges nothing."""
    html = shown(view_of(trained.store, predict(range(50))))
    assert "50 of 500 in the window" in html
    assert html.count("not judged yet") == 9


def test_latencies_that_mislead_say_so(trained: Any, predict: Any) -> None:
    """Latencies are marked when they are old or come from a backlog, and only then."""
    answer = view_of(trained.store, predict(range(5), scored_at_ms=int(NOW_S * 1000)))
    assert "old: no prediction" not in shown(answer)
    causes = [{"cause": "catching_up", "level": "attention", "text": "x", "since": None, "runbook": "y"}]
    assert "waited in a backlog" in shown(answer | {"health": answer["health"] | {"causes": causes}})
    assert "old: no prediction in the last 120 s" in shown(view_of(trained.store, predict(range(5))))


def test_members_and_lag_are_shown(trained: Any) -> None:
    """Each partition has its lag and its owner, each member its host; a standby is named as one."""
    answer = view_of(trained.store)
    members = answer["stream"]["members"]
    assert [member["client_id"] for member in members] == ["purchase-stream-a", "purchase-stream-b"]
    html = shown(answer)
    for text in ("2 members of the consumer group", "10.0.0.2", "<td>0, 2</td>", "none: a standby"):
        assert text in html
    assert "in 3 partitions" in html
    assert re.search(r">0</th><td>12</td><td><bdi>purchase-stream-b<", html)
    assert re.search(r">1</th><td>0</td><td><bdi>none<", html)


def test_foreign_text_is_text_everywhere(trained: Any, predict: Any) -> None:
    """Markup in ids, details and reasons is shown as text."""
    evil = letter(
        detail=EVIL,
        code=EVIL,
        rejected_at=EVIL,
        event={"event_id": EVIL, "student_id": EVIL},
        source={"topic": EVIL},
    )
    answer = view_of(trained.store, predict(range(5)), letters=(evil,), broker=EVIL)
    foreign = {"student_id": EVIL, "event_id": EVIL, "model_version": EVIL}
    answer["predictions"]["latest"] = [answer["predictions"]["latest"][0] | foreign]
    html = shown(answer)
    assert "<script>alert" not in html
    assert html.count("<script") == 1
    assert html.count("&lt;script&gt;alert(1)") >= 7


def test_no_markup_is_inline_script_or_style(trained: Any, predict: Any) -> None:
    """The page needs nothing that its content security policy forbids."""
    html = shown(view_of(trained.store, predict(range(600)), letters=(letter(),)))
    assert " style=" not in html
    assert "<style" not in html
    assert " onclick" not in html
    assert "http://" not in html
    assert "https://" not in html


@pytest.mark.parametrize(
    "value",
    [b"", b"\xff", b"null", b"[]", b'{"source": 1, "event": [], "detail": [{}], "code": {}}', b'{"code": 5}'],
)
def test_anything_in_the_dead_letter_topic_can_be_shown(value: bytes) -> None:
    """A record that is no dead letter counts as ``other`` and breaks nothing."""
    rejections = RejectionLog()
    rejections.add([None, value], [(0, 1), (0, 2)], counted=[True, True])
    assert rejections.counts == {"other": 1}


def test_older_dead_letters_are_shown_but_not_counted() -> None:
    """Rejections from before the monitor's start are listed but not counted."""
    rejections = RejectionLog()
    rejections.add([letter(detail="old"), letter(detail="new")], [(0, 1), (1, 0)], counted=[False, True])
    assert rejections.counts == {"rule_violated": 1}
    assert [last.detail for last in rejections.last] == ["new", "old"]


def test_long_ids_of_rejected_events_are_cut() -> None:
    """A rejected event with an id of a megabyte costs the monitor and the page next to nothing."""
    long = "x" * 1_000_000
    rejections = RejectionLog()
    value = letter(detail=long, event={"event_id": long, "student_id": long})
    rejections.add([value] * 5, [(0, i) for i in range(5)], counted=[True] * 5)
    assert all(len(rejection.event_id) == 501 for rejection in rejections.last)
    assert sum(len(str(rejection)) for rejection in rejections.last) < 10_000
    assert len(rejections.find(long)) == 5


def test_recent_predictions_are_counted_by_second(predict: Any) -> None:
    """Rate, total and latency follow the predictions; the newest prediction is listed first."""
    now_s = [NOW_S]
    recent = RecentPredictions("events", "predictions", lambda: now_s[0])
    recent.observe(committed(predict(range(20), scored_at_ms=int(NOW_S * 1000) - 500)))
    for row in (20, 21, 22):
        recent.observe(committed(predict(range(row, row + 1), scored_at_ms=int(NOW_S * 1000) - 500)))
    now_s[0] += 1
    snapshot = recent.snapshot()
    assert snapshot.per_second == [0] * (HISTORY_S - 1) + [23]
    assert snapshot.total == 23
    assert snapshot.rate == 2.3
    assert [line["student_id"] for line in snapshot.last] == [f"student-{i}" for i in range(22, 12, -1)]
    assert [line["output"]["offset"] for line in snapshot.last[:5]] == [0, 0, 0, 19, 18]
    assert snapshot.latency is not None
    assert snapshot.latency.to_log_s == (0.5, 0.5)


def test_the_challenger_stands_beside_the_champion(trained: Any) -> None:
    """Without a challenger the page says how to name one; with one it shows disagreement and quality."""
    answer = view_of(trained.store)
    assert "models challenge VERSION" in shown(answer)
    model = dataclasses.replace(model_snapshot(trained.store), comparisons=(comparison(trained.version),))
    answer["challenger"] = challenger_answer(model, ChallengerSettings())
    (compared,) = answer["challenger"]["comparisons"]
    assert (compared["scored"], compared["failed"], compared["outcomes"]) == (3, 1, 3)
    assert compared["quality"]["recall"] == 1.0
    assert compared["champion_quality"]["precision"] is None
    html = shown(answer)
    assert "v-next" in html
    assert "33.3\N{NO-BREAK SPACE}% of 3 students" in html
    assert "a person decides" in html
    registry = CollectorRegistry()
    registry.register(ChallengerTelemetry(lambda: model.comparisons))
    labels = {"alias": "challenger", "model_version": "v-next"}
    assert (
        registry.get_sample_value("purchase_stream_challenger_students_total", {**labels, "result": "failed"})
        == 1
    )
    assert (
        registry.get_sample_value(
            "purchase_stream_challenger_probability_difference_bucket", {**labels, "le": "0.1"}
        )
        == 2
    )
    assert b"challenger_probability_difference_bucket" in generate_latest(registry)


def test_predictions_of_the_api_are_counted_apart(predict: Any, trained: Any) -> None:
    """The section of the API shows the predictions that have no event, with their rate."""
    recent = RecentPredictions("events", "predictions", lambda: NOW_S)
    batch = predict(range(20), scored_at_ms=int(NOW_S * 1000) - 500)
    batch.numbers["source_offset"][:5] = -1
    recent.observe(committed(batch))
    api = recent.snapshot().api
    assert (api.total, api.last_s, sum(api.per_second)) == (5, NOW_S, 0)
    answer = view_of(trained.store, batch)
    answer["at"] = "2026-01-31T12:00:00.000Z"
    assert "No prediction came by the API" not in shown(answer)
    assert "No prediction came by the API" in shown(view_of(trained.store))


def test_the_history_counts_offsets_between_times() -> None:
    """Each bar is the growth of the offsets of all partitions; a missing topic is said."""
    view = TopicHistory(Topics, TopicSettings(), lambda: NOW_S)(6)
    events, predictions, dead_letters = view["series"]
    assert [row["count"] for row in events["rows"][:-1]] == [30] * (BARS - 1)
    assert events["total"] == sum(row["count"] for row in predictions["rows"])
    assert "does not exist" in dead_letters["problem"]
    client = TestClient(Starlette(routes=page_routes(Settings(), data_of(dict))))
    for hours in (*HOURS, "nonsense"):
        answer = client.get("/history", params={"hours": str(hours)})
        assert answer.status_code == 200
        assert "does not exist" in answer.text
    assert client.get("/history").text.count("<svg") == 2


def test_the_time_of_the_last_promotion(trained: Any, empty_store: Any) -> None:
    """The time comes from the store's history; another version or an empty store has none."""
    assert champion_since(trained.store, trained.version)
    assert champion_since(trained.store, "another") is None
    assert champion_since(empty_store, trained.version) is None


@pytest.fixture
def client(trained: Any) -> TestClient:
    """A client of the page's routes."""
    return TestClient(Starlette(routes=page_routes(Settings(), data_of(lambda: view_of(trained.store)))))


def test_the_page_is_served_with_a_strict_policy(client: TestClient) -> None:
    """The page loads only its own files, and no inline script would run."""
    answer = client.get("/")
    policy = answer.headers["content-security-policy"]
    assert answer.status_code == 200
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    for name, media_type in (
        ("page.css", "text/css"),
        ("page.js", "text/javascript"),
        ("icon.svg", "image/svg+xml"),
    ):
        assert f"/static/{name}" in answer.text
        assert client.get(f"/static/{name}").headers["content-type"].startswith(media_type)
    assert client.get("/static/../routes.py").status_code == 404
