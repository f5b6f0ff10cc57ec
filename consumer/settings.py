"""Load the typed settings.

Sources, weakest first: defaults, ``purchase-stream.toml``, files in the secrets folder, environment
variables (prefix ``PURCHASE_STREAM_``, ``__`` between levels), command-line flags. The variable
``PURCHASE_STREAM_SECRETS_DIR`` names the secrets folder; its files are named like ``kafka__client``.
An unknown key is an error that names the nearest known key.
"""

from __future__ import annotations

import difflib
import os
import re
import socket
import tomllib
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal, Self, TypeAlias

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator
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

    from model_store.store import ModelStore

ENV_PREFIX: Final = "PURCHASE_STREAM_"
DEFAULT_FILE: Final = Path("purchase-stream.toml")
SECRETS_DIR_VARIABLE: Final = "PURCHASE_STREAM_SECRETS_DIR"

_KUBERNETES_VARIABLE: Final = re.compile(
    r"PURCHASE_STREAM_(?:[A-Z0-9]+_)*?(?:SERVICE_HOST|SERVICE_PORT(?:_[A-Z0-9_]+)?"
    r"|PORT_\d+_(?:TCP|UDP|SCTP)(?:_(?:PROTO|PORT|ADDR))?)"
)
"""Matches variables that Kubernetes sets in every pod for a Service whose name starts with
``purchase-stream``."""
_KUBERNETES_PORT_VALUE: Final = re.compile(r"(?:tcp|udp|sctp)://")

_SHOWN_CLIENT_KEYS: Final = frozenset(
    """
    acks allow.auto.create.topics auto.offset.reset basic.auth.credentials.source broker.address.family
    builtin.features cache.capacity client.dns.lookup client.id client.rack compression.codec
    compression.level compression.type connections.max.idle.ms debug enable.auto.commit enable.idempotence
    enable.ssl.certificate.verification fetch.max.bytes fetch.min.bytes fetch.wait.max.ms
    group.instance.id group.protocol group.remote.assignor heartbeat.interval.ms isolation.level linger.ms
    log.connection.close log_level max.in.flight.requests.per.connection max.poll.interval.ms max.retries
    message.max.bytes message.timeout.ms metadata.max.age.ms partition.assignment.strategy
    queue.buffering.max.kbytes queue.buffering.max.messages queue.buffering.max.ms
    receive.message.max.bytes reconnect.backoff.max.ms reconnect.backoff.ms request.timeout.ms retries
    retries.max.wait.ms retries.wait.initial.ms retry.backoff.max.ms retry.backoff.ms
    sasl.kerberos.principal sasl.kerberos.service.name sasl.mechanism sasl.mechanisms
    sasl.oauthbearer.method sasl.username security.protocol session.timeout.ms
    socket.connection.setup.timeout.ms socket.keepalive.enable socket.max.fails socket.nagle.disable
    socket.receive.buffer.bytes socket.send.buffer.bytes socket.timeout.ms ssl.ca.location
    ssl.certificate.location ssl.cipher.suites ssl.curves.list ssl.endpoint.identification.algorithm
    ssl.key.location ssl.keystore.location statistics.interval.ms timeout
    topic.metadata.refresh.interval.ms transaction.timeout.ms
    """.split()  # noqa: SIM905 - a list would have a line per key
)
"""Client properties that hold no secret. The value of any other key is masked, so that a misspelt
``sasl.pasword`` is never shown."""


def _local_path(value: Any) -> Any:
    if "://" in str(value):
        raise ValueError("URLs are not supported; name a folder or file of this machine")
    return value


def _bootstrap_servers(value: Any) -> Any:
    text = str(value)
    if not text.strip():
        raise ValueError("is empty; write host:port, separated by commas")
    if "@" in text:
        raise ValueError("must not contain credentials; use kafka.client for sasl.username and sasl.password")
    return value


def _web_address(value: Any) -> Any:
    text = str(value)
    if not re.match(r"https?://[^/]", text):
        raise ValueError("write an address that starts with http:// or https://")
    if without_credentials(text) != text:
        raise ValueError("must not contain credentials; everybody who opens the dashboard would see them")
    return value


