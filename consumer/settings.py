"""The one typed tree of settings.

Sources, weakest first: defaults, ``purchase-stream.toml``, environment (``PURCHASE_STREAM_``,
``__`` between levels), command-line flags. Secrets may lie in files: ``PURCHASE_STREAM_SECRETS_DIR``
names a folder whose files are named like ``kafka__client``; they stand between the TOML file and
the environment.
An unknown key is an error that names the nearest known one.
"""

from __future__ import annotations

import difflib
import os
import re
import socket
import tomllib
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from pydantic_settings import (
    BaseSettings,
    NestedSecretsSettingsSource,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    SettingsError,
    TomlConfigSettingsSource,
)

from consumer.errors import StartupError

if TYPE_CHECKING:
    from pydantic_core import ErrorDetails

ENV_PREFIX: Final = "PURCHASE_STREAM_"
DEFAULT_FILE: Final = Path("purchase-stream.toml")
_SECRETS_DIR_VARIABLE: Final = "PURCHASE_STREAM_SECRETS_DIR"
"""A folder with one file per secret, named like ``kafka__client``."""
_SECRET_PARTS: Final = (
    "password",
    "secret",
    "token",
    "key.pem",
    "user.info",
    "jaas",
    "private",
    "oauthbearer.config",
)


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class KafkaSettings(_Section):
    """How to reach Kafka, and who we are there."""

    bootstrap_servers: str = "localhost:9092"
    client: dict[str, Any] = Field(default_factory=dict)
    """Any librdkafka property, passed through unchanged (SASL, TLS, …)."""
    group_id: str = "purchase-stream"
    instance_id: str = Field(default_factory=socket.gethostname)
    """Stable name of this scorer; the transactional id is the group id, ``-`` and this."""
    delivery: Literal["exactly_once", "at_least_once"] = "exactly_once"


class TopicSettings(_Section):
    """Topic names."""

    events: str = "engagement-events"
    predictions: str = "purchase-predictions"
    dead_letters: str = "engagement-events.dlq"
    outcomes: str = "purchase-outcomes"
    control: str = "purchase-stream-control"
    """Where the monitor says that its recommendation about retraining has changed."""


class SchemaRegistrySettings(_Section):
    """Confluent Schema Registry; without a URL everything is framed as single objects."""

    url: str | None = None
    client: dict[str, Any] = Field(default_factory=dict)


class ModelStoreSettings(_Section):
    """Where model versions live, and which model is used."""

    path: Path = Path("artifacts/models")
    model: str = "purchase"
    poll_s: float = Field(default=5.0, gt=0)
    """Seconds between looks at the champion alias."""


class AuditSettings(_Section):
    """The JSONL audit log."""

    path: Path = Path("artifacts/prediction_log.jsonl")
    rotate_bytes: int = Field(default=256 * 1024 * 1024, ge=1024)
    """The log is set aside under a numbered name when it has grown to this size."""


class HttpSettings(_Section):
    """Bind address and ports of the HTTP endpoints."""

    host: str = "127.0.0.1"
    score_port: int = Field(default=9101, ge=0, le=65535)
    """Of worker 0; worker n listens n ports above."""
    monitor_port: int = Field(default=9100, ge=0, le=65535)
    serve_port: int = Field(default=8000, ge=0, le=65535)


class BatchSettings(_Section):
    """Limits of one batch, which is one transaction.

    Chosen by measurement on one broker. With a wait of 10 ms instead of 20, at 1,000 events/s, the
    median from produced to readable was 16 instead of 22 ms, the 99th percentile 38 instead of 43; for
    72 transactions/s instead of 41, and a quarter more of the broker's CPU; and a backlog went at
    376,000 instead of 350,000 events/s. Behind a backlog, batches of 5,000 made 193,000, of 10,000 made
    213,000, of 20,000 made 212,000 events/s.
    """

    max_events: int = Field(default=10_000, ge=1, le=100_000)
    max_wait_ms: int = Field(default=10, ge=0, le=10_000)
    """How long a batch that has its first event waits for more."""


class DriftSettings(_Section):
    """When live data is said to have drifted from training data (docs/drift.md)."""

    window_students: int = Field(default=1000, ge=10, le=1_000_000)
    """Distinct students that fill a window, which is judged when it is full."""
    window_max_age_h: float = Field(default=24.0, gt=0)
    """Hours after which a window is closed as it is."""
    minimum_students: int = Field(default=500, ge=2)
    """A window closed with fewer students than this is not judged."""
    windows_per_false_alarm: float = Field(default=1000.0, gt=1)
    """On stable traffic, less than one in so many windows has any alarm, all features together."""
    tolerated_psi: float = Field(default=0.02, ge=0)
    """A true population stability index of a feature up to this is no drift; 0.02 is a shift of the
    mean by about 0.14 standard deviations."""
    tolerated_rate_shift_ratio: float = Field(default=0.01, ge=0, lt=1)
    """A true shift of the share of predicted purchases up to this is none; 0.01 is one point."""
    windows_to_confirm: int = Field(default=2, ge=1, le=10)
    """So many windows in a row must agree before retraining is recommended, or no longer is."""
    cooldown_h: float = Field(default=24.0, ge=0)
    """Hours after retraining was recommended on the control topic until it is again."""

    @model_validator(mode="after")
    def _window_can_be_judged(self) -> Self:
        if self.minimum_students > self.window_students:
            raise ValueError("minimum_students must not exceed window_students")
        return self


