"""Compare the champion with another version on the same students: the challenger, or its predecessor.

The monitor reads every committed prediction with its features, so it can score another version on the
same batches without a scorer noticing. A background thread passes the batches to a
:class:`~consumer.monitor.model_process.ModelProcess`. While the thread is busy, further batches are dropped
and counted: the audit log never waits. Students whose outcome is known come first, because few have one.

Only the loop's thread calls :class:`Challengers`.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Final, Literal

import numpy as np
import structlog

from consumer.columnar.arrays import FloatArray, IntArray
from consumer.monitor.model_process import ModelProblem, Models, Score, Scores, Switch
from consumer.monitor.outcomes.quality import OutcomeSums, sums_of
from consumer.monitor.sequential_test import Preference, SequentialTest
from consumer.settings import ChallengerSettings
from model_store.errors import ModelStoreError

if TYPE_CHECKING:
    from consumer.monitor.model_process import Answer, Request
    from consumer.monitor.outcomes.join import MaturedOutcomes
    from model_store.store import ModelStore

log = structlog.get_logger(__name__)

Contender = Literal["challenger", "previous"]
"""The alias of the version that is compared with the champion."""

PROBABILITY_BOUNDS: Final = tuple(n / 20 for n in range(1, 21))
DIFFERENCE_BOUNDS: Final = (-0.5, -0.25, -0.1, -0.05, -0.01, 0.01, 0.05, 0.1, 0.25, 0.5)
"""Upper bounds of the bins of the contender's probability, and of that minus the champion's."""

_QUEUE_SIZE: Final = 8
_STOP_CHECK_S: Final = 0.2


@dataclass(frozen=True, slots=True, kw_only=True)
class LiveCounts:
    """The predictions of both versions for the same students. Counts start with this process.

    Attributes:
        scored: Students that both versions scored.
        dropped: Students that were not scored, because the contender was still busy.
        failed: Students for whom the contender gave no probability.
        flagged: Students whom only the contender predicts to buy.
        unflagged: Students whom only the champion predicts to buy.
        difference: Σ(q - p), the contender's probability minus the champion's.
        absolute_difference: Σ|q - p|.
        probability_sum: Σq.
        probability_bins: Students by q; one more than ``PROBABILITY_BOUNDS``.
        difference_bins: Students by q - p; one more than ``DIFFERENCE_BOUNDS``.
    """

    scored: int = 0
    dropped: int = 0
    failed: int = 0
    flagged: int = 0
    unflagged: int = 0
    difference: float = 0.0
    absolute_difference: float = 0.0
    probability_sum: float = 0.0
    probability_bins: tuple[int, ...] = (0,) * (len(PROBABILITY_BOUNDS) + 1)
    difference_bins: tuple[int, ...] = (0,) * (len(DIFFERENCE_BOUNDS) + 1)

    @property
    def disagreement_ratio(self) -> float | None:
        """The share of students on whom the decisions differ; ``None`` before the first."""
        return (self.flagged + self.unflagged) / self.scored if self.scored else None

    def add(
        self, champion: FloatArray, decisions: IntArray, contender: FloatArray, threshold: float
    ) -> LiveCounts:
        """Return the counts with further students.

        Args:
            champion: The champion's probabilities, float64 (m,).
            decisions: The champion's decisions, 0 or 1, int64 (m,).
            contender: The contender's probabilities, float64 (m,); NaN where it failed.
            threshold: The contender's threshold.
        """
        known = ~np.isnan(contender)
        p, q, flagged = champion[known], contender[known], decisions[known] == 1
        differences, would_flag = q - p, q >= threshold
        return replace(
            self,
            scored=self.scored + len(q),
            failed=self.failed + len(contender) - len(q),
            flagged=self.flagged + int(np.count_nonzero(would_flag & ~flagged)),
            unflagged=self.unflagged + int(np.count_nonzero(flagged & ~would_flag)),
            difference=self.difference + float(differences.sum()),
            absolute_difference=self.absolute_difference + float(np.abs(differences).sum()),
            probability_sum=self.probability_sum + float(q.sum()),
            probability_bins=_add_to_bins(self.probability_bins, PROBABILITY_BOUNDS, q),
            difference_bins=_add_to_bins(self.difference_bins, DIFFERENCE_BOUNDS, differences),
        )


@dataclass(frozen=True, slots=True)
class Compared:
    """The versions that are compared.

    Attributes:
        contender: The alias of the other version.
        champion: The champion's version.
        version: The other version.
    """

    contender: Contender
    champion: str
    version: str


@dataclass(frozen=True, slots=True, kw_only=True)
class SavedComparison(Compared):
    """The part of a comparison that survives a restart: the evidence of the outcomes.

    Attributes:
        test: The evidence.
        champion_sums: The champion's matured outcomes in this comparison.
        sums: The other version's outcomes of the same students.
    """

    test: SequentialTest = field(default_factory=SequentialTest)
    champion_sums: OutcomeSums = field(default_factory=OutcomeSums)
    sums: OutcomeSums = field(default_factory=OutcomeSums)


@dataclass(frozen=True, slots=True, kw_only=True)
class ComparisonSnapshot(SavedComparison):
    """One comparison at one moment.

    Attributes:
        live: The predictions of both for the same students.
        preference: The preference that the evidence shows.
        problem: Why the other version is not scored, or the champion not switched; empty if all is well.
    """

    live: LiveCounts = field(default_factory=LiveCounts)
    preference: Preference = Preference.UNDECIDED
    problem: str = ""

    @property
    def compared(self) -> Compared:
        """The versions that are compared."""
        return Compared(self.contender, self.champion, self.version)


@dataclass(frozen=True, slots=True)
class Job:
    """A request about a comparison, and the champion's part of it.

    Attributes:
        compared: The comparison.
        request: The request to the models.
        champion: The champion's probabilities, float64 (m,).
        decisions: The champion's decisions, 0 or 1, int64 (m,).
        purchased: The outcomes, int64 (m,); ``None`` if they are not known.
    """

    compared: Compared
    request: Request
    champion: FloatArray = field(default_factory=lambda: np.zeros(0), repr=False)
    decisions: IntArray = field(default_factory=lambda: np.zeros(0, np.int64), repr=False)
    purchased: IntArray | None = field(default=None, repr=False)

    @property
    def is_live(self) -> bool:
        """Whether the request is to score students whose outcome is not known."""
        return isinstance(self.request, Score) and self.purchased is None


class Scoring:
    """A thread that sends requests to the models, one after the other.

    After a live batch it takes no other live batch for a while, so that they take at most a share of the
    time. Requests about outcomes are not limited: few students have one.

    Args:
        models: The models.
        budget_ratio: That share, above 0, at most 1.
        clock_s: Monotonic clock, seconds.
    """

    def __init__(
        self, models: Models, budget_ratio: float, clock_s: Callable[[], float] = time.monotonic
    ) -> None:
        self._models = models
        self._budget_ratio = budget_ratio
        self._clock_s = clock_s
        self._waiting: queue.Queue[Job] = queue.Queue(_QUEUE_SIZE)
        self._answered: queue.SimpleQueue[tuple[Job, Answer | ModelProblem]] = queue.SimpleQueue()
        self._live_from_s = clock_s()  # infinite while a live batch waits or is scored
        self._stopping = threading.Event()
        self._thread: threading.Thread | None = None

    def offer(self, job: Job) -> bool:
        """Add a request without waiting; return whether it was added."""
        if job.is_live and (self._clock_s() < self._live_from_s or not self._waiting.empty()):
            return False
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="challenger", daemon=True)
            self._thread.start()
        if job.is_live:
            self._live_from_s = float("inf")
        try:
            self._waiting.put_nowait(job)
        except queue.Full:
            return False
        return True

    def answers(self) -> list[tuple[Job, Answer | ModelProblem]]:
        """Return the answers that have arrived since the last call, in order."""
        answers = []
        while True:
            try:
                answers.append(self._answered.get_nowait())
            except queue.Empty:
                return answers

    def stop(self) -> None:
        """Stop the thread and the models, without waiting for an answer."""
        self._stopping.set()
        self._models.close()
        if self._thread is not None:
            self._thread.join()

    def _run(self) -> None:
        while not self._stopping.is_set():
            try:
                job = self._waiting.get(timeout=_STOP_CHECK_S)
            except queue.Empty:
                continue
            started_s = self._clock_s()
            try:
                answer: Answer | ModelProblem = self._models.ask(job.request)
            except ModelProblem as problem:
                answer = problem
            self._answered.put((job, answer))
            if job.is_live:
                now_s = self._clock_s()
                self._live_from_s = now_s + (now_s - started_s) * (1 / self._budget_ratio - 1)


class Challengers:
    """Compares the champion with the challenger and, if that may lead to a rollback, with its predecessor.

    Args:
        store: The model store.
        scoring: Scores the other version.
        settings: What may follow from a comparison.
    """

    def __init__(self, store: ModelStore, scoring: Scoring, settings: ChallengerSettings) -> None:
        self._store = store
        self._scoring = scoring
        self._settings = settings
        self._comparisons: dict[Contender, ComparisonSnapshot] = {}
        self._saved: dict[Compared, ComparisonSnapshot] = {}
        self._switched: set[Compared] = set()

    @property
    def comparing(self) -> bool:
        """Whether any version is compared with the champion."""
        return bool(self._comparisons)

    def refresh_aliases(self) -> None:
        """Read the aliases; start and end comparisons accordingly."""
        try:
            compared = self._compared()
        except ModelStoreError:  # damaged or not readable: keep what there is
            return
        current: dict[Contender, ComparisonSnapshot] = {}
        for pair in compared:
            before = self._comparisons.get(pair.contender)
            if before is None or before.compared != pair:
                before = self._saved.pop(pair, None) or ComparisonSnapshot(
                    contender=pair.contender, champion=pair.champion, version=pair.version
                )
                log.info(
                    "a version is compared with the champion",
                    alias=pair.contender,
                    version=pair.version,
                    champion=pair.champion,
                )
            current[pair.contender] = before
        self._comparisons = current

    def observe(
        self, features: FloatArray, probabilities: FloatArray, decisions: IntArray, champion: str
    ) -> None:
        """Compare on predictions of one version, unless it is not the champion's.

        Args:
            features: The inputs, Fortran-ordered, float64 (m, 7).
            probabilities: The champion's probabilities, float64 (m,).
            decisions: The champion's decisions, 0 or 1, int64 (m,).
            champion: The version that made the predictions.
        """
        comparison = self._comparisons.get("challenger")
        if comparison is None or comparison.champion != champion or not len(features):
            return
        job = Job(comparison.compared, Score(comparison.version, features), probabilities, decisions)
        if not self._scoring.offer(job):
            self._count_dropped(comparison, len(features))

    def add_outcomes(self, matured: MaturedOutcomes) -> None:
        """Compare on students whose outcome is known."""
        for comparison in list(self._comparisons.values()):
            if comparison.champion != matured.version or not len(matured.features):
                continue
            job = Job(
                comparison.compared,
                Score(comparison.version, matured.features),
                matured.probabilities,
                matured.decisions,
                matured.purchased,
            )
            if not self._scoring.offer(job):
                self._count_dropped(comparison, len(matured.features))

    def collect(self) -> bool:
        """Process the answers that have arrived; return whether there were any."""
        answers = self._scoring.answers()
        for job, answer in answers:
            comparison = self._comparisons.get(job.compared.contender)
            if comparison is None or comparison.compared != job.compared:
                continue  # the aliases have changed meanwhile
            self._comparisons[job.compared.contender] = self._with_answer(comparison, job, answer)
        return bool(answers)

    def snapshot(self) -> tuple[ComparisonSnapshot, ...]:
        """Return the present state."""
        return tuple(self._comparisons.values())

    def saved(self) -> list[SavedComparison]:
        """Return the state that survives a restart."""
        return [
            SavedComparison(
                contender=comparison.contender,
                champion=comparison.champion,
                version=comparison.version,
                test=comparison.test,
                champion_sums=comparison.champion_sums,
                sums=comparison.sums,
            )
            for comparison in self._comparisons.values()
        ]

    def restore(self, saved: list[SavedComparison]) -> None:
        """Continue these comparisons as soon as the aliases are read, if they still name the versions."""
        for item in saved:
            comparison = ComparisonSnapshot(
                contender=item.contender,
                champion=item.champion,
                version=item.version,
                test=item.test,
                champion_sums=item.champion_sums,
                sums=item.sums,
                preference=item.test.preference(self._settings.error_ratio),
            )
            self._saved[comparison.compared] = comparison

    def close(self) -> None:
        """Stop scoring."""
        self._scoring.stop()

    def _compared(self) -> list[Compared]:
        """Return the comparisons that the aliases ask for.

        Raises:
            ModelStoreError: An alias or the history cannot be read.
        """
        champion, challenger = self._store.target("champion"), self._store.target("challenger")
        if champion is None:
            return []
        compared = []
        if challenger is not None and challenger.version != champion.version:
            compared.append(Compared("challenger", champion.version, challenger.version))
        previous = self._store.target("previous") if self._settings.rollback else None
        if previous is not None and previous.version != champion.version and self._is_new(champion.version):
            compared.append(Compared("previous", champion.version, previous.version))
        return compared

    def _is_new(self, version: str) -> bool:
        """Return whether a version is the champion for the first time.

        A champion that came back, by a rollback or because a person insists, is not rolled back again.
        """
        switches = [switch for switch in self._store.history() if switch.get("alias") == "champion"]
        return [switch.get("to") for switch in switches].count(version) == 1

    def _count_dropped(self, comparison: ComparisonSnapshot, students: int) -> None:
        live = replace(comparison.live, dropped=comparison.live.dropped + students)
        self._comparisons[comparison.contender] = replace(comparison, live=live)

    def _with_answer(
        self, comparison: ComparisonSnapshot, job: Job, answer: Answer | ModelProblem
    ) -> ComparisonSnapshot:
        """Return a comparison after an answer."""
        if isinstance(answer, ModelProblem):
            return self._with_problem(comparison, job, str(answer))
        if not isinstance(answer, Scores):
            log.warning(
                "the champion was switched",
                champion=comparison.version,
                before=comparison.champion,
                alias=comparison.contender,
            )
            return comparison
        if comparison.problem and comparison.compared not in self._switched:
            comparison = replace(comparison, problem="")
        if job.purchased is None:
            live = comparison.live.add(job.champion, job.decisions, answer.probabilities, answer.threshold)
            return replace(comparison, live=live)
        known = ~np.isnan(answer.probabilities)
        probabilities, purchased = answer.probabilities[known], job.purchased[known]
        champion, decisions = job.champion[known], job.decisions[known]
        test = comparison.test.add(champion, probabilities, purchased)
        live = comparison.live
        comparison = replace(
            comparison,
            live=replace(live, failed=live.failed + int(np.count_nonzero(~known))),
            test=test,
            champion_sums=comparison.champion_sums + sums_of(champion, decisions, purchased),
            sums=comparison.sums
            + sums_of(probabilities, (probabilities >= answer.threshold).astype(np.int64), purchased),
        )
        return self._decide(comparison)

    def _with_problem(self, comparison: ComparisonSnapshot, job: Job, problem: str) -> ComparisonSnapshot:
        if isinstance(job.request, Switch):
            log.warning("the champion was not switched", version=comparison.version, reason=problem)
        else:
            live = comparison.live
            comparison = replace(comparison, live=replace(live, failed=live.failed + len(job.champion)))
            if problem != comparison.problem:
                log.warning(
                    "a version cannot be compared with the champion",
                    version=comparison.version,
                    reason=problem,
                )
        return replace(comparison, problem=problem)

    def _decide(self, comparison: ComparisonSnapshot) -> ComparisonSnapshot:
        """Judge the evidence, and switch the champion if the settings allow it."""
        preference = comparison.test.preference(self._settings.error_ratio)
        if preference == Preference.UNDECIDED:
            return comparison
        if preference != comparison.preference:
            log.info(
                "a version was judged against the champion",
                version=comparison.version,
                preference=preference,
                outcomes=comparison.test.outcomes,
            )
        comparison = replace(comparison, preference=preference)
        allowed = self._settings.promote if comparison.contender == "challenger" else self._settings.rollback
        compared = comparison.compared
        wanted = allowed and preference == Preference.BETTER and compared not in self._switched
        if wanted and self._scoring.offer(Job(compared, self._switch(comparison))):
            self._switched.add(compared)
        return comparison

    def _switch(self, comparison: ComparisonSnapshot) -> Switch:
        finding = evidence(comparison, self._settings.error_ratio)
        is_challenger = comparison.contender == "challenger"
        return Switch(
            action="promote" if is_challenger else "rollback",
            version=comparison.version,
            champion=comparison.champion,
            reason="automatic: the challenger is better"
            if is_challenger
            else "automatic: the predecessor is better",
            evidence={"sequential_test": finding},
        )


def evidence(comparison: ComparisonSnapshot, error_ratio: float) -> dict[str, Any]:
    """Return the finding of the sequential test for the store's history."""
    test = comparison.test
    brier, champion_brier = (
        test.contender_squared_error / test.outcomes,
        test.champion_squared_error / test.outcomes,
    )
    return {
        "passed": True,
        "finding": (
            f"on {test.outcomes} outcomes the Brier score of {comparison.version} is {brier:.4f}, that of "
            f"{comparison.champion} {champion_brier:.4f}; the evidence {test.peak_better:.0f} reached "
            f"{1 / error_ratio:.0f}, which happens to a version that is not better with a probability of at "
            f"most {error_ratio:g}"
        ),
        "outcomes": test.outcomes,
        "brier": brier,
        "champion_brier": champion_brier,
        "evidence": test.peak_better,
        "error_ratio": error_ratio,
    }


def _add_to_bins(bins: tuple[int, ...], bounds: tuple[float, ...], values: FloatArray) -> tuple[int, ...]:
    """Count values into bins; a value equal to an upper bound is in its bin.

    >>> _add_to_bins((0, 0, 0), (0.1, 0.2), np.array([0.1, 0.15, 0.9]))
    (1, 1, 1)
    """
    counts = np.bincount(np.searchsorted(bounds, values), minlength=len(bins))
    return tuple((np.array(bins) + counts).tolist())
