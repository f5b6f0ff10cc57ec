"""What the inputs and the scores looked like in training, in bins frozen for drift monitoring.

Bin edges never come from live data, and labels form a closed set, fit for Prometheus. A bin is
open below and closed above, ``(edge[i-1], edge[i]]``; the outer ones reach to infinity, so that
every value has a bin.
"""

from __future__ import annotations

import math
from functools import cached_property
from typing import TYPE_CHECKING, Annotated, Final, Literal, Self

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, model_validator

from model_store.countries import COUNTRY_CODES, UNKNOWN_COUNTRY, country_alpha2, country_code
from model_store.inputs import INPUT_NAMES

if TYPE_CHECKING:
    from numpy.typing import NDArray

_QUANTILE_BINS: Final = 10
_ZERO_BIN_RATIO: Final = 0.05
"""Zero gets a bin of its own where more than this share of the rows is zero."""
_MIN_POSITIVE_BIN_RATIO: Final = 0.02
"""Beside a zero bin, positive values are cut no finer than this share of all rows: rarer bins add
degrees of freedom (noise) to a drift statistic, and no evidence."""
_MIN_COUNTRY_RATIO: Final = 0.01
_MAX_COUNTRIES: Final = 20
_OTHER: Final = "other"
_UNKNOWN: Final = "unknown"


class _Bins(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    labels: tuple[str, ...]
    counts: tuple[int, ...]
    """Training rows in each bin."""

    @property
    def ratios(self) -> NDArray[np.float64]:
        """Smoothed share of each bin, float64 (B,): (c + 0.5) / (N + 0.5 B), so that none is 0."""
        counts = np.array(self.counts, dtype=np.float64)
        smoothed: NDArray[np.float64] = (counts + 0.5) / (counts.sum() + 0.5 * len(counts))
        return smoothed

    def _check_lengths(self, bins: int) -> None:
        if not len(self.labels) == len(self.counts) == bins:
            raise ValueError(f"{len(self.labels)} labels and {len(self.counts)} counts for {bins} bins")


class NumericBins(_Bins):
    """Bins of a number, with its mean and (population) standard deviation in training."""

    kind: Literal["numeric"] = "numeric"
    edges: tuple[float, ...]
    """Inner edges, ascending: one fewer than bins."""
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
        """Return the bin of each value: float64 (m,) to intp (m,)."""
        return np.searchsorted(self._edges, column, side="left")


class CountryBins(_Bins):
    """Bins of a country number: the frequent countries, ``other``, ``unknown``."""

    kind: Literal["country"] = "country"

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        self._check_lengths(len(self.labels))
        if self.labels[-2:] != (_OTHER, _UNKNOWN):
            raise ValueError(f"the last two country bins must be {_OTHER} and {_UNKNOWN}")
        return self

    @cached_property
    def _bin_of_code(self) -> NDArray[np.intp]:
        """The bin of each country number, intp (677,), unknown last."""
        *countries, _, _ = self.labels
        table = np.full(COUNTRY_CODES + 1, len(countries), dtype=np.intp)
        table[[country_code(label) for label in countries]] = np.arange(len(countries))
        table[UNKNOWN_COUNTRY] = len(countries) + 1
        return table

    def bin_indices(self, column: NDArray[np.float64]) -> NDArray[np.intp]:
        """Return the bin of each country number: float64 (m,) to intp (m,)."""
        return self._bin_of_code[column.astype(np.intp)]


Bins = Annotated[NumericBins | CountryBins, Field(discriminator="kind")]


class Baseline(BaseModel):
    """What live inputs and scores are compared with.

    Attributes:
        rows: training rows that the counts, means and rates stand on.
        features: bins of each input, by name, in the order of the inputs.
        score: bins of the out-of-fold probabilities.
        predicted_positive_ratio: share of rows whose out-of-fold probability reached the threshold.
        actual_positive_ratio: share of rows that bought.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    rows: int
    features: dict[str, Bins]
    score: NumericBins
    predicted_positive_ratio: float
    actual_positive_ratio: float

    @model_validator(mode="after")
    def _names_the_inputs(self) -> Self:
        if tuple(sorted(self.features)) != tuple(sorted(INPUT_NAMES)):
            raise ValueError(f"bins for {', '.join(self.features)} instead of {', '.join(INPUT_NAMES)}")
        return self

    def bin_counts(
        self, inputs: NDArray[np.float64], probabilities: NDArray[np.float64]
    ) -> dict[str, NDArray[np.intp]]:
        """Count rows per bin.

        Args:
            inputs: float64 (m, 7).
            probabilities: float64 (m,).

        Returns:
            intp (B,) for each input by name, and for ``score``.
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
    """Freeze the bins of training data.

    Args:
        inputs: float64 (n, 7).
        purchased: int8 (n,), 0 or 1.
        probabilities: float64 (n,), of models that had not seen the row, as live ones won't have.
        threshold: probability at or above which a purchase is predicted.
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
    )


def _numeric_bins(column: NDArray[np.float64]) -> NumericBins:
    zero_ratio = float(np.mean(column == 0))
    if zero_ratio > _ZERO_BIN_RATIO:
        positive = column[column > 0]
        finest = len(positive) // math.ceil(_MIN_POSITIVE_BIN_RATIO * len(column))
        edges = np.union1d(0.0, _quantile_edges(positive, min(max(finest, 1), _QUANTILE_BINS - 1)))
    else:
        edges = _quantile_edges(column, _QUANTILE_BINS)
    edges = edges[edges < column.max()]  # the last bin holds at least the largest value
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
    """Return the inner edges of bins of equal share, those that coincide merged."""
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
