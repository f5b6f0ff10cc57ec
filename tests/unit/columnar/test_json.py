"""Columns as JSON: what orjson writes for each value alone."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from consumer.columnar.arrays import DictionaryColumn
from consumer.columnar.avro import PAD
from consumer.columnar.json import (
    JsonColumn,
    join_rows,
    join_rows_flat,
    json_numbers,
    json_strings,
    needs_no_escape,
)
from tests.support.events import INT64

_PAIRS = st.lists(st.sampled_from(["US", "DE", "é", '"a', "\\n", "\x00\x1f", "\x7f~", "\n\r"]), max_size=12)
_WORDS = st.lists(st.text(max_size=4) | st.sampled_from(["plain", 'quo"te', "\u2028"]), max_size=8)


def _column(piece: JsonColumn, m: int) -> list[str]:
    return join_rows([piece], m)


def _strings(texts: list[str]) -> list[str]:
    encoded = [text.encode() for text in texts]
    ends = np.cumsum([len(text) for text in encoded], dtype=np.int64)
    begins = ends - np.array([len(text) for text in encoded], np.int64)
    data = b"".join((*encoded, PAD))
    return _column(json_strings(data, data.decode("latin-1"), begins, ends), len(texts))


@given(_PAIRS | _WORDS)
def test_a_text_is_the_inside_of_its_json_string(texts: list[str]) -> None:
    """Texts of two bytes, equal ones, plain ones and any others; line separators are escaped."""
    insides = [inside.encode("latin-1").decode() for inside in _strings(texts)]
    assert [orjson.loads(f'"{inside}"') for inside in insides] == texts
    assert not {"\u0085", "\u2028", "\u2029"} & set("".join(insides))


@pytest.mark.parametrize("code", range(0x100))
def test_texts_that_need_no_escape_are_recognised(code: int) -> None:
    """They are the ASCII characters that JSON writes as they are."""
    as_it_is = orjson.dumps(chr(code)).decode()[1:-1] == chr(code)
    assert needs_no_escape(f"a{chr(code)}".encode()) == (as_it_is and chr(code).isascii())


@pytest.mark.parametrize(
    "column",
    [[0], [7, 7, 7], [3, 1, 2, 0], [5000, 1, 2], [-1, 1], [2**63 - 1, -(2**63)], []],
)
def test_integers_of_every_size(column: list[int]) -> None:
    """The same in all rows, small, large, negative, none."""
    array = np.array(column, np.int64)
    expected = [orjson.dumps(value).decode() for value in column]
    assert (_column(json_numbers(array), len(column)) if column else []) == expected


@given(st.lists(INT64 | st.integers(0, 9), min_size=1, max_size=20))
def test_integers_are_what_one_call_makes_of_each(column: list[int]) -> None:
    """Also small numbers, which are looked up."""
    assert _column(json_numbers(np.array(column, np.int64)), len(column)) == [str(value) for value in column]


@given(st.lists(st.floats() | st.sampled_from([0.0, -0.0]), min_size=1, max_size=9))
def test_doubles_are_what_one_call_makes_of_each(column: list[float]) -> None:
    """-0.0 is not 0.0; NaN and the infinities are null."""
    expected = [orjson.dumps(value if math.isfinite(value) else None).decode() for value in column]
    assert _column(json_numbers(np.array(column)), len(column)) == expected


@given(data=st.data(), m=st.integers(1, 5))
def test_rows_are_joined_in_their_order(data: Any, m: int) -> None:
    """To one text or one per row, from columns of any kind."""
    texts = st.text("ab", max_size=2)
    chosen = st.builds(
        DictionaryColumn,
        st.just(["x", "yy"]),
        st.lists(st.integers(0, 1), min_size=m, max_size=m).map(lambda which: np.array(which, np.int64)),
    )
    pieces = data.draw(
        st.lists(texts | chosen | st.lists(texts, min_size=m, max_size=m), min_size=1, max_size=5)
    )
    columns = [
        [piece] * m
        if isinstance(piece, str)
        else piece.to_list()
        if isinstance(piece, DictionaryColumn)
        else piece
        for piece in pieces
    ]
    rows = ["".join(row) for row in zip(*columns, strict=True)]
    assert join_rows(list(pieces), m) == rows
    assert join_rows_flat(list(pieces), m) == "".join(rows)
