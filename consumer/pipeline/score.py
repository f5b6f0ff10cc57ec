"""Columns of good events → the model's inputs → probabilities and decisions.

Countries as they arrive in bytes → the model's number for them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Final, Protocol

import numpy as np
from numpy.typing import NDArray

from consumer.columnar.arrays import FloatArray
from consumer.columnar.text import encode_two_byte_strings
from consumer.pipeline.batch import EVENT_FIELDS, INPUTS_BEGIN, RecordBatch
from consumer.pipeline.event_json import events_json
from consumer.pipeline.rejections import NONE_REJECTED, Code, Reason, Rejections

_COUNTRY: Final = INPUTS_BEGIN
_MIN_RAISES, _MAX_RAISES = 64, 10_000
_N_INPUTS: Final = len(EVENT_FIELDS) - INPUTS_BEGIN


class Model(Protocol):
    """What scores; a row's probability must not depend on the rows around it."""

    @property
    def version(self) -> str:
        """The model version, as it stands in every prediction."""

    @property
    def threshold(self) -> float:
        """At or above this probability the decision is 1."""

    def predict_probability(self, features: FloatArray) -> FloatArray:
        """Return the probability (m,) of a purchase for inputs (m, 7), Fortran-ordered."""


@dataclass(frozen=True, slots=True)
class Scored:
    """m events with their predictions; arrays have shape (m,).

    Attributes:
        events: the events.
        features: float64 (m, 7), the inputs as the model saw them (country as a number).
        probabilities: float64, 0 to 1.
        decisions: bool, probability at or above the threshold.
        threshold: the threshold that was used.
        model_version: the version that was used.
    """

    events: RecordBatch
    features: FloatArray = field(repr=False)
    probabilities: FloatArray = field(repr=False)
    decisions: NDArray[np.bool_] = field(repr=False)
    threshold: float
    model_version: str


def featurize(events: RecordBatch, countries: Mapping[bytes, int]) -> FloatArray:
    """Return the model's inputs, float64 (m, 7), Fortran-ordered: each column is contiguous.

    Args:
        events: good events.
        countries: from a country as received (UTF-8) to the model's number for it.
    """
    features = np.empty((len(events), _N_INPUTS), np.float64, order="F")
    features[:, 0] = _country_numbers(events, countries)
    for j, name in enumerate(EVENT_FIELDS[INPUTS_BEGIN + 1 :], start=1):
        features[:, j] = events.numbers[name]
    return features


def _country_numbers(events: RecordBatch, countries: Mapping[bytes, int]) -> FloatArray:
    data, begins, ends = events.data, events.texts["student_country"], events.starts[:, _COUNTRY + 1]
    if (
        pairs := encode_two_byte_strings(data, begins, ends)
    ) is not None:  # as nearly always: look each up once
        distinct, which = pairs
        return np.array([countries[pair] for pair in distinct], np.float64)[which]
    spans = zip(begins.tolist(), ends.tolist(), strict=True)
    return np.array([countries[data[begin:end]] for begin, end in spans], np.float64)


def score(events: RecordBatch, model: Model, countries: Mapping[bytes, int]) -> tuple[Scored, Rejections]:
    """Score events; a row that alone makes the model fail is rejected, its neighbours are not.

    Raises:
        ModelFails: it fails on too many of them.
    """
    features = featurize(events, countries)
    probabilities, failures = _Bisection(model.predict_probability, len(events)).score(features)
    rejections = NONE_REJECTED
    if failures:
        indexes = np.fromiter(failures, np.int64)
        failed = events.select(indexes)
        reasons = [Reason(Code.MODEL_FAILED, why) for why in failures.values()]
        rejections = Rejections(failed.rows, np.arange(len(failed)), reasons, events_json(failed))
        keep = np.setdiff1d(np.arange(len(events)), indexes)
        events, features, probabilities = events.select(keep), features[keep], probabilities[keep]
    decisions = probabilities >= model.threshold
    return Scored(events, features, probabilities, decisions, model.threshold, model.version), rejections


class ModelFails(Exception):  # noqa: N818 - a verdict on the model
    """The model fails on so many events that it, and not they, must be at fault."""


class _Bisection:
    """Scores rows at once; where that raises, halves until the guilty rows stand alone.

    Args:
        predict: the model.
        m: how many rows there are; it bounds how often the model may raise. f guilty rows take some
            ``2 f log2(m / f)`` calls, so that one in twenty is found and more than that gives up.
    """

    def __init__(self, predict: Callable[[FloatArray], FloatArray], m: int) -> None:
        self._predict = predict
        self._raises_left = min(max(_MIN_RAISES, m // 2), _MAX_RAISES)

    def score(self, features: FloatArray) -> tuple[FloatArray, dict[int, str]]:
        """Return probabilities (m,), NaN where a row failed, and why for each row that failed.

        Raises:
            ModelFails: on too many of them.
        """
        m = len(features)
        if m == 0:  # many a classifier raises when it is asked about no rows
            return np.empty(0), {}
        try:
            probabilities = self._predict(features)
        except Exception as error:
            self._raises_left -= 1
            if self._raises_left < 0:
                raise ModelFails(f"{type(error).__name__}: {error}") from error
            if m == 1:
                return np.full(1, np.nan), {0: f"The model failed on this event: {type(error).__name__}."}
            half = m // 2
            left, left_failures = self.score(np.asfortranarray(features[:half]))
            right, right_failures = self.score(np.asfortranarray(features[half:]))
            failures = left_failures | {half + i: why for i, why in right_failures.items()}
            return np.concatenate([left, right]), failures
        if probabilities.shape != (m,):
            raise ValueError(f"the model answered with shape {probabilities.shape} for {m} rows")
        bad = np.flatnonzero(~((probabilities >= 0) & (probabilities <= 1)))
        return probabilities, {int(i): "The model gave no probability for this event." for i in bad}


MAX_REMEMBERED: Final = 4096
"""Spellings that are looked up once only. All of ISO 3166 in two cases fits; a flood of made-up
countries does not grow the table, it is merely looked up each time."""


class CountryNumbers(dict[bytes, int]):
    """Maps a country as received (UTF-8) to its number; looks an unseen spelling up.

    Args:
        number_of: from a text to its number.
    """

    def __init__(self, number_of: Callable[[str], int]) -> None:
        super().__init__()
        self._number_of = number_of

    def __missing__(self, country: bytes) -> int:
        number = self._number_of(country.decode())
        if len(self) < MAX_REMEMBERED:
            self[country] = number
        return number
