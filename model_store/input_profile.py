"""What the histograms of the baseline miss: zeros, the far tail, and how the inputs go together.

Numeric inputs are transformed to ``u = clip((log(1 + x) - mean) / sd, -3, 3)``. The clipping bounds the
influence of a single student, so that sums over some hundred students are close to normal.
"""

from __future__ import annotations

from functools import cached_property
from itertools import combinations
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import numpy as np
from pydantic import BaseModel, ConfigDict

from model_store.inputs import INPUT_NAMES

if TYPE_CHECKING:
    from numpy.typing import NDArray

TAIL_RATIO: Final = 0.001
"""The tail of an input is what at most this share of the training rows exceeds."""

NUMERIC_INPUTS: Final = INPUT_NAMES[1:]
_K: Final = len(NUMERIC_INPUTS)
_PAIRS: Final = tuple(combinations(range(_K), 2))
_FIRST, _SECOND = (np.array(side) for side in zip(*_PAIRS, strict=True))
_LIMIT: Final = 3.0
_SMALLEST_EIGENVALUE_RATIO: Final = 0.01
"""A direction with less than this share of the largest variance is noise, such as that of equal inputs."""


class Distance(NamedTuple):
    """How far means are from those in training.

    Attributes:
        squared: The squared Mahalanobis distance, that is Jeffreys' divergence of two normal distributions
            with equal covariances, in nats: the same scale as the stability index.
        dimensions: The number of independent directions.
        contributions: What each numeric input adds, float64 (6,).
    """

    squared: float
    dimensions: int
    contributions: NDArray[np.float64]


class Sums(NamedTuple):
    """Sums over students, one for each numeric input or pair of them.

    Attributes:
        zeros: Students with a zero, float64 (6,).
        tails: Students in the tail, float64 (6,).
        values: The sum of u, float64 (6,).
        products: The sum of u·u of two inputs, float64 (15,).
    """

    zeros: NDArray[np.float64]
    tails: NDArray[np.float64]
    values: NDArray[np.float64]
    products: NDArray[np.float64]


class InputProfile(BaseModel):
    """The profile of the training data's numeric inputs, in the order of the inputs.

    Attributes:
        zeros: Training rows in which each input is 0.
        tail_edges: The 99.9 % quantile of each input.
        tails: Training rows above it.
        means: The mean of log(1 + x).
        sds: Its standard deviation; 1 for a constant input.
        value_means: The mean of u.
        value_covariance: The covariance of u, 6 by 6.
        product_means: The mean of the products of two inputs' u.
        product_covariance: Their covariance, 15 by 15.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    zeros: tuple[int, ...]
    tail_edges: tuple[float, ...]
    tails: tuple[int, ...]
    means: tuple[float, ...]
    sds: tuple[float, ...]
    value_means: tuple[float, ...]
    value_covariance: tuple[tuple[float, ...], ...]
    product_means: tuple[float, ...]
    product_covariance: tuple[tuple[float, ...], ...]

    def sums(self, columns: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the sums over students as one array, float64 (33,), which :meth:`split` takes apart.

        Args:
            columns: The numeric inputs, float64 (6, m).
        """
        u = _transformed(columns, self._means, self._sds)
        gram = u @ u.T
        return np.concatenate(
            [
                (columns == 0).sum(axis=1),
                (columns > self._tail_edges).sum(axis=1),
                u.sum(axis=1),
                gram[_FIRST, _SECOND],
            ]
        )

    @staticmethod
    def split(sums: NDArray[np.float64]) -> Sums:
        """Name the parts of an array from :meth:`sums`, or of several such arrays added up."""
        return Sums(*np.split(sums, [_K, 2 * _K, 3 * _K]))

    def mean_distance(self, sums: Sums, students: int) -> Distance:
        """Return how far the means of u are from training."""
        difference = sums.values / students - np.array(self.value_means)
        squared, contributions, dimensions = self._value_metric(difference)
        return Distance(squared, dimensions, contributions)

    def correlation_distance(self, sums: Sums, students: int) -> Distance:
        """Return how far the mean products of u are from training."""
        difference = sums.products / students - np.array(self.product_means)
        squared, contributions, dimensions = self._product_metric(difference)
        by_input = np.zeros(_K)
        np.add.at(by_input, _FIRST, contributions)
        np.add.at(by_input, _SECOND, contributions)
        return Distance(squared, dimensions, by_input)

    @cached_property
    def _means(self) -> NDArray[np.float64]:
        return np.array(self.means)[:, np.newaxis]

    @cached_property
    def _sds(self) -> NDArray[np.float64]:
        return np.array(self.sds)[:, np.newaxis]

    @cached_property
    def _tail_edges(self) -> NDArray[np.float64]:
        return np.array(self.tail_edges)[:, np.newaxis]

    @cached_property
    def _value_metric(self) -> _Metric:
        return _Metric(np.array(self.value_covariance))

    @cached_property
    def _product_metric(self) -> _Metric:
        return _Metric(np.array(self.product_covariance))


class _Metric:
    """The Mahalanobis metric of a covariance, without directions that are noise."""

    def __init__(self, covariance: NDArray[np.float64]) -> None:
        eigenvalues, vectors = np.linalg.eigh(covariance)
        kept = eigenvalues > _SMALLEST_EIGENVALUE_RATIO * max(eigenvalues[-1], np.finfo(np.float64).tiny)
        self._dimensions = int(kept.sum())
        self._inverse = (vectors[:, kept] / eigenvalues[kept]) @ vectors[:, kept].T

    def __call__(self, difference: NDArray[np.float64]) -> tuple[float, NDArray[np.float64], int]:
        """Return the squared length of a difference, what each component adds, and the dimensions."""
        contributions = difference * (self._inverse @ difference)
        return float(contributions.sum()), contributions, self._dimensions


def input_profile(inputs: NDArray[np.float64]) -> InputProfile:
    """Compute the profile of training data.

    Args:
        inputs: The inputs, float64 (n, 7).
    """
    columns = np.ascontiguousarray(inputs[:, 1:].T)
    logs = np.log1p(columns)
    means, sds = logs.mean(axis=1), logs.std(axis=1)
    sds[sds == 0] = 1.0
    edges = np.quantile(columns, 1 - TAIL_RATIO, axis=1, method="inverted_cdf")
    u = _transformed(columns, means[:, np.newaxis], sds[:, np.newaxis])
    products = u[_FIRST] * u[_SECOND]
    return InputProfile(
        zeros=_integers((columns == 0).sum(axis=1)),
        tail_edges=_floats(edges),
        tails=_integers((columns > edges[:, np.newaxis]).sum(axis=1)),
        means=_floats(means),
        sds=_floats(sds),
        value_means=_floats(u.mean(axis=1)),
        value_covariance=_matrix(np.cov(u, bias=True)),
        product_means=_floats(products.mean(axis=1)),
        product_covariance=_matrix(np.cov(products, bias=True)),
    )


def _transformed(
    columns: NDArray[np.float64], means: NDArray[np.float64], sds: NDArray[np.float64]
) -> NDArray[np.float64]:
    u: NDArray[np.float64] = np.clip((np.log1p(columns) - means) / sds, -_LIMIT, _LIMIT)
    return u


def _integers(values: NDArray[Any]) -> tuple[int, ...]:
    return tuple(values.tolist())


def _floats(values: NDArray[Any]) -> tuple[float, ...]:
    return tuple(values.tolist())


def _matrix(values: NDArray[Any]) -> tuple[tuple[float, ...], ...]:
    return tuple(tuple(row) for row in values.tolist())
