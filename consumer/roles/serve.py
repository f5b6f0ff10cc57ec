"""Build and run the ``serve`` role."""

from __future__ import annotations

import sys
import threading
import time

from starlette.middleware import Middleware

from consumer.kafka import client_config
from consumer.kafka.admin import ClusterAdmin
from consumer.kafka.background_producer import LeaderProbe, PredictionProducer
from consumer.roles.shared import pipeline, role_registry, secret_files, watch_model
from consumer.runtime.http import HttpServer, health_routes
from consumer.runtime.lifecycle import running, stopping_on_signals
from consumer.runtime.memory import tune_gc_and_malloc
from consumer.runtime.readiness import Readiness
from consumer.scorer.metrics import ScorerTelemetry
from consumer.scorer.processing import BatchProcessor
from consumer.serve.app import Health, api_routes
from consumer.serve.metrics import HttpTelemetry
from consumer.serve.predictor import Predictor
from consumer.settings import Settings
from model_store.reasons import explain

_STOP_TIMEOUT_S = 6
"""Longer than any request may take, so that each one in flight is answered."""

_SWITCH_INTERVAL_S = 0.0005
"""How long a thread may keep the interpreter's lock while another waits for it. A small request needs the
lock in three threads, and would wait Python's default of 5 ms in each beside large requests."""


def run_serve(settings: Settings) -> None:
    """Run the ``serve`` role until it is stopped. Without a model it answers 503 until there is one.

    Args:
        settings: The settings.

    Raises:
        StartupError: The topic does not exist or the port is in use.
        Unavailable: The broker did not answer at the start.
    """
    client, topic = client_config.common(settings.kafka), settings.topics.predictions
    partitions = range(ClusterAdmin(client).describe_topic(topic).partitions)
    readiness = Readiness(time.time)
    registry = role_registry(readiness)
    models = watch_model(settings, readiness, ScorerTelemetry(registry), required=False)
    producer = PredictionProducer(
        client_config.producer(settings.kafka),
        topic,
        readiness,
        LeaderProbe(client, topic, partitions).ask,
    )
    telemetry = HttpTelemetry(registry)
    predictor = Predictor(BatchProcessor(pipeline(settings, models)), producer)
    health = Health(readiness.active, models)
    api = api_routes(
        predictor,
        telemetry,
        settings.serve,
        health.as_json,
        lambda version, student: explain(models.version(version), student),
    )
    http = HttpServer(
        [*health_routes(readiness, registry), *api],
        settings.http.host,
        settings.http.serve_port,
        allowed_hosts=settings.http.allowed_hosts,
        middleware=[Middleware(telemetry.measured)],
        stop_timeout_s=_STOP_TIMEOUT_S,
    )
    tune_gc_and_malloc()
    sys.setswitchinterval(_SWITCH_INTERVAL_S)
    stopped = threading.Event()
    secrets = secret_files(settings, stopped.set)
    with stopping_on_signals(stopped.set), running(producer, models, http, secrets):
        stopped.wait()
    secrets.raise_if_changed()
