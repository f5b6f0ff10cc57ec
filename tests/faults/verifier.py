"""The verifier in its own process, which shares nothing with the scorers; and the sum of its reports."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any, Final

from consumer.settings import Settings
from tests.faults.process import CONTEXT

if TYPE_CHECKING:
    from consumer.kafka.admin import Ranges
    from consumer.ops.verify.verifier import VerifyReport

_BEGINS_WITHIN_S: Final = 60.0
_ANSWERS_WITHIN_S: Final = 600.0


class StreamVerifier:
    """Verifies what is committed when it is created; the stream may continue meanwhile.

    Args:
        settings: The settings of the service.
        with_log: Whether to verify the audit log, too.
        examples: The number of examples of each kind of finding.
        niceness: The niceness of its process.

    Attributes:
        ranges: The verified offsets by topic.
    """

    def __init__(
        self, settings: Settings, *, with_log: bool = False, examples: int = 10, niceness: int = 0
    ) -> None:
        self._answer, theirs = CONTEXT.Pipe(duplex=False)
        arguments = (theirs, settings.model_dump_json(), with_log, examples, niceness)
        self._process = CONTEXT.Process(target=_judge, args=arguments, daemon=True)
        self._process.start()
        theirs.close()
        assert self._answer.poll(_BEGINS_WITHIN_S), "the verifier does not start"
        self.ranges: dict[str, Ranges] = self._answer.recv()

    def has_answered(self) -> bool:
        """Return whether the report is ready."""
        return self._answer.poll()

    def verdict(self, timeout_s: float = _ANSWERS_WITHIN_S) -> VerifyReport:
        """Wait for the report."""
        assert self._answer.poll(timeout_s), "the verifier does not answer"
        verdict: VerifyReport = self._answer.recv()
        self._process.join()
        return verdict


def add(total: VerifyReport, verdict: VerifyReport) -> None:
    """Add the report on one span of the stream to the total."""
    total.events += verdict.events
    total.predictions += verdict.predictions
    total.prediction_records += verdict.prediction_records
    total.http_predictions += verdict.http_predictions
    for code, count in verdict.dead_letters.items():
        total.dead_letters[code] = total.dead_letters.get(code, 0) + count
    if verdict.log_lines is not None:
        total.log_lines = (total.log_lines or 0) + verdict.log_lines
    for name, finding in verdict.findings.items():
        total.add(name, finding.count, finding.examples)
    total.notes += verdict.notes


def _judge(answer: Any, settings: str, with_log: bool, examples: int, niceness: int) -> None:  # noqa: FBT001 - travels as a tuple
    from consumer.ops.verify.verifier import _Verification  # noqa: PLC0415 - only this process needs it

    os.nice(niceness)
    verification = _Verification(Settings.model_validate_json(settings), examples)
    answer.send(verification._ranges)
    answer.send(verification.run(with_log=with_log))
