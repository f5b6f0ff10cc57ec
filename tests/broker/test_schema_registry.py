"""Writer schemas through a real schema registry."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial

import pytest

from consumer.errors import Condition, Unavailable
from consumer.kafka.schema_registry import RegistrySchemas
from consumer.pipeline.batch import Headers
from consumer.pipeline.decode import Decoder
from consumer.pipeline.pipeline import find_rejections
from schemas.avro import AvroSchema
from schemas.repository import SCHEMA_ID_HEADER, confluent_header, engagement_event, purchase_prediction
from tests.support.events import encoded, event
from tests.support.registry import Apicurio, apicurio
from tests.support.writer_schemas import CASES, WriterCase


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Apicurio]:
    """A registry for this module."""
    with apicurio(tmp_path_factory.mktemp("registry") / "log") as running:
        yield running


Connect = Callable[..., RegistrySchemas]


@pytest.fixture
def connect() -> Iterator[Connect]:
    """A function that connects to a registry; its connections are closed with the test."""
    made: list[RegistrySchemas] = []

    def to(url: str, **client: object) -> RegistrySchemas:
        made.append(RegistrySchemas(url, client))
        return made[-1]

    yield to
    for schemas in made:
        schemas._client.close()


def _register(registry: Apicurio, case: WriterCase) -> int:
    """Register a writer schema, and first those that it refers to."""
    references: list[dict[str, object]] = []
    for name, schema in case.references.items():
        registry.register(name, schema, list(references))
        references.append({"name": f"platform.{schema['name']}", "subject": name, "version": 1})
    return registry.register(f"{case.name.replace(' ', '-')}-value", case.schema, references)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_the_events_of_every_writer_schema_are_answered(
    registry: Apicurio, connect: Connect, case: WriterCase
) -> None:
    """In Confluent framing, and with the id in a header and a bare body."""
    schema_id = _register(registry, case)
    decoder = Decoder(engagement_event(), connect(registry.url), keep_nulls=True)
    frame = confluent_header(schema_id)
    framings: list[tuple[bytes, Headers]] = [(frame, []), (b"", [(SCHEMA_ID_HEADER, frame)])]
    for prefix, headers in framings:
        codes: list[str | None] = [None] * len(case.events)
        values = [prefix + record for record in case.records()]
        for rejection in find_rejections(decoder, values, partial(_headers, headers)):
            codes[rejection.row] = rejection.code.value
        assert codes == case.codes()


def _headers(headers: Headers, rows: Sequence[int]) -> list[Headers]:
    return [headers for _ in rows]


def test_what_we_register_is_found_by_its_id(registry: Apicurio, connect: Connect) -> None:
    """The schema comes back as it is; registering it again gives the same id."""
    schemas = connect(registry.url)
    schema_id = schemas.register("predictions", purchase_prediction())
    assert schemas.register("predictions", purchase_prediction()) == schema_id
    found = connect(registry.url).by_id(schema_id)
    assert isinstance(found, AvroSchema)
    assert found.fingerprints == purchase_prediction().fingerprints


def test_an_id_that_is_not_there_is_no_outage(registry: Apicurio, connect: Connect) -> None:
    """The event is unknown_schema; a registry that is away, or a URL without one, is an outage."""
    value = confluent_header(123_456) + encoded(event())
    decoder = Decoder(engagement_event(), connect(registry.url))
    _, (rejection,) = decoder.decode([value])
    assert rejection.detail == "The schema registry has no schema with id 123456."
    for url in ("http://127.0.0.1:1", registry.url.removesuffix("/apis/ccompat/v7") + "/nothing"):
        away = Decoder(engagement_event(), connect(url, **{"max.retries": 0}))
        with pytest.raises(Unavailable, match="schema registry") as caught:
            away.decode([value])
        assert caught.value.condition is Condition.SCHEMA_REGISTRY
