"""Build the parts that several roles share."""

from __future__ import annotations

import os
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

from prometheus_client import (
    CollectorRegistry,
    Gauge,
    GCCollector,
    PlatformCollector,
    ProcessCollector,
    disable_created_metrics,
)

from consumer.kafka.schema_registry import writer_schemas
from consumer.pipeline.decode import Decoder
from consumer.pipeline.pipeline import Pipeline
from consumer.pipeline.score import CountryNumbers
from consumer.runtime.readiness import Readiness, ReadinessCollector
from consumer.runtime.secret_files import SecretFiles
from consumer.scorer.metrics import ScorerTelemetry
from consumer.scorer.model_reloader import ModelReloader
from consumer.settings import SECRETS_DIR_VARIABLE, Settings
from model_store.countries import country_code
from model_store.loading import LoadedModel
from schemas.repository import (
    BundledSchemas,
    confluent_header,
    engagement_event,
    purchase_prediction,
    single_object_header,
)


def pipeline(settings: Settings, models: ModelReloader) -> Pipeline:
    """Return the pipeline, which is the same for every role.

    Raises:
        StartupError: The schema registry refuses our schema.
        Unavailable: The schema registry does not answer.
    """
    writers = writer_schemas(settings)
    if isinstance(writers, BundledSchemas):
        header = single_object_header(purchase_prediction().fingerprint)
    else:
        header = confluent_header(writers.register(settings.topics.predictions, purchase_prediction()))
    return Pipeline(
        decoder=Decoder(engagement_event(), writers, keep_nulls=True),
        models=models,
        countries=CountryNumbers(country_code),
        header=header,
    )


def watch_model(
    settings: Settings, readiness: Readiness, telemetry: ScorerTelemetry, *, required: bool = True
) -> ModelReloader:
    """Load the champion, and return the reloader that watches its alias.

    Raises:
        StartupError: A model is required, and there is none or it was refused.
    """

    def on_loaded(model: LoadedModel) -> None:
        telemetry.model_reloaded(loaded=True)
        telemetry.model_in_use(
            model.version, model.manifest.estimator_class, model.manifest.libraries["scikit-learn"]
        )

    models = ModelReloader(
        settings.model_store.open(),
        settings.model_store.poll_s,
        readiness,
        on_loaded=on_loaded,
        on_refused=lambda _: telemetry.model_reloaded(loaded=False),
    )
    if required:
        models.load()
    else:
        models.check()
    return models


def role_registry(readiness: Readiness) -> CollectorRegistry:
    """Return a registry with the metrics of every role: version, conditions, process metrics."""
    disable_created_metrics()  # type: ignore[no-untyped-call]  # they double the series, and no rule reads them
    registry = CollectorRegistry()
    ProcessCollector(registry=registry)
    PlatformCollector(registry=registry)
    GCCollector(registry=registry)
    Gauge("purchase_stream_build_info", "1 for the running version.", ["version"], registry=registry).labels(
        version("purchase-stream")
    ).set(1)
    registry.register(ReadinessCollector(readiness))
    return registry


def secret_files(settings: Settings, stop: Callable[[], None]) -> SecretFiles:
    """Return the watcher that stops the role when a secret or a file of the Kafka client changes."""
    folder = os.environ.get(SECRETS_DIR_VARIABLE)
    paths = [path for path in Path(folder).iterdir() if path.is_file()] if folder else []
    paths += [Path(str(value)) for key, value in settings.kafka.client.items() if key.endswith(".location")]
    return SecretFiles(paths, stop)
