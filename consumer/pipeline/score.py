"""Score valid events: build the model's inputs, predict probabilities, decide by the threshold."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Final, Protocol

import numpy as np
from numpy.typing import NDArray

from consumer.columnar.arrays import DictionaryColumn, FloatArray
from consumer.columnar.text import encode_two_byte_strings
from consumer.pipeline.batch import INPUT_FIELDS, NUMERIC_INPUT_FIELDS, RecordBatch
from consumer.pipeline.rejections import NONE_REJECTED, Code, Reason, Rejections

_MIN_RAISES, _MAX_RAISES = 64, 10_000


class Model(Protocol):
    """A model. A row's probability must not depend on the other rows."""

    @property
    def version(self) -> str:
        """The model version, written to every prediction."""

    @property
    def threshold(self) -> float:
        """The lowest probability whose decision is 1."""

    def predict_probability(self, features: FloatArray) -> FloatArray:
        """Return the probability (m,) of a purchase for inputs (m, 7), Fortran-ordered."""


@dataclass(frozen=True, slots=True)
class Scored:
    """m events with their predictions; arrays have shape (m,).

    Attributes:
        events: The events.
        features: The model's inputs (the country as a number), float64 (m, 7).
        probabilities: The predicted probabilities, 0 to 1, float64.
        decisions: Whether the probability is at or above the threshold, bool.
        threshold: The model's threshold.
        model_version: The model's version.
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
        events: Valid events.
        countries: The model's number for each country as received (UTF-8).
    """
    features = np.empty((len(events), len(INPUT_FIELDS)), np.float64, order="F")
    features[:, 0] = _country_numbers(events, countries)
    for j, name in enumerate(NUMERIC_INPUT_FIELDS, start=1):
        features[:, j] = events.numbers[name]
    return features


def _country_numbers(events: RecordBatch, countries: Mapping[bytes, int]) -> FloatArray:
    data, (starts, stops) = events.data, events.span("student_country")
    if (codes := encode_two_byte_strings(data, starts, stops)) is not None:  # the usual case
        return np.array([countries[code] for code in codes.dictionary], np.float64)[codes.indices]
    spans = zip(starts.tolist(), stops.tolist(), strict=True)
    return np.array([countries[data[start:stop]] for start, stop in spans], np.float64)


def score(events: RecordBatch, model: Model, countries: Mapping[bytes, int]) -> tuple[Scored, Rejections]:
    """Score events. An event that makes the model fail is rejected; the others are scored.

    Raises:
        ModelFails: The model fails on too many events.
    """
    features = featurize(events, countries)
    probabilities, failures = predict_rows(model, features)
    rejections = NONE_REJECTED
    if failures:
        indexes = np.fromiter(failures, np.int64)
        failed = events.select_rows(indexes)
        reasons = [Reason(Code.MODEL_FAILED, why) for why in failures.values()]
        rejections = Rejections(
            failed.rows, DictionaryColumn(reasons, np.arange(len(failed))), failed.to_json()
        )
        kept = np.setdiff1d(np.arange(len(events)), indexes)
        events, features, probabilities = events.select_rows(kept), features[kept], probabilities[kept]
    decisions = probabilities >= model.threshold
    return Scored(events, features, probabilities, decisions, model.threshold, model.version), rejections


def predict_rows(model: Model, features: FloatArray) -> tuple[FloatArray, dict[int, str]]:
    """Return the probability of each row, float64 (m,), and the reason for each row that has none.

    Args:
        model: The model.
        features: The model's inputs, Fortran-ordered, float64 (m, 7).

    Raises:
        ModelFails: The model fails on too many rows.
    """
    return _Bisection(model.predict_probability, len(features)).score(features)


class ModelFails(Exception):  # noqa: N818 - named after what happens
    """The model fails on too many events for the events to be at fault."""


class _Bisection:
    """Scores all rows at once. Where that raises, it halves them until each failing row is alone.

    Args:
        predict: The model.
        m: The number of rows; it limits how often the model may raise. Finding f failing rows takes
            about ``2 f log2(m / f)`` calls, so one failing row in twenty is isolated, and more are not.
    """

    def __init__(self, predict: Callable[[FloatArray], FloatArray], m: int) -> None:
        self._predict = predict
        self._raises_left = min(max(_MIN_RAISES, m // 2), _MAX_RAISES)

    def score(self, features: FloatArray) -> tuple[FloatArray, dict[int, str]]:
        """Return probabilities (m,), NaN for failed rows, and the reason for each failed row.

        Raises:
            ModelFails: Too many rows fail.
        """
        m = len(features)
        if m == 0:  # many classifiers raise for an empty input
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
"""The largest number of spellings to cache. All of ISO 3166 in two letter cases fits. A flood of invented
countries does not grow the cache; those are looked up each time."""


class CountryNumbers(dict[bytes, int]):
    """Maps a country as received (UTF-8) to the model's number for it, and caches the look-ups.

    Args:
        number_of: Returns the number of a country.
    """

    def __init__(self, number_of: Callable[[str], int]) -> None:
        super().__init__()
        self._number_of = number_of

    def __missing__(self, country: bytes) -> int:
        number = self._number_of(country.decode())
        if len(self) < MAX_REMEMBERED:
            self[country] = number
        return number