class OutcomeSettings(_Section):
    """How live precision and recall are measured from the outcomes topic (docs/drift.md)."""

    max_predictions: int = Field(default=200_000, ge=1)
    """The last so many predictions wait for an outcome; older ones are forgotten."""
    maturity_days: float = Field(default=0.0, ge=0)
    """An outcome counts once its prediction is so old. Set it where purchases are told at once but
    their absence only after some days; else purchases would count first, and precision look high."""
    window_outcomes: int = Field(default=2000, ge=100)
    """Matured outcomes that are judged together; fewer are no reason for anything."""
    tolerated_drop_ratio: float = Field(default=0.05, ge=0, lt=1)
    """Precision or recall may lie so far below what is expected, beyond chance; 0.05 is five points."""


class TrainingSettings(_Section):
    """What training may be told; recorded with the model."""

    weight_minutes_watched: float = 0.5
    weight_days_on_platform: float = 0.3
    weight_courses_started: float = 0.2
    """The three weights of the engagement score."""


class Settings(BaseSettings):
    """Everything that can be set."""

    model_config = SettingsConfigDict(
        env_prefix=ENV_PREFIX,
        env_nested_delimiter="__",
        extra="forbid",
        frozen=True,
        secrets_dir_missing="error",
        secrets_nested_delimiter="__",
        secrets_prefix="",
    )

    kafka: KafkaSettings = KafkaSettings()
    topics: TopicSettings = TopicSettings()
    schema_registry: SchemaRegistrySettings = SchemaRegistrySettings()
    model_store: ModelStoreSettings = ModelStoreSettings()
    audit: AuditSettings = AuditSettings()
    http: HttpSettings = HttpSettings()
    batch: BatchSettings = BatchSettings()
    training: TrainingSettings = TrainingSettings()
    drift: DriftSettings = DriftSettings()
    outcomes: OutcomeSettings = OutcomeSettings()

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,  # noqa: ARG003 - no .env file: one file is enough
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Order the sources, strongest first."""
        return (
            init_settings,
            env_settings,
            NestedSecretsSettingsSource(file_secret_settings),
            TomlConfigSettingsSource(settings_cls),
        )


def load(config_file: Path | None = None, flags: dict[str, Any] | None = None) -> Settings:
    """Merge every source into one checked tree.

    Args:
        config_file: a TOML file that must exist; by default ``purchase-stream.toml`` in the
            working directory, if there.
        flags: nested values that override every other source.

    Raises:
        StartupError: a file is missing or no TOML, a key is unknown, a value is wrong. The
            message names every culprit.
    """
    if config_file is not None and not config_file.is_file():
        raise StartupError(f"configuration file {config_file} does not exist")
    _refuse_unknown_variables()
    config = SettingsConfigDict(
        toml_file=config_file or DEFAULT_FILE, secrets_dir=os.environ.get(_SECRETS_DIR_VARIABLE)
    )
    configured: type[Settings] = type("Settings", (Settings,), {"model_config": config})
    try:
        return configured(**flags or {})
    except ValidationError as error:
        raise StartupError("; ".join(_explain(problem) for problem in error.errors())) from error
    except SettingsError as error:
        raise StartupError(f"a setting cannot be read: {error}: {error.__cause__}") from error
    except tomllib.TOMLDecodeError as error:
        raise StartupError(f"{config_file or DEFAULT_FILE}: {error}") from error


def masked(settings: Settings) -> dict[str, Any]:
    """Return the tree as JSON values with every secret replaced by ``***``."""
    tree: dict[str, Any] = settings.model_dump(mode="json")
    for section in (tree["kafka"], tree["schema_registry"]):
        section["client"] = {
            key: "***" if any(part in key.lower() for part in _SECRET_PARTS) else value
            for key, value in section["client"].items()
        }
    url = tree["schema_registry"]["url"]
    if url and "@" in url:
        tree["schema_registry"]["url"] = re.sub(r"//.*@", "//***@", url)
    return tree


def _explain(problem: ErrorDetails) -> str:
    """Say what is wrong with one setting, and for an unknown one which was probably meant."""
    path = [str(part) for part in problem["loc"]]
    dotted = ".".join(path)
    if problem["type"] != "extra_forbidden":
        return f"setting {dotted}: {problem['msg']}"
    known = _known_keys()
    near = difflib.get_close_matches(dotted, known, n=1, cutoff=0.0)
    return f"unknown setting {dotted}; did you mean {near[0]}?"


def _known_keys() -> list[str]:
    """Every setting's dotted name."""
    return [
        f"{section}.{key}"
        for section, field in Settings.model_fields.items()
        for key in getattr(field.annotation, "model_fields", ())
    ]


def _refuse_unknown_variables() -> None:
    """Refuse variables with our prefix that no section would ever read.

    pydantic-settings looks variables up by section, so a misspelt section would be ignored.
    """
    known = {f"{ENV_PREFIX}{key.replace('.', '__').upper()}" for key in _known_keys()}
    known |= {_SECRETS_DIR_VARIABLE, *(f"{ENV_PREFIX}{name.upper()}" for name in Settings.model_fields)}
    for name in os.environ:
        if name.upper().startswith(ENV_PREFIX) and name.upper() not in known:
            near = difflib.get_close_matches(name.upper(), sorted(known), n=1, cutoff=0.0)
            raise StartupError(f"unknown environment variable {name}; did you mean {near[0]}?")
