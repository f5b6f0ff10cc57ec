"""Compute the drift baseline: histograms of the training data's inputs and scores.

Bin edges come from training data only, and bin labels are a closed set that suits Prometheus. A bin
is open below and closed above, ``(edge[i-1], edge[i]]``. The outer bins extend to infinity, so every
value has a bin.
"""

from __future__ import annotations

import math
from functools import cached_property
from typing import TYPE_CHECKING, Annotated, Final, Literal, Self

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, model_validator

from model_store.countries import ALPHA2, COUNTRY_CODES, UNKNOWN_COUNTRY, alpha2_number, country_alpha2
from model_store.input_profile import InputProfile, input_profile
from model_store.inputs import INPUT_NAMES

if TYPE_CHECKING:
    from numpy.typing import NDArray

_QUANTILE_BINS: Final = 10
_ZERO_BIN_RATIO: Final = 0.05
"""Zero gets its own bin if more than this share of the rows is zero."""
_MIN_POSITIVE_BIN_RATIO: Final = 0.02
"""The smallest share of all rows in a bin of positive values next to a zero bin. Smaller bins would
add degrees of freedom (noise) to a drift statistic, but no evidence."""
_MIN_COUNTRY_RATIO: Final = 0.01
_MAX_COUNTRIES: Final = 20
_OTHER: Final = "other"
_UNKNOWN: Final = "unknown"


