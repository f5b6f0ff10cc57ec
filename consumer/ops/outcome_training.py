"""Make training data of past predictions and the outcomes that followed them."""

from __future__ import annotations

import numpy as np

from consumer.errors import BadInputError
from consumer.ops.past import Outcomes, Past, PastPredictions, join_outcomes
from consumer.pipeline.score import CountryNumbers, featurize
from model_store.countries import country_code
from model_store.manifest import digest
from model_store.training_data import TrainingTable

_MS_PER_DAY = 86_400_000


def outcome_table(past: Past, outcomes: Outcomes, maturity_days: float) -> TrainingTable:
    """Return a training row for each outcome: the inputs of the student's last prediction before it.

    A prediction takes one outcome, the first after it. Predictions that are younger than the maturity at the
    time of the newest outcome are left out: where purchases are reported before their absence, they would
    make buyers too frequent.

    Args:
        past: The span of predictions.
        outcomes: All outcomes.
        maturity_days: The age at which a prediction's outcome is certain.

    Raises:
        BadInputError: No outcome has a prediction before it, or the log is no audit log.
        StartupError: The source is missing.
        Unavailable: The broker does not answer.
    """
    newest_ms = int(outcomes.observed_at_ms.max(initial=0)) - int(maturity_days * _MS_PER_DAY)
    known = np.unique(outcomes.students)
    kept = []
    for batch in past.predictions():
        rows = np.flatnonzero(np.isin(batch.students, known) & (batch.scored_at_ms <= newest_ms))
        if len(rows):
            kept.append(_inputs(batch.select_rows(rows)))
    if not kept:
        raise BadInputError(
            f"none of {len(outcomes)} outcomes has a prediction of its student in {past.source}; check"
            " topics.outcomes, --since and outcomes.maturity_days"
        )
    students, scored_at_ms, inputs, countries = (np.concatenate([part[i] for part in kept]) for i in range(4))
    rows, own = join_outcomes(students, scored_at_ms, outcomes)
    if not len(rows):
        raise BadInputError(f"no outcome was observed after a prediction in {past.source}")
    chosen = np.asfortranarray(inputs[rows])
    purchased = outcomes.purchased[own]
    return TrainingTable(
        countries=countries[rows].tolist(),
        inputs=chosen,
        purchased=purchased,
        sha256=digest(chosen.tobytes(order="F") + purchased.tobytes()),
        source=f"{len(rows)} outcomes of predictions in {past.source}",
        times_ms=scored_at_ms[rows],
    )


_COUNTRIES = CountryNumbers(country_code)


def _inputs(batch: PastPredictions) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Return students, times, inputs (m, 7) and the countries as written."""
    data, (starts, stops) = batch.events.data, batch.events.span("student_country")
    written = [data[start:stop].decode() for start, stop in zip(starts.tolist(), stops.tolist(), strict=True)]
    countries = np.array(written, dtype=object)
    return batch.students, batch.scored_at_ms, featurize(batch.events, _COUNTRIES), countries