LocalPath = Annotated[Path, BeforeValidator(_local_path)]
WebAddress = Annotated[str, BeforeValidator(_web_address)]


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


ResumeFrom: TypeAlias = Literal["outputs", "beginning", "end", "committed"]
"""The operator's choices if a scorer cannot decide where to resume (an option, not a setting)."""


class KafkaSettings(_Section):
    """The connection to Kafka, and the identity of this process."""

    bootstrap_servers: Annotated[str, BeforeValidator(_bootstrap_servers)] = "localhost:9092"
    client: dict[str, Any] = Field(default_factory=dict)
    """Any librdkafka properties (SASL, TLS, …), passed through unchanged."""
    group_id: str = "purchase-stream"
    instance_id: str = Field(default_factory=socket.gethostname)
    """The stable name of this scorer. Its transactional id is ``group_id-instance_id``."""
    delivery: Literal["exactly_once", "at_least_once"] = "exactly_once"


class TopicSettings(_Section):
    """Topic names."""

    events: str = "engagement-events"
    predictions: str = "purchase-predictions"
    dead_letters: str = "engagement-events.dlq"
    outcomes: str = "purchase-outcomes"
    control: str = "purchase-stream-control"
    """Receives a record when the monitor's recommendation about retraining changes."""


class SchemaRegistrySettings(_Section):
    """Confluent Schema Registry. Without a URL, outputs use Avro's single-object encoding."""

    url: str | None = None
    client: dict[str, Any] = Field(default_factory=dict)


class SchemaSettings(_Section):
    """A folder of ``.avsc`` files with further schemas, besides those of this package."""

    path: LocalPath | None = None


class ModelStoreSettings(_Section):
    """The folder of model versions and the model to use."""

    path: LocalPath = Path("artifacts/models")
    model: str = "purchase"
    poll_s: float = Field(default=5.0, gt=0)
    """Seconds between checks for a new champion."""
    public_key_file: LocalPath | None = None
    """A file with an Ed25519 public key (PEM). Versions that its owner has not signed are refused."""

    def open(self) -> ModelStore:
        """Return the store."""
        from model_store.store import ModelStore  # noqa: PLC0415 - help and version do without NumPy

        return ModelStore(self.path, self.model, self.public_key_file)


class AuditSettings(_Section):
    """The JSONL audit log."""

    path: LocalPath = Path("artifacts/prediction_log.jsonl")
    rotate_bytes: int = Field(default=256 * 1024 * 1024, ge=1024)
    """The log is rotated when it reaches this size."""
    retention_days: float | None = Field(default=None, gt=0)
    """Remove closed segments whose last line is older than this. The log is then rotated daily as well."""
    retention_bytes: int | None = Field(default=None, ge=1024)
    """Remove the oldest closed segments while the log and its segments are larger than this."""
    hash_ids_key_file: LocalPath | None = None
    """A file with a secret key. The log then holds a keyed hash (HMAC-SHA-256) of every student id and
    event id instead of the id. docs/privacy.md lists what this rules out."""


class HttpSettings(_Section):
    """Bind address and ports of the HTTP endpoints."""

    host: str = "127.0.0.1"
    score_port: int = Field(default=9101, ge=0, le=65535)
    """The port of worker 0. Worker n uses this plus n."""
    monitor_port: int = Field(default=9100, ge=0, le=65535)
    serve_port: int = Field(default=8000, ge=0, le=65535)
    allowed_hosts: str = ""
    """Host names by which clients reach this machine, separated by commas. Requests to other names are
    refused, except to loopback names, IP addresses and ``host``. ``*`` allows any name."""


class ServeSettings(_Section):
    """Limits of the synchronous API."""

    max_records: int = Field(default=1000, ge=1, le=10_000)
    """The largest number of records in one request."""
    max_body_bytes: int = Field(default=1024 * 1024, ge=1024, le=64 * 1024 * 1024)
    """The largest request body."""


