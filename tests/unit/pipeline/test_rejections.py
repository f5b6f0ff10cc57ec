"""Rejections as columns: merging loses, doubles and mixes up nothing."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from consumer.columnar.arrays import DictionaryColumn
from consumer.pipeline.rejections import NONE_REJECTED, Code, Reason, Rejection, Rejections

_REJECTED = st.lists(
    st.builds(
        Rejection,
        st.integers(0, 100),
        st.sampled_from(Code),
        st.sampled_from(["why", "why not", [{"msg": "m"}]]),
        st.none() | st.binary(max_size=3),
    ),
    unique_by=lambda rejection: rejection.row,
)


@given(rejected=_REJECTED, parts=st.randoms())
def test_merged_parts_are_sorted_by_row(rejected: list[Rejection], parts: Any) -> None:
    """Each rejection keeps its reason and its fields."""
    split: list[list[Rejection]] = [[] for _ in range(4)]
    for rejection in rejected:
        parts.choice(split).append(rejection)
    together = Rejections.merged([Rejections.of(part) for part in split])
    assert list(together) == sorted(rejected, key=lambda rejection: rejection.row)
    assert len(together) == len(rejected)
    assert together.counts() == Counter(rejection.code for rejection in rejected)


def test_an_unused_reason_is_not_counted() -> None:
    """The dictionary of reasons may have entries that no row uses."""
    reasons = [
        Reason(Code.UNKNOWN_SCHEMA, "a"),
        Reason(Code.TOMBSTONE, "b"),
        Reason(Code.UNKNOWN_SCHEMA, "c"),
    ]
    some = Rejections.without_event(np.array([3, 5]), DictionaryColumn(reasons, np.array([2, 2])))
    assert some.counts() == {Code.UNKNOWN_SCHEMA: 2}
    assert list(some) == [Rejection(3, Code.UNKNOWN_SCHEMA, "c"), Rejection(5, Code.UNKNOWN_SCHEMA, "c")]


def test_a_batch_without_rejections_is_empty() -> None:
    """It is false, as empty lists are."""
    assert not NONE_REJECTED
    assert not Rejections.merged([NONE_REJECTED, NONE_REJECTED])
    assert NONE_REJECTED.counts() == {}
