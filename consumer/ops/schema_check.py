"""Check whether records of a platform's schema can be read as ours.

The answers come from the plan by which the stream reads the records
(:class:`~consumer.pipeline.resolution.Resolution`).
"""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from consumer.pipeline.resolution import Branch, Missing, Resolution, Step
from schemas.avro import AvroSchema, type_name
from schemas.repository import engagement_event


class Readability(StrEnum):
    """Whether values of a field, or records, can be read as ours."""

    YES = "ok"
    SOME = "some"
    NO = "no"


@dataclass(frozen=True, slots=True)
class FieldVerdict:
    """Whether one of our fields can be read, or the record as a whole.

    Attributes:
        field: The name of the field; for the record, the writer's name.
        verdict: Whether it can be read.
        what: The reason, or the source of the values.
    """

    field: str
    verdict: Readability
    what: str


def check_schema(
    writer: AvroSchema, reader: AvroSchema, *, by_fingerprint: bool = True
) -> list[FieldVerdict]:
    """Return a verdict for every field of the reader, and for the record if no field shows what is wrong.

    Args:
        writer: The platform's schema.
        reader: Ours.
        by_fingerprint: Whether records name the schema by its fingerprint, not by a registry id.
    """
    resolution = Resolution(writer, reader)
    null_code = "field_invalid" if reader.name == engagement_event().name else "undecodable"
    verdicts: list[FieldVerdict] = []
    readable = [branch for branch in resolution.branches if not branch.problem]
    if not readable:
        return [FieldVerdict(writer.name, Readability.NO, resolution.branches[0].problem)]
    for branch, missing in zip(resolution.branches, resolution.missing, strict=True):
        if branch.problem:
            what = f"{branch.type_name} ends as a dead letter (undecodable)"
            verdicts.append(FieldVerdict(writer.name, Readability.SOME, what))
            continue
        order = [spec["name"] for spec in reader.parsed["fields"]]
        fields = [
            *(_field(step, null_code) for step in branch.steps if step.target),
            *(_missing(one, branch) for one in missing),
        ]
        verdicts += sorted(fields, key=lambda verdict: order.index(verdict.field.split(".")[0]))
    if by_fingerprint and writer.fingerprint == reader.fingerprint and not resolution.is_identity:
        what = "with a single-object frame its times are taken for milliseconds; use a schema registry"
        verdicts.append(FieldVerdict(writer.name, Readability.SOME, what))
    return verdicts


def summarize(verdicts: Sequence[FieldVerdict]) -> Readability:
    """Return the verdict on a schema as a whole."""
    found = {one.verdict for one in verdicts}
    return next((one for one in (Readability.NO, Readability.SOME) if one in found), Readability.YES)


def unread_fields(writer: AvroSchema, reader: AvroSchema) -> list[str]:
    """Return the fields of the writer that are not read."""
    branches = Resolution(writer, reader).branches
    return [step.name for branch in branches for step in branch.steps if not step.target]


def _field(step: Step, null_code: str) -> FieldVerdict:
    own = step.target
    origin = "" if step.name == own.rpartition(".")[2] else f"from {step.name}, "
    lost = [branch for branch in step.branches if _problem(branch)]
    kinds = type_name(step.type)
    if len(lost) == len(step.branches):
        return FieldVerdict(own, Readability.NO, f"{origin}{_problem(lost[0])}")
    if lost:
        ends = "; ".join(
            f"{branch.type_name} ends as a dead letter ({null_code if branch.is_null else 'undecodable'})"
            for branch in lost
        )
        return FieldVerdict(own, Readability.SOME, f"{origin}{kinds}; {ends}")
    notes = [branch.note for branch in step.branches if branch.note]
    return FieldVerdict(own, Readability.YES, origin + (", ".join(notes) if notes else kinds))


def _problem(branch: Branch) -> str:
    """Return why a value, or a field of a nested record, cannot be read."""
    inner = (
        f"{step.name}: {_problem(step.branches[0])}"
        for step in branch.steps
        if step.target and all(map(_problem, step.branches))
    )
    return branch.problem or next(inner, "")


def _missing(missing: Missing, branch: Branch) -> FieldVerdict:
    if not missing.problem:
        return FieldVerdict(missing.name, Readability.YES, f"missing: always {missing.default!r}")
    unread = [step.name for step in branch.steps if not step.target]
    near = difflib.get_close_matches(missing.name, unread, 1)
    hint = f"; is it {near[0]}?" if near else ""
    return FieldVerdict(missing.name, Readability.NO, missing.problem + hint)