class LinkSettings(_Section):
    """Addresses that the dashboard links to."""

    prometheus: WebAddress | None = None
    grafana: WebAddress | None = None
    runbooks: WebAddress | None = None
    """The folder of the runbooks. The name of a runbook and ``.md`` are appended."""


class LogSettings(_Section):
    """Log lines on standard error."""

    level: Literal["debug", "info", "warning", "error"] = "info"
    format: Literal["auto", "console", "json"] = "auto"
    """``auto`` is ``console`` on a terminal and ``json`` elsewhere."""


class TracingSettings(_Section):
    """OpenTelemetry spans (docs/tracing.md)."""

    exporter: Literal["none", "otlp"] = "none"
    """``otlp`` sends a span per batch, according to the standard variables ``OTEL_EXPORTER_OTLP_…``."""


class BatchSettings(_Section):
    """Limits of one batch, which is one transaction. docs/performance.md explains the defaults."""

    max_events: int = Field(default=10_000, ge=1, le=100_000)
    max_wait_ms: int = Field(default=10, ge=0, le=10_000)
    """How long a batch waits for more events after its first one."""


class BreakerSettings(_Section):
    """What happens when the events of one writer schema are rejected (docs/schemas.md)."""

    action: Literal["off", "alert", "pause"] = "off"
    """``alert`` counts and logs it. ``pause`` holds the batch until its events are accepted."""
    rejected_ratio: float = Field(default=0.5, ge=0, lt=1)
    """The tolerated share of rejected events among the latest events of a schema."""
    minimum_events: int = Field(default=100, ge=1, le=10_000)
    """The share is taken over the latest batches that together have this many events of the schema."""


class DriftSettings(_Section):
    """When live data counts as drifted from the training data (docs/drift.md)."""

    window_students: int = Field(default=1000, ge=10, le=1_000_000)
    """The number of distinct students that fill a window. A full window is judged."""
    window_max_age_h: float = Field(default=24.0, gt=0)
    """Hours after which a window is closed even if it is not full."""
    minimum_students: int = Field(default=500, ge=2)
    """A window closed with fewer students than this is not judged."""
    windows_per_false_alarm: float = Field(default=1000.0, gt=1)
    """On stable traffic, at most one window in this many raises an alarm in any feature."""
    tolerated_psi: float = Field(default=0.01, ge=0)
    """A population stability index up to this is not drift. 0.01 corresponds to a shift of the mean by
    about 0.1 standard deviations. It also applies to the numeric inputs taken together."""
    tolerated_rate_shift_ratio: float = Field(default=0.01, ge=0, lt=1)
    """A shift of the predicted-positive rate, or of the share of zeros of an input, up to this is not
    drift. 0.01 is one percentage point."""
    tolerated_tail_ratio: float = Field(default=0.003, gt=0, lt=1)
    """A share of students above the training data's 99.9 % quantile up to this is not drift."""
    windows_to_confirm: int = Field(default=2, ge=1, le=10)
    """The number of windows in a row that must agree before the retraining recommendation changes."""
    cooldown_h: float = Field(default=24.0, ge=0)
    """Hours between two recommendations of retraining on the control topic."""

    @model_validator(mode="after")
    def _window_can_be_judged(self) -> Self:
        if self.minimum_students > self.window_students:
            raise ValueError("minimum_students must not exceed window_students")
        return self


class OutcomeSettings(_Section):
    """Live precision and recall, measured from the outcomes topic (docs/drift.md)."""

    max_predictions: int = Field(default=200_000, ge=1)
    """The number of predictions that can wait for an outcome. The oldest are dropped first."""
    maturity_days: float = Field(default=0.0, ge=0)
    """The age of a prediction at which its outcome counts. Set it if purchases are reported at once
    and missing purchases only days later. Otherwise early windows hold mostly purchases and precision
    looks too high."""
    window_outcomes: int = Field(default=2000, ge=100)
    """The number of matured outcomes that are judged together. Fewer are not judged."""
    tolerated_drop_ratio: float = Field(default=0.05, ge=0, lt=1)
    """The tolerated drop of precision or recall below its expected value. 0.05 is five percentage points."""


