"""Scoring: the model's inputs, and what becomes of rows that it fails on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from consumer.pipeline.batch import RecordBatch
from consumer.pipeline.decode import Decoder
from consumer.pipeline.rejections import Code
from consumer.pipeline.score import MAX_REMEMBERED, CountryNumbers, ModelFails, featurize, score
from model_store.countries import UNKNOWN_COUNTRY, country_code
from schemas.repository import BundledSchemas, engagement_event
from tests.support.events import encoded, event, framed

if TYPE_CHECKING:
    from numpy.typing import NDArray

DECODER = Decoder(engagement_event(), BundledSchemas())
COUNTRIES = CountryNumbers(country_code)


def _batch(*events: dict[str, Any]) -> RecordBatch:
    decoded, _ = DECODER.decode([framed(encoded(fields)) for fields in events])
    return decoded


def _numbered(n: int) -> RecordBatch:
    """Return n events whose days on the platform are 0, 1, 2 and so on."""
    return _batch(*(event(days_on_platform=day) for day in range(n)))


@dataclass
class Fragile:
    """Scores days / 1000; raises for some days and answers nonsense for others."""

    raises: frozenset[int] = frozenset()
    answers: float = np.nan
    nonsense: frozenset[int] = frozenset()
    version: str = "v1"
    threshold: float = 0.005

    def predict_probability(self, features: NDArray[np.float64]) -> NDArray[np.float64]:
        """Score."""
        days = features[:, 1]
        if len(days) == 0:
            raise ValueError("Found array with 0 sample(s)")
        if np.isin(days, list(self.raises)).any():
            raise ZeroDivisionError("poison")
        return np.where(np.isin(days, list(self.nonsense)), self.answers, days / 1000)


def test_the_inputs_are_the_seven_in_the_order_of_the_contract() -> None:
    """Column 0 is the country's number; each column is contiguous."""
    features = featurize(_batch(event(student_country="NA"), event(student_country="Namibia")), COUNTRIES)
    assert features.tolist() == [[country_code("NA"), 30, 120.5, 2, 3, 1, 14.25]] * 2
    assert features.flags.f_contiguous
    assert features.dtype == np.float64


_CODES = st.sampled_from(["NA", "DE", "na", "zz", "é"])  # two bytes each
_NAMES = st.sampled_from(["Namibia", "Île", "Atlantis"])


@given(st.one_of(st.lists(_CODES, max_size=9), st.lists(_CODES | _NAMES, max_size=9)))
def test_each_row_has_the_number_of_its_own_country(countries: list[str]) -> None:
    """Whether all are codes, which are looked up together, or some are names."""
    features = featurize(_batch(*(event(student_country=country) for country in countries)), COUNTRIES)
    assert features[:, 0].tolist() == [country_code(country) for country in countries]


def test_an_unknown_country_is_minus_one() -> None:
    """The event is scored, not rejected."""
    features = featurize(_batch(event(student_country="Atlantis"), event(student_country="Île")), COUNTRIES)
    assert features[:, 0].tolist() == [UNKNOWN_COUNTRY, UNKNOWN_COUNTRY]
    assert UNKNOWN_COUNTRY == -1


def test_a_spelling_is_looked_up_once() -> None:
    """Numbers are cached by the bytes as received."""
    asked: list[str] = []

    def number(text: str) -> int:
        asked.append(text)
        return len(asked)

    numbers = CountryNumbers(number)
    assert [numbers["Île".encode()], numbers[b"NA"], numbers["Île".encode()]] == [1, 2, 1]
    assert asked == ["Île", "NA"]


def test_a_flood_of_made_up_countries_does_not_grow_the_table() -> None:
    """Beyond the limit, a spelling is looked up each time."""
    numbers = CountryNumbers(int)
    flood = range(MAX_REMEMBERED + 100)
    assert [numbers[b"%d" % n] for n in flood] == list(flood)
    assert len(numbers) == MAX_REMEMBERED


def test_the_decision_is_one_from_the_threshold_on() -> None:
    """At the threshold itself it is 1."""
    scored, rejections = score(_numbered(10), Fragile(), COUNTRIES)
    assert not rejections
    assert scored.probabilities.tolist() == [n / 1000 for n in range(10)]
    assert scored.decisions.tolist() == [n >= 5 for n in range(10)]
    assert (scored.threshold, scored.model_version) == (0.005, "v1")