class _Bins(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    labels: tuple[str, ...]
    counts: tuple[int, ...]
    """The number of training rows in each bin."""

    @property
    def ratios(self) -> NDArray[np.float64]:
        """The smoothed share of each bin, float64 (B,): (c + 0.5) / (N + 0.5 B), never 0."""
        counts = np.array(self.counts, dtype=np.float64)
        smoothed: NDArray[np.float64] = (counts + 0.5) / (counts.sum() + 0.5 * len(counts))
        return smoothed

    def _check_lengths(self, bins: int) -> None:
        if not len(self.labels) == len(self.counts) == bins:
            raise ValueError(f"{len(self.labels)} labels and {len(self.counts)} counts for {bins} bins")


class NumericBins(_Bins):
    """Bins of a numeric feature.

    Attributes:
        edges: The inner edges, ascending: one fewer than bins.
        mean: The mean in training.
        sd: The population standard deviation in training.
    """

    kind: Literal["numeric"] = "numeric"
    edges: tuple[float, ...]
    mean: float
    sd: float

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        self._check_lengths(len(self.edges) + 1)
        if any(lower >= upper for lower, upper in zip(self.edges, self.edges[1:], strict=False)):
            raise ValueError("bin edges must ascend")
        return self

    @cached_property
    def _edges(self) -> NDArray[np.float64]:
        return np.array(self.edges, dtype=np.float64)

    def bin_indices(self, column: NDArray[np.float64]) -> NDArray[np.intp]:
        """Return the bin index of each value: float64 (m,) to intp (m,).

        >>> bins = NumericBins(labels=("a", "b", "c"), counts=(1, 1, 1), edges=(0, 10), mean=0, sd=0)
        >>> bins.bin_indices(np.array([-5.0, 0.0, 0.1, 10.0, 1e9])).tolist()
        [0, 0, 1, 1, 2]
        """
        return np.searchsorted(self._edges, column, side="left")


class CountryBins(_Bins):
    """Bins of the country: one for each frequent country, ``other``, ``unknown``."""

    kind: Literal["country"] = "country"

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        self._check_lengths(len(self.labels))
        if self.labels[-2:] != (_OTHER, _UNKNOWN):
            raise ValueError(f"the last two country bins must be {_OTHER} and {_UNKNOWN}")
        if not all(ALPHA2.fullmatch(label) for label in self.labels[:-2]):
            raise ValueError("country bins must be alpha-2 codes")
        return self

    @cached_property
    def _bin_of_code(self) -> NDArray[np.intp]:
        """The bin index of each country number, intp (677,); unknown is last."""
        *countries, _, _ = self.labels
        table = np.full(COUNTRY_CODES + 1, len(countries), dtype=np.intp)
        table[[alpha2_number(label) for label in countries]] = np.arange(len(countries))
        table[UNKNOWN_COUNTRY] = len(countries) + 1
        return table

    def bin_indices(self, column: NDArray[np.float64]) -> NDArray[np.intp]:
        """Return the bin index of each country number: float64 (m,) to intp (m,)."""
        return self._bin_of_code[column.astype(np.intp)]


Bins = Annotated[NumericBins | CountryBins, Field(discriminator="kind")]


class Baseline(BaseModel):
    """The reference that live inputs and scores are compared with.

    Attributes:
        rows: The number of training rows.
        features: The bins of each input by name, in the order of the inputs.
        score: The bins of the out-of-fold probabilities.
        predicted_positive_ratio: The share of rows with an out-of-fold probability at or above the
            threshold.
        actual_positive_ratio: The share of students who bought.
        profile: Zeros, tails and correlations of the numeric inputs; None in a baseline of a release that
            did not compute it.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    rows: int
    features: dict[str, Bins]
    score: NumericBins
    predicted_positive_ratio: float
    actual_positive_ratio: float
    profile: InputProfile | None = None

    @model_validator(mode="after")
    def _names_the_inputs(self) -> Self:
        if tuple(sorted(self.features)) != tuple(sorted(INPUT_NAMES)):
            raise ValueError(f"bins for {', '.join(self.features)} instead of {', '.join(INPUT_NAMES)}")
        return self

    def bin_counts(
        self, inputs: NDArray[np.float64], probabilities: NDArray[np.float64]
    ) -> dict[str, NDArray[np.intp]]:
        """Count the rows in each bin.

        Args:
            inputs: The inputs, float64 (m, 7).
            probabilities: The scores, float64 (m,).

        Returns:
            The counts, intp (B,), by input name, and under ``score``.
        """
        columns = [(name, self.features[name], inputs[:, i]) for i, name in enumerate(INPUT_NAMES)]
        return {
            name: np.bincount(bins.bin_indices(column), minlength=len(bins.labels))
            for name, bins, column in [*columns, ("score", self.score, probabilities)]
        }


def freeze_baseline(
    inputs: NDArray[np.float64],
    purchased: NDArray[np.int8],
    probabilities: NDArray[np.float64],
    threshold: float,
) -> Baseline:
    """Compute the baseline of training data.

    Args:
        inputs: The inputs, float64 (n, 7).
        purchased: The labels, int8 (n,), 0 or 1.
        probabilities: Out-of-fold probabilities, float64 (n,): like live scores, they come from
            models that were not fitted on the row.
        threshold: The probability at or above which a purchase is predicted.
    """
    features: dict[str, Bins] = {INPUT_NAMES[0]: _country_bins(inputs[:, 0])}
    for index, name in enumerate(INPUT_NAMES[1:], start=1):
        features[name] = _numeric_bins(inputs[:, index])
    return Baseline(
        rows=len(inputs),
        features=features,
        score=_numeric_bins(probabilities),
        predicted_positive_ratio=float(np.mean(probabilities >= threshold)),
        actual_positive_ratio=float(np.mean(purchased)),
        profile=input_profile(inputs),
    )


def _numeric_bins(column: NDArray[np.float64]) -> NumericBins:
    zero_ratio = float(np.mean(column == 0))
    if zero_ratio > _ZERO_BIN_RATIO:
        positive = column[column > 0]
        finest = len(positive) // math.ceil(_MIN_POSITIVE_BIN_RATIO * len(column))
        edges = np.union1d(0.0, _quantile_edges(positive, min(max(finest, 1), _QUANTILE_BINS - 1)))
    else:
        edges = _quantile_edges(column, _QUANTILE_BINS)
    edges = edges[edges < column.max()]  # so that the last bin is not empty
    labels = [f"b{number}" for number in range(1, len(edges) + 2)]
    if zero_ratio > _ZERO_BIN_RATIO:
        labels = ["zero", *labels[:-1]]
    indices = np.searchsorted(edges, column, side="left")
    return NumericBins(
        labels=tuple(labels),
        counts=tuple(np.bincount(indices, minlength=len(labels)).tolist()),
        edges=tuple(edges.tolist()),
        mean=float(column.mean()),
        sd=float(column.std()),
    )


def _quantile_edges(column: NDArray[np.float64], bins: int) -> NDArray[np.float64]:
    """Return the inner edges of bins with equal shares of the rows; equal edges are merged.

    >>> _quantile_edges(np.array([1.0, 1.0, 1.0, 2.0, 3.0, 4.0]), 3).tolist()
    [1.0, 2.0]
    """
    if not len(column):
        return np.empty(0)
    return np.unique(np.quantile(column, np.arange(1, bins) / bins, method="inverted_cdf"))


def _country_bins(column: NDArray[np.float64]) -> CountryBins:
    codes, counts = np.unique(column.astype(np.intp), return_counts=True)
    by_code = {int(code): int(count) for code, count in zip(codes, counts, strict=True)}
    unknown = by_code.pop(UNKNOWN_COUNTRY, 0)
    ranked = sorted(by_code, key=lambda code: (-by_code[code], code))
    frequent = [c for c in ranked[:_MAX_COUNTRIES] if by_code[c] >= _MIN_COUNTRY_RATIO * len(column)]
    other = sum(by_code.values()) - sum(by_code[code] for code in frequent)
    return CountryBins(
        labels=(*(str(country_alpha2(code)) for code in frequent), _OTHER, _UNKNOWN),
        counts=(*(by_code[code] for code in frequent), other, unknown),
    )