class ChallengerSettings(_Section):
    """The comparison of the champion with the challenger and its predecessor (docs/models.md)."""

    promote: bool = False
    """Promote the challenger as soon as the outcomes show that it is better."""
    rollback: bool = False
    """Roll a new champion back as soon as the outcomes show that its predecessor is better."""
    error_ratio: float = Field(default=0.01, ge=1e-6, le=0.2)
    """The probability that a version is ever called better although it is not."""
    budget_ratio: float = Field(default=0.25, gt=0, le=1)
    """The largest share of one core for scoring live students with the challenger. Students beyond it are
    skipped. Students with an outcome do not count against it."""


class TrainingSettings(_Section):
    """Parameters of training. They are recorded with the model."""

    weight_minutes_watched: float = 0.5
    weight_days_on_platform: float = 0.3
    weight_courses_started: float = 0.2
    """The weights of the engagement score."""


class Settings(BaseSettings):
    """All settings."""

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
    schemas: SchemaSettings = SchemaSettings()
    model_store: ModelStoreSettings = ModelStoreSettings()
    audit: AuditSettings = AuditSettings()
    http: HttpSettings = HttpSettings()
    serve: ServeSettings = ServeSettings()
    links: LinkSettings = LinkSettings()
    log: LogSettings = LogSettings()
    tracing: TracingSettings = TracingSettings()
    batch: BatchSettings = BatchSettings()
    breaker: BreakerSettings = BreakerSettings()
    training: TrainingSettings = TrainingSettings()
    drift: DriftSettings = DriftSettings()
    outcomes: OutcomeSettings = OutcomeSettings()
    challenger: ChallengerSettings = ChallengerSettings()

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,  # noqa: ARG003 - one settings file is enough
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Return the sources, strongest first."""
        return (
            init_settings,
            env_settings,
            NestedSecretsSettingsSource(file_secret_settings),
            TomlConfigSettingsSource(settings_cls),
        )


def load(config_file: Path | None = None, flags: dict[str, Any] | None = None) -> Settings:
    """Merge all sources and validate the result.

    Args:
        config_file: A TOML file that must exist. The default is ``purchase-stream.toml`` in the working
            directory, if it exists.
        flags: Nested values that override all other sources.

    Raises:
        StartupError: A file is missing or malformed, a key is unknown or a value is wrong. The message
            names every problem but no value, because a value may be secret.
    """
    if config_file is not None and not config_file.is_file():
        raise StartupError(f"configuration file {config_file} does not exist")
    secrets_dir = os.environ.get(SECRETS_DIR_VARIABLE)
    if secrets_dir is not None and not Path(secrets_dir).is_dir():
        raise StartupError(f"{SECRETS_DIR_VARIABLE} names {secrets_dir!r}, which is not an existing folder")
    secret_files = _secret_files(secrets_dir)
    _reject_unknown_names(secret_files)
    config = SettingsConfigDict(toml_file=config_file or DEFAULT_FILE, secrets_dir=secrets_dir)
    configured: type[Settings] = type("Settings", (Settings,), {"model_config": config})
    try:
        return configured(**flags or {})
    except ValidationError as error:
        problems = (_explain(problem, secret_files) for problem in error.errors(include_input=False))
        raise StartupError("; ".join(problems)) from error
    except SettingsError as error:
        raise StartupError(_explain_unparsable(error, secret_files)) from error
    except tomllib.TOMLDecodeError as error:
        raise StartupError(f"{config_file or DEFAULT_FILE}: {error}") from error


def masked(settings: Settings) -> dict[str, Any]:
    """Return the settings as JSON values, with every possible secret replaced by ``***``."""
    tree: dict[str, Any] = _without_credentials(settings.model_dump(mode="json"))
    for section in (tree["kafka"], tree["schema_registry"]):
        section["client"] = {
            key: value if key.lower() in _SHOWN_CLIENT_KEYS or isinstance(value, bool) else "***"
            for key, value in section["client"].items()
        }
    return tree


def without_credentials(text: str) -> str:
    """Mask the user and password of a URL.

    >>> without_credentials("https://user:password@registry:8081")
    'https://***@registry:8081'
    """
    return re.sub(r"//.*@", "//***@", text)


def _without_credentials(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_credentials(item) for key, item in value.items()}
    return without_credentials(value) if isinstance(value, str) else value


def _explain(problem: ErrorDetails, secret_files: dict[str, Path]) -> str:
    """Describe the problem of one setting, with the nearest known key for an unknown one."""
    path = [str(part) for part in problem["loc"]]
    dotted = ".".join(path)
    if problem["type"] == "extra_forbidden":
        candidates = list(Settings.model_fields) if len(path) == 1 else _known_keys()
        near = difflib.get_close_matches(dotted, candidates, n=1, cutoff=0.0)
        return f"unknown setting {dotted}; did you mean {near[0]}?"
    name = "__".join(path)
    given = name.upper() not in _environment() and name in secret_files
    origin = f" (in {secret_files[name]})" if given else ""
    return f"setting {dotted}{origin}: {problem['msg'].removeprefix('Value error, ')}"


def _explain_unparsable(error: SettingsError, secret_files: dict[str, Path]) -> str:
    """Name the variable or file whose JSON cannot be parsed. The error names only its section."""
    section = re.search(r'field "(\w+)"', str(error))
    names = (section[1], f"{section[1]}__client") if section else ()
    origins = [str(secret_files[name]) for name in names if name in secret_files]
    origins += [f"{ENV_PREFIX}{name.upper()}" for name in names if name.upper() in _environment()]
    setting = names[-1].replace("__", ".") if names else "a setting"
    return f"setting {setting} ({' or '.join(origins)}): not JSON: {error.__cause__}"


def _known_keys() -> list[str]:
    """Return the dotted name of every setting."""
    return [
        f"{section}.{key}"
        for section, field in Settings.model_fields.items()
        for key in getattr(field.annotation, "model_fields", ())
    ]


def _secret_files(folder: str | None) -> dict[str, Path]:
    """Return the visible files of the secrets folder by lower-case name."""
    if folder is None:
        return {}
    files = (file for file in sorted(Path(folder).iterdir()) if file.is_file())
    return {file.name.lower(): file for file in files if not file.name.startswith(".")}


def _environment() -> set[str]:
    """Return the environment's variables with our prefix, upper case and without the prefix."""
    names = {name.upper() for name in os.environ}
    return {name.removeprefix(ENV_PREFIX) for name in names if name.startswith(ENV_PREFIX)}