@given(poison=st.sets(st.integers(0, 30)), n=st.integers(0, 30))
@settings(max_examples=60)
def test_rows_that_make_the_model_raise_are_rejected_alone(poison: set[int], n: int) -> None:
    """Whatever their number and position; the other rows are scored."""
    scored, rejections = score(_numbered(n), Fragile(raises=frozenset(poison)), COUNTRIES)
    guilty = sorted(row for row in poison if row < n)
    innocent = [row for row in range(n) if row not in poison]
    assert [rejection.row for rejection in rejections] == guilty
    assert scored.events.rows.tolist() == innocent
    assert scored.probabilities.tolist() == [row / 1000 for row in innocent]
    assert scored.features[:, 1].tolist() == innocent
    assert len(scored.decisions) == len(innocent)


def test_a_row_that_the_model_fails_on_says_so() -> None:
    """Status 500: it is our fault; the event is kept, the error's text is not shown."""
    _, (rejection,) = score(_numbered(3), Fragile(raises=frozenset({1})), COUNTRIES)
    assert rejection.code is Code.MODEL_FAILED
    assert rejection.code.status == 500
    assert rejection.detail == "The model failed on this event: ZeroDivisionError."
    assert orjson.loads(rejection.event or b"") == event(days_on_platform=1)


@pytest.mark.parametrize("answer", [np.nan, np.inf, -np.inf, 1.0000000000000002, -5e-324])
def test_an_answer_that_is_not_a_probability_is_rejected(answer: float) -> None:
    """NaN would otherwise be published and compared with a threshold."""
    scored, (rejection,) = score(_numbered(5), Fragile(answers=answer, nonsense=frozenset({2})), COUNTRIES)
    assert (rejection.row, rejection.code) == (2, Code.MODEL_FAILED)
    assert scored.events.rows.tolist() == [0, 1, 3, 4]
    assert scored.probabilities.tolist() == [0, 0.001, 0.003, 0.004]


@pytest.mark.parametrize("answer", [0.0, 1.0, -0.0])
def test_the_ends_of_the_scale_are_probabilities(answer: float) -> None:
    """0 and 1 are answers."""
    _, rejections = score(_numbered(3), Fragile(answers=answer, nonsense=frozenset({2})), COUNTRIES)
    assert not rejections


def test_a_failing_row_keeps_its_place_in_the_poll() -> None:
    """A rejection has the row of the poll batch, not the index among the valid events."""
    events, _ = DECODER.decode([None, *(framed(encoded(event(days_on_platform=day))) for day in range(4))])
    _, (rejection,) = score(events, Fragile(raises=frozenset({2})), COUNTRIES)
    assert rejection.row == 3


@pytest.mark.parametrize("shape", [(3, 2), (2,), (3, 1), ()])
def test_an_answer_of_the_wrong_shape_fails_the_batch(shape: tuple[int, ...]) -> None:
    """No event is rejected for it."""

    class Broken(Fragile):
        def predict_probability(self, _: NDArray[np.float64]) -> NDArray[np.float64]:
            return np.zeros(shape)

    with pytest.raises(ValueError, match="shape"):
        score(_numbered(3), Broken(), COUNTRIES)


def test_the_model_is_not_called_for_an_empty_batch() -> None:
    """A poll may hold nothing but rejected events, and many classifiers raise on no rows."""
    scored, rejections = score(_batch(), Fragile(), COUNTRIES)
    assert not rejections
    assert len(scored.events) == len(scored.probabilities) == len(scored.decisions) == 0


def test_a_model_that_fails_on_most_rows_is_itself_at_fault() -> None:
    """The model is not called once per row, and no event is rejected."""
    n = 400
    asked = 0

    class Broken(Fragile):
        def predict_probability(self, features: NDArray[np.float64]) -> NDArray[np.float64]:
            nonlocal asked
            asked += 1
            return super().predict_probability(features)

    with pytest.raises(ModelFails, match="ZeroDivisionError: poison"):
        score(_numbered(n), Broken(raises=frozenset(range(n))), COUNTRIES)
    assert asked < n


def test_one_row_in_twenty_is_still_isolated() -> None:
    """Failing rows that are spread evenly, the worst case for bisection."""
    poison = frozenset(range(0, 1000, 20))
    scored, rejections = score(_numbered(1000), Fragile(raises=poison), COUNTRIES)
    assert {rejection.row for rejection in rejections} == poison
    assert len(scored.events) == 1000 - len(poison)
