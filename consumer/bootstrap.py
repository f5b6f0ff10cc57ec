"""Composition: settings → a role, ready to run. Only this module names concrete classes."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol

from confluent_kafka import Consumer, Producer
from prometheus_client import (
    CollectorRegistry,
    GCCollector,
    PlatformCollector,
    ProcessCollector,
    disable_created_metrics,
)

from consumer.conditions import Conditions, ConditionsCollector, Name
from consumer.core.country import CountryNumbers
from consumer.core.decode import Decoder
from consumer.core.pipeline import Pipeline
from consumer.decision import Decider
from consumer.errors import StartupError
from consumer.health import HttpServer, health_routes
from consumer.kafka import client_config
from consumer.kafka.at_least_once import AtLeastOnce
from consumer.kafka.departed import DepartedMembers
from consumer.kafka.event_consumer import EventConsumer
from consumer.kafka.prediction_producer import PredictionProducer
from consumer.kafka.session import Publisher, Session
from consumer.kafka.topics import describe_topics
from consumer.kafka.transaction import Transaction
from consumer.memory import settle
from consumer.model_watch import ModelWatch
from consumer.scorer import Scorer
from consumer.settings import Settings
from consumer.telemetry import ScorerTelemetry
from consumer.watchdog import COMMIT_MARGIN_S, Watchdog
from model_store.countries import country_code
from model_store.loading import LoadedModel
from model_store.store import ModelStore
from schemas.bundled import BundledSchemas
from schemas.framing import confluent_header, single_object_header
from schemas.repository import engagement_event, purchase_prediction

if TYPE_CHECKING:
    from consumer.kafka.schema_registry import RegistrySchemas

STARTUP_TIMEOUT_S = 10.0
"""How long the broker may take to answer at the start; afterwards an outage is waited out."""


def run_scorer(
    settings: Settings,
    worker: int = 0,
    *,
    producer_factory: Callable[[dict[str, Any]], Producer] = Producer,
    consumer_factory: Callable[[dict[str, Any]], Consumer] = Consumer,
) -> None:
    """Run the ``score`` role until told to stop.

    Args:
        settings: everything that can be set; its instance id is this scorer's own.
        worker: number among the scorers of this machine; its HTTP port is that much higher.
        producer_factory: makes the producer; fault tests pass one that dies at a chosen step.
        consumer_factory: makes the consumer, likewise.

    Raises:
        StartupError: no usable model, a missing topic, a port in use.
        Unavailable: the broker did not answer at the start.
        FatalError: the broker will not have us any more.
    """
    topics = describe_topics(
        client_config.common(settings.kafka),
        [settings.topics.events, settings.topics.predictions, settings.topics.dead_letters],
        STARTUP_TIMEOUT_S,
    )
    conditions = Conditions(time.time)
    registry = role_registry(conditions)
    telemetry, watchdog = ScorerTelemetry(registry), Watchdog()
    models = watch_model(settings, conditions, telemetry)
    exactly_once = settings.kafka.delivery == "exactly_once"
    commit_limit_s = client_config.transaction_timeout_s(settings.kafka) + COMMIT_MARGIN_S
    publisher_config = client_config.transactional_producer if exactly_once else client_config.producer

    def heartbeat() -> None:
        scorer.heartbeat()

    def nothing() -> None:
        pass

    before_start = DepartedMembers(settings.kafka).end_transactions if exactly_once else nothing
    publisher_class: Callable[..., Publisher] = Transaction if exactly_once else AtLeastOnce
    session = Session(
        EventConsumer(
            client_config.consumer(settings.kafka),
            settings.topics.events,
            conditions,
            consumer_factory=consumer_factory,
            on_rebalance=telemetry.rebalanced,
            before_start=before_start,
        ),
        publisher_class(
            publisher_config(settings.kafka),
            producer_factory=producer_factory,
            heartbeat=heartbeat,
            on_outage=lambda reason: conditions.set(Name.BROKER, reason),
        ),
        predictions_topic=settings.topics.predictions,
        dead_letters_topic=settings.topics.dead_letters,
        partition_counts={name: info.partitions for name, info in topics.items()},
        conditions=conditions,
    )
    scorer = Scorer(
        session=session,
        decider=Decider(
            pipeline(settings, models),
            settings.kafka.group_id,
            topics[settings.topics.dead_letters].max_message_bytes,
        ),
        telemetry=telemetry,
        conditions=conditions,
        limits=settings.batch,
        heartbeat=watchdog.beat,
        committing=partial(watchdog.limited, commit_limit_s),
    )
    routes = health_routes(conditions, registry, watchdog.stalled_for_s)
    port = settings.http.score_port + worker if settings.http.score_port else 0
    http = HttpServer(routes, settings.http.host, port)
    settle()
    with stopping_on_signals(scorer.stop), running(http, watchdog, models):
        scorer.run()


def run_monitor(settings: Settings) -> None:
    """Run the ``monitor`` role until told to stop.

    Args:
        settings: everything that can be set.

    Raises:
        StartupError: the topic is missing, the log is another's or incomplete, a port is in use.
        Unavailable: the broker did not answer at the start.
        FatalError: the Kafka client cannot go on.
    """
    from consumer.monitor.opening import open_all  # noqa: PLC0415 - a scorer starts sooner without it

    conditions = Conditions(time.time)
    registry = role_registry(conditions)
    opened = open_all(settings, writer_schemas(settings), conditions, registry)
    routes = [*health_routes(conditions, registry), *opened.routes]
    http = HttpServer(routes, settings.http.host, settings.http.monitor_port)
    settle()
    with stopping_on_signals(opened.monitor.stop), running(opened.watch, http):
        opened.run()


def run_api(settings: Settings) -> None:
    """Run the ``serve`` role until told to stop; without a model it answers 503 until there is one.

    Args:
        settings: everything that can be set.

    Raises:
        StartupError: the topic is missing, a port is in use.
        Unavailable: the broker did not answer at the start.
    """
    from starlette.routing import Mount  # noqa: PLC0415 - FastAPI is an extra that only this role needs

    from consumer.api import Predictor, create_app  # noqa: PLC0415

    topic = settings.topics.predictions
    describe_topics(client_config.common(settings.kafka), [topic], STARTUP_TIMEOUT_S)
    conditions = Conditions(time.time)
    registry = role_registry(conditions)
    models = watch_model(settings, conditions, ScorerTelemetry(registry), required=False)
    producer = PredictionProducer(client_config.producer(settings.kafka), topic)
    api = create_app(Predictor(pipeline(settings, models), producer))
    routes = [*health_routes(conditions, registry), Mount("/", app=api)]
    http = HttpServer(routes, settings.http.host, settings.http.serve_port)
    stopped = threading.Event()
    with stopping_on_signals(stopped.set), running(producer, models, http):
        stopped.wait()


def pipeline(settings: Settings, models: ModelWatch) -> Pipeline:
    """Return the decision as every role makes it.

    Raises:
        StartupError: the schema registry refuses our schema.
        Unavailable: it does not answer.
    """
    writers = writer_schemas(settings)
    if isinstance(writers, BundledSchemas):
        header = single_object_header(purchase_prediction().fingerprint)
    else:
        header = confluent_header(writers.register(settings.topics.predictions, purchase_prediction()))
    return Pipeline(
        decoder=Decoder(engagement_event(), writers),
        models=models,
        countries=CountryNumbers(country_code),
        header=header,
    )


def writer_schemas(settings: Settings) -> RegistrySchemas | BundledSchemas:
    """Return where writer schemas come from.

    Raises:
        StartupError: the registry's settings are wrong, or its client is not installed.
    """
    registry = settings.schema_registry
    if registry.url is None:
        return BundledSchemas()
    try:
        from consumer.kafka.schema_registry import RegistrySchemas  # noqa: PLC0415 - an extra
    except ImportError as error:
        raise StartupError("schema_registry.url needs: pip install 'purchase-stream[registry]'") from error
    return RegistrySchemas(registry.url, registry.client)


def watch_model(
    settings: Settings, conditions: Conditions, telemetry: ScorerTelemetry, *, required: bool = True
) -> ModelWatch:
    """Load the champion and return what watches its alias.

    Raises:
        StartupError: it is required, and there is none or it was refused.
    """

    def on_loaded(model: LoadedModel) -> None:
        telemetry.model_reloaded(loaded=True)
        telemetry.model_in_use(
            model.version, model.manifest.estimator_class, model.manifest.libraries["scikit-learn"]
        )

    models = ModelWatch(
        ModelStore(settings.model_store.path, settings.model_store.model),
        settings.model_store.poll_s,
        conditions,
        on_loaded=on_loaded,
        on_refused=lambda _: telemetry.model_reloaded(loaded=False),
    )
    if required:
        models.load()
    else:
        models.look()
    return models


def role_registry(conditions: Conditions) -> CollectorRegistry:
    """Return a registry with what every role shows: its conditions, memory, CPU, file descriptors."""
    disable_created_metrics()  # type: ignore[no-untyped-call]  # they double the series and no rule of ours reads them
    registry = CollectorRegistry()
    ProcessCollector(registry=registry)
    PlatformCollector(registry=registry)
    GCCollector(registry=registry)
    registry.register(ConditionsCollector(conditions))
    return registry


class Background(Protocol):
    """Something with a thread of its own."""

    def start(self) -> None:
        """Begin."""

    def stop(self) -> None:
        """End."""


@contextmanager
def running(*threads: Background) -> Iterator[None]:
    """Start what runs beside the main loop; stop it afterwards, the last first."""
    with ExitStack() as stack:
        for thread in threads:
            thread.start()
            stack.callback(thread.stop)
        yield


@contextmanager
def stopping_on_signals(stop: Callable[[], None]) -> Iterator[None]:
    """Call ``stop`` on SIGTERM and SIGINT; the second one ends the process as usual."""

    def handle(number: int, _frame: object) -> None:
        signal.signal(number, signal.SIG_DFL)
        stop()

    before = {number: signal.signal(number, handle) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
