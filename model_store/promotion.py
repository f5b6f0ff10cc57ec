"""Decide whether a version may become the champion.

:meth:`model_store.store.ModelStore.promote` calls :func:`judge`, so no promotion bypasses the checks.
Every check reports a finding, and the findings are recorded in the store's history.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from model_store.errors import ModelStoreError
from model_store.evaluation import difference_interval

if TYPE_CHECKING:
    from model_store.aliases import AliasTarget
    from model_store.evaluation import Evaluation
    from model_store.manifest import Manifest, Quality
    from model_store.store import ModelStore
    from model_store.training_data import TrainingTable

_SUSPICIOUS_AVERAGE_PRECISION: Final = 0.98
_SUSPICIOUS_ROC_AUC: Final = 0.995
_TOO_GOOD: Final = " are too good to be true: a leaked label, or rows that it was fitted on?"
_LARGEST_MISCALIBRATION: Final = 1.25
"""The largest accepted ratio between predicted and actual purchases, in either direction."""


@dataclass(frozen=True, slots=True)
class Check:
    """The result of one check.

    Attributes:
        name: The check's name.
        passed: Whether this check allows the promotion.
        finding: What was found, in one sentence.
    """

    name: str
    passed: bool
    finding: str


@dataclass(frozen=True, slots=True)
class Promotion:
    """A promotion that took place.

    Attributes:
        target: The new target of the alias.
        checks: The checks of the version; empty if the alias already had this target.
    """

    target: AliasTarget
    checks: tuple[Check, ...] = ()


class PromotionRefused(ModelStoreError):  # noqa: N818 - a decision about the version, not a mistake
    """A version failed a check, so it was not promoted.

    Attributes:
        checks: All checks of the version.
    """

    def __init__(self, version: str, checks: tuple[Check, ...]) -> None:
        failed = "; ".join(check.finding for check in checks if not check.passed)
        super().__init__(
            f"version {version} is not promoted: {failed}; to insist: "
            f"purchase-stream models promote {version} --force --reason TEXT"
        )
        self.checks = checks


def judge(store: ModelStore, version: str, table: TrainingTable | None = None) -> tuple[Check, ...]:
    """Check a version before its promotion.

    Args:
        store: The model store.
        version: The candidate's id.
        table: Labelled students that neither the candidate nor the champion was fitted on. Both are
            measured on them. Without a table, the recorded intervals are compared.

    Raises:
        ModelStoreError: The candidate is refused, or it was fitted on the table.
    """
    manifest = store.manifest(version)
    checks = [_beats_base_rate(manifest), _is_not_too_good(manifest, store.evaluation(version))]
    if evaluation := store.evaluation(version):
        checks += [_is_calibrated(evaluation), _facts(evaluation)]
    if comparison := _compare(store, manifest, table):
        checks.append(comparison)
    return tuple(checks)


def as_evidence(checks: tuple[Check, ...]) -> dict[str, Any]:
    """Return the findings as JSON values, by the check's name."""
    return {check.name: {"passed": check.passed, "finding": check.finding} for check in checks}


def _beats_base_rate(manifest: Manifest) -> Check:
    quality = manifest.metrics.cross_validated
    base_rate = quality.positives / quality.rows
    low, _ = _interval(quality)
    better = low > base_rate and quality.brier_score < base_rate * (1 - base_rate)
    _, largest_area = quality.intervals.get("roc_auc", (quality.roc_auc, quality.roc_auc))
    swapped = "; it ranks buyers last: are the labels swapped?" if largest_area < 1 / 2 else ""
    return Check(
        "base_rate",
        better,
        f"average precision {quality.average_precision:.3f} (at least {low:.3f}) and Brier score "
        f"{quality.brier_score:.4f} are {'better' if better else 'not better'} than predicting the base "
        f"rate {base_rate:.3f} for everybody{swapped}",
    )


def _is_not_too_good(manifest: Manifest, evaluation: Evaluation | None) -> Check:
    quality = manifest.metrics.cross_validated
    if evaluation and evaluation.separating_input:
        return Check(
            "leak",
            passed=False,
            finding=f"{evaluation.separating_input} alone tells buyers from others: a leaked label?",
        )
    too_good = (
        quality.average_precision >= _SUSPICIOUS_AVERAGE_PRECISION or quality.roc_auc >= _SUSPICIOUS_ROC_AUC
    )
    figures = f"average precision {quality.average_precision:.3f}, ROC AUC {quality.roc_auc:.3f}"
    return Check("leak", not too_good, figures + _TOO_GOOD * too_good)


def _is_calibrated(evaluation: Evaluation) -> Check:
    rows = sum(item.rows for item in evaluation.reliability)
    predicted = sum(item.rows * item.mean_probability for item in evaluation.reliability)
    actual = evaluation.curve.positives
    spread = (predicted * (1 - predicted / rows)) ** 0.5 if rows else 0.0
    ratio = predicted / actual if actual else float("inf")
    within = 1 / _LARGEST_MISCALIBRATION <= ratio <= _LARGEST_MISCALIBRATION
    calibrated = within or abs(predicted - actual) <= 3 * spread
    return Check(
        "calibration",
        calibrated,
        f"{predicted:.0f} purchases predicted, {actual} made"
        + ("" if calibrated else "; calibrate it (CalibratedClassifierCV) and do not weight the classes"),
    )


def _facts(evaluation: Evaluation) -> Check:
    return Check(
        "data",
        passed=True,  # it only states facts
        finding=f"{evaluation.duplicate_rows} duplicate rows, "
        f"{evaluation.unknown_country_rows} rows of unknown countries",
    )


def _compare(store: ModelStore, manifest: Manifest, table: TrainingTable | None) -> Check | None:
    try:
        champion = store.manifest("champion")
    except ModelStoreError:
        return None
    if champion.version == manifest.version:
        return None
    if table is None:
        low, high = _interval(manifest.metrics.cross_validated)
        champion_low, champion_high = _interval(champion.metrics.cross_validated)
        return Check(
            "champion",
            high >= champion_low,
            f"average precision [{low:.3f}, {high:.3f}] against the champion's "
            f"[{champion_low:.3f}, {champion_high:.3f}], each on its own data",
        )
    if table.sha256 in {manifest.training_data.sha256, champion.training_data.sha256}:
        raise ModelStoreError(
            f"{table.source} is the data that one of the two versions was fitted on; give other rows"
        )
    difference, low, high = difference_interval(
        table.purchased,
        store.load(manifest.version).predict_probability(table.inputs),
        store.load("champion").predict_probability(table.inputs),
    )
    return Check(
        "champion",
        high >= 0,
        f"average precision {difference:+.3f} [{low:+.3f}, {high:+.3f}] against the champion on the "
        f"{table.rows} rows of {table.source}",
    )


def _interval(quality: Quality) -> tuple[float, float]:
    """Return the interval of the average precision; before schema version 2 it was not recorded."""
    value = quality.average_precision
    return quality.intervals.get("average_precision", (value, value))
