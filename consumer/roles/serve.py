"""The ``serve`` role."""

from __future__ import annotations

import threading
import time

from starlette.routing import Mount

from consumer.kafka import client_config
from consumer.kafka.admin import ClusterAdmin
from consumer.kafka.background_producer import PredictionProducer
from consumer.roles.shared import pipeline, role_registry, watch_model
from consumer.runtime.http import HttpServer, health_routes
from consumer.runtime.lifecycle import running, stopping_on_signals
from consumer.runtime.readiness import Readiness
from consumer.scorer.metrics import ScorerTelemetry
from consumer.scorer.processing import BatchProcessor
from consumer.serve.app import Predictor, create_app
from consumer.settings import Settings


def run_serve(settings: Settings) -> None:
    """Run the ``serve`` role until told to stop; without a model it answers 503 until there is one.

    Args:
        settings: everything that can be set.

    Raises:
        StartupError: the topic is missing, a port is in use.
        Unavailable: the broker did not answer at the start.
    """
    topic = settings.topics.predictions
    ClusterAdmin(client_config.common(settings.kafka)).require_topics([topic])
    conditions = Readiness(time.time)
    registry = role_registry(conditions)
    models = watch_model(settings, conditions, ScorerTelemetry(registry), required=False)
    producer = PredictionProducer(client_config.producer(settings.kafka), topic)
    api = create_app(Predictor(BatchProcessor(pipeline(settings, models)), producer))
    routes = [*health_routes(conditions, registry), Mount("/", app=api)]
    http = HttpServer(
        routes, settings.http.host, settings.http.serve_port, allowed_hosts=settings.http.allowed_hosts
    )
    stopped = threading.Event()
    with stopping_on_signals(stopped.set), running(producer, models, http):
        stopped.wait()