def _reject_unknown_names(secret_files: dict[str, Path]) -> None:
    """Reject variables and secret files whose section does not exist, which pydantic-settings ignores.

    Raises:
        StartupError: A name is unknown.
    """
    known = {key.replace(".", "__").upper() for key in _known_keys()}
    known |= {name.upper() for name in Settings.model_fields}
    for file in secret_files.values():
        if file.name.upper() not in known:
            near = difflib.get_close_matches(file.name.upper(), sorted(known), n=1, cutoff=0.0)
            raise StartupError(f"unknown secret file {file}; did you mean {near[0].lower()}?")
    variables = {f"{ENV_PREFIX}{name}" for name in known} | {SECRETS_DIR_VARIABLE}
    for name, value in os.environ.items():
        upper = name.upper()
        if not upper.startswith(ENV_PREFIX) or upper in variables or _is_set_by_kubernetes(upper, value):
            continue
        near = difflib.get_close_matches(upper, sorted(variables), n=1, cutoff=0.0)
        raise StartupError(f"unknown environment variable {name}; did you mean {near[0]}?")


def _is_set_by_kubernetes(name: str, value: str) -> bool:
    if name.endswith("_PORT") and _KUBERNETES_PORT_VALUE.match(value):
        return "__" not in name
    return _KUBERNETES_VARIABLE.fullmatch(name) is not None
