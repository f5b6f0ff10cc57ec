"""The demo's last words: what they say, and that they do not say it holds where it does not."""

from __future__ import annotations

import dataclasses
import io

from rich.console import Console

from consumer.demo.progress import Display, Progress
from consumer.demo.run import Summary
from consumer.ops.verify.verifier import VerifyReport
from consumer.simulator.producer import Sent


def verdict_of(*, dead_letters: int = 2) -> VerifyReport:
    """Return one on a hundred events that holds."""
    return VerifyReport(
        events=100,
        predictions=100 - dead_letters,
        dead_letters={"tombstone": dead_letters},
        prediction_records=100 - dead_letters,
        log_lines=100 - dead_letters,
    )


GOOD = Summary(
    sent=[Sent(60, {"tombstone": 1}, 0.5), Sent(40, {"tombstone": 1}, 0.5)],
    burst_events=60,
    burst_s=2.0,
    latencies_ms=[10] * 98 + [50, 90],
    paced_rate=1000,
    workers=1,
    report=verdict_of(),
)


def test_a_summary_that_agrees_holds() -> None:
    """The summary has the counts, the rate and the quantiles."""
    assert GOOD.holds
    text = GOOD.lines()
    assert text[0] == "events sent: 100, 2 of them broken on purpose"
    assert text[1].endswith("30 events/s with 1 scorer")
    assert text[2].startswith("latency: p50 10 ms, p99 50 ms")
    assert "events 100 = predictions 98 + dead letters 2" in text


def test_events_that_never_reached_the_topic_are_a_complaint() -> None:
    """The oracle cannot know of them; the upstream does."""
    lost = dataclasses.replace(GOOD, sent=[*GOOD.sent, Sent(1, {}, 0.1)])
    assert lost.problem() == "101 events were sent, but the topic holds 100"


def test_a_wrong_code_is_a_complaint() -> None:
    """Every broken event must get the code it was sent for."""
    wrong = dataclasses.replace(GOOD, report=verdict_of(dead_letters=3))
    assert wrong.problem() == "broken events sent: {'tombstone': 2}, but dead letters: {'tombstone': 3}"


def test_what_the_oracle_finds_is_a_complaint() -> None:
    """Its own words are the first."""
    verdict = verdict_of()
    verdict.add("missing", 2, ["events 0@1", "events 0@2"])
    found = dataclasses.replace(GOOD, report=verdict)
    assert not found.holds
    assert "missing 2" in (found.problem() or "")
    assert any("events 0@1, events 0@2" in line for line in found.lines())
    assert not any("it holds" in line for line in found.lines())


def test_progress_is_a_plain_line_a_second_where_there_is_no_terminal() -> None:
    """No control codes, and not more lines than are read."""
    out, now_s = io.StringIO(), iter([0.0, 0.0, 0.5, 1.1, 1.1])
    progress = Progress("burst", 10, 6, 1, 5, 123.4)
    with Display(Console(file=out), now_s=lambda: next(now_s)) as display:
        for _ in range(3):
            display.show(progress)
    line = "burst: events sent 10, predictions 6, dead letters 1, lag 3, audit lines 5, events/s 123"
    assert out.getvalue().splitlines() == [line, line]


def test_progress_is_redrawn_on_a_terminal() -> None:
    """Every state is shown, in the same place."""
    out = io.StringIO()
    with Display(Console(file=out, force_terminal=True, width=120)) as display:
        display.show(Progress("burst", 10, 6, 1, 5, 123.4))
    assert "\x1b" in out.getvalue()
    assert "dead letters" in out.getvalue()
