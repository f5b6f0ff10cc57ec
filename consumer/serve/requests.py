"""Parse and validate request bodies. Errors have FastAPI's form."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Final

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    TypeAdapter,
    ValidationError,
    ValidationInfo,
    field_validator,
)
from pydantic_core import PydanticKnownError, from_json

from consumer.pipeline.batch import NUMERIC_INPUT_FIELDS
from consumer.pipeline.validate import StudentInputs, broken_cross_field_rule

MAX_LISTED_ERRORS: Final = 20
"""The largest number of errors to list, so that an answer is never much larger than its request."""

Detail = str | list[dict[str, Any]]
MAX_ID_CHARACTERS: Final = 128
_Id = Annotated[str, Field(min_length=1, max_length=MAX_ID_CHARACTERS)]

EXAMPLE: Final[dict[str, Any]] = {
    "event_id": "order-7f3c",
    "student_id": "student-42",
    "student_country": "US",
    "days_on_platform": 30,
    "minutes_watched": 412.5,
    "courses_started": 2,
    "practice_exams_started": 4,
    "practice_exams_passed": 3,
    "minutes_spent_on_exams": 55.25,
}


class InvalidRequest(Exception):  # noqa: N818 - a value for the client, not a mistake
    """A request that cannot be answered.

    Attributes:
        detail: One sentence, or a list of errors in FastAPI's form.
    """

    def __init__(self, detail: Detail) -> None:
        super().__init__(str(detail))
        self.detail = detail


class PredictionRequest(StudentInputs):
    """The inputs of one prediction."""

    model_config = ConfigDict(frozen=True, json_schema_extra={"examples": [EXAMPLE]})

    event_id: _Id | None = Field(
        default=None,
        description="Repeat it when you retry a request: the same event_id gives the same prediction once.",
    )
    student_id: _Id | None = Field(
        default=None, description="A prediction without it is published, but is not counted for drift."
    )

    @field_validator(*NUMERIC_INPUT_FIELDS, mode="before")
    @classmethod
    def _is_number(cls, value: Any, info: ValidationInfo) -> Any:
        """Reject booleans and texts, which pydantic would convert to numbers."""
        if isinstance(value, bool | str):
            is_integer = cls.model_fields[info.field_name or ""].annotation is int
            raise PydanticKnownError("int_type" if is_integer else "float_type")
        return value


class BatchRequest(BaseModel):
    """The inputs of several predictions."""

    records: list[PredictionRequest]


@dataclass(frozen=True, slots=True)
class Batch:
    """Several valid requests.

    Attributes:
        requests: The requests.
        location: The location of the requests in the body: ``["body"]`` for a bare list, else ``["body",
            "records"]``.
    """

    requests: list[PredictionRequest]
    location: list[str]

    @property
    def is_bare(self) -> bool:
        """Whether the body is a bare list."""
        return len(self.location) == 1


_REQUEST: Final = TypeAdapter(PredictionRequest)


def parse_one(body: bytes) -> PredictionRequest:
    """Parse the body of ``/predict``.

    Raises:
        InvalidRequest: The body is not a valid request.
    """
    errors: list[dict[str, Any]] = []
    request = _validate(_parse_json(body), ["body"], errors)
    if request is None:
        raise InvalidRequest(_bounded(errors))
    if detail := broken_cross_field_rule(vars(request)):
        raise InvalidRequest(detail)
    return request


def parse_many(body: bytes, max_records: int) -> Batch:
    """Parse the body of ``/batch_predict``.

    Raises:
        InvalidRequest: The body is not a valid request. Each error names the index of its record.
    """
    records, location = _records(_parse_json(body))
    n = len(records)
    if not n:
        message = "List should have at least 1 item after validation, not 0"
        raise InvalidRequest([_error(location, "too_short", message)])
    if n > max_records:
        message = f"List should have at most {max_records} items after validation, not {n}"
        raise InvalidRequest([_error(location, "too_long", message)])
    requests: list[PredictionRequest] = []
    errors: list[dict[str, Any]] = []
    for i, record in enumerate(records):
        request = _validate(record, [*location, i], errors)
        if request is not None:
            requests.append(request)
            if detail := broken_cross_field_rule(vars(request)):
                errors.append(_error([*location, i], "value_error", detail))
        if len(errors) > MAX_LISTED_ERRORS:
            break
    if errors:
        raise InvalidRequest(_bounded(errors))
    return Batch(requests, location)


def error_at(location: Sequence[str | int], message: str) -> InvalidRequest:
    """Return an error about one value."""
    return InvalidRequest([_error(location, "value_error", message)])


def _records(content: Any) -> tuple[list[Any], list[str]]:
    """Return the records of a batch and their location in the body."""
    if isinstance(content, list):
        return content, ["body"]
    if not isinstance(content, dict):
        raise InvalidRequest([_error(["body"], "dict_type", "Input should be a valid dictionary")])
    location = ["body", "records"]
    if "records" not in content:
        raise InvalidRequest([_error(location, "missing", "Field required")])
    records = content["records"]
    if not isinstance(records, list):
        raise InvalidRequest([_error(location, "list_type", "Input should be a valid list")])
    return records, location


def _parse_json(body: bytes) -> Any:
    if not body:
        raise InvalidRequest([_error(["body"], "missing", "Field required")])
    try:
        return from_json(body, allow_inf_nan=True)  # so that the answer names the field that holds NaN
    except ValueError as error:
        raise InvalidRequest([_error(["body"], "json_invalid", f"Invalid JSON: {error}")]) from error


def _validate(
    record: Any, location: Sequence[str | int], errors: list[dict[str, Any]]
) -> PredictionRequest | None:
    """Validate one record, or add its errors to the list."""
    if not isinstance(record, dict):
        errors.append(_error(location, "dict_type", "Input should be a valid dictionary"))
        return None
    try:
        return _REQUEST.validate_python(record)
    except ValidationError as error:
        errors += (
            _error([*location, *problem["loc"]], problem["type"], problem["msg"])
            for problem in error.errors(include_url=False, include_context=False, include_input=False)
        )
        return None


def _bounded(errors: list[dict[str, Any]]) -> list[dict[str, Any]]:
    if len(errors) <= MAX_LISTED_ERRORS:
        return errors
    more = _error(["body"], "too_many_errors", "Further errors are not listed")
    return [*errors[:MAX_LISTED_ERRORS], more]


def _error(location: Sequence[str | int], type_: str, message: str) -> dict[str, Any]:
    return {"type": type_, "loc": list(location), "msg": message}
