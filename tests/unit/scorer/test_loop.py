"""The size of a batch follows the cost of the model."""

from __future__ import annotations

from consumer.scorer.loop import SCORING_LIMIT_S, BatchLimit


def test_a_fast_model_gets_full_batches() -> None:
    """The default model, 0.1 µs per event, is not limited, nor is a batch that took no measurable time."""
    limit = BatchLimit(10_000)
    limit.observe(10_000, 0.001)
    assert limit.events == 10_000
    limit.observe(10_000, 0.0)
    assert limit.events == 10_000


def test_a_slow_model_gets_smaller_batches_and_recovers() -> None:
    """A batch takes no longer than the limit; a small batch with a high cost per call does not last."""
    limit = BatchLimit(10_000)
    limit.observe(10_000, 10.0)  # 1 ms per event
    assert limit.events * 0.001 <= SCORING_LIMIT_S
    limit.observe(1, 60.0)  # suspended meanwhile
    assert limit.events == 1
    for _ in range(20):  # 5 ms per call and 10 µs per event
        limit.observe(limit.events, 0.005 + limit.events * 1e-5)
    assert limit.events == 10_000
