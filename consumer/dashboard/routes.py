"""Build the dashboard's routes: the main page, the pages of single records, and the static files."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from consumer.dashboard.history import HOURS
from consumer.dashboard.records import RecordPages, find_predictions
from consumer.dashboard.rendering import render, static_text
from consumer.dashboard.view import page, series_cards
from consumer.errors import ServiceError
from consumer.monitor.audit.hashed_ids import id_hasher
from consumer.monitor.recent import RecentRejection
from consumer.settings import Settings

_MEDIA_TYPES: Final = {
    "page.css": "text/css; charset=utf-8",
    "page.js": "text/javascript; charset=utf-8",
    "icon.svg": "image/svg+xml",
}

_HEADERS: Final = {
    # Only our own files, and nothing inline: the browser never runs text that reaches the page.
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self';"
        " base-uri 'none'; form-action 'self'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-cache",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class DashboardData:
    """The sources of the dashboard. Each function is called for a request, in an HTTP thread.

    Attributes:
        page: Returns everything that the page shows, see :func:`consumer.monitor.view.page_view`.
        window: Returns a recent window of drift by its number, see
            :func:`consumer.monitor.view.window_answer`.
        find_rejections: Returns the latest dead letters with an event id or a student id, newest first.
    records: Finds single records in Kafka.
    history: Returns the counts of the last hours, see :class:`consumer.dashboard.history.TopicHistory`.
    """

    page: Callable[[], dict[str, Any]]
    window: Callable[[int], dict[str, Any] | None]
    find_rejections: Callable[[str], Sequence[RecentRejection]]
    records: RecordPages
    history: Callable[[int], dict[str, Any]]


def page_routes(settings: Settings, data: DashboardData) -> list[BaseRoute]:
    """Return the routes.

    Args:
        settings: The settings, which name the sources of the content.
        data: The sources of the content.
    """
    contents = {name: static_text(name) for name in _MEDIA_TYPES}
    hasher = id_hasher(settings.audit)

    async def answer_page(_: Request) -> Response:
        return _html("page.html", page(data.page(), settings))

    async def answer_window(request: Request) -> Response:
        number = request.path_params["number"]
        answer = data.window(number)
        if answer is None:
            problem = f"Only the latest windows are kept, and window {number} is not among them."
            return _html("problem.html", {"headline": "No such window", "problem": problem}, 404)
        return _html("window.html", {"trigger": answer, "cards": series_cards(answer)})

    # The functions below read files or ask Kafka. Starlette runs them in threads, because they are not async.

    def answer_search(request: Request) -> Response:
        text = request.query_params.get("q", "").strip()
        predictions = find_predictions(settings.audit.path, text, hasher) if text else []
        rejections = data.find_rejections(text) if text else []
        return _html("search.html", {"text": text, "predictions": predictions, "rejections": rejections})

    def answer_rejection(request: Request) -> Response:
        return _record("rejection.html", "dead letter", data.records.rejection, request)

    def answer_prediction(request: Request) -> Response:
        return _record("prediction.html", "prediction", data.records.prediction, request)

    async def answer_file(request: Request) -> Response:
        name = request.path_params["name"]
        if name not in contents:
            return Response("no such file", 404, headers=_HEADERS)
        return Response(contents[name], media_type=_MEDIA_TYPES[name], headers=_HEADERS)

    return [
        Route("/", answer_page),
        Route("/windows/{number:int}", answer_window),
        Route("/search", answer_search),
        Route("/history", lambda request: _history(data.history, request)),
        Route("/rejections/{partition:int}/{offset:int}", answer_rejection),
        Route("/predictions/{partition:int}/{offset:int}", answer_prediction),
        Route("/static/{name}", answer_file),
    ]


def _history(count: Callable[[int], dict[str, Any]], request: Request) -> Response:
    chosen = request.query_params.get("hours", "")
    hours = int(chosen) if chosen in map(str, HOURS) else HOURS[1]
    try:
        return _html("history.html", count(hours))
    except ServiceError as error:
        return _html("problem.html", {"headline": "The topics cannot be read", "problem": str(error)}, 503)


def _record(
    template: str, kind: str, find: Callable[[int, int], dict[str, Any] | None], request: Request
) -> Response:
    partition, offset = request.path_params["partition"], request.path_params["offset"]
    try:
        view = find(partition, offset)
    except ServiceError as error:
        return _html("problem.html", {"headline": f"The {kind} cannot be read", "problem": str(error)}, 503)
    if view is None:
        problem = f"Partition {partition} has no {kind} at offset {offset}: it has expired or never existed."
        return _html("problem.html", {"headline": f"No such {kind}", "problem": problem}, 404)
    return _html(template, view)


def _html(template: str, view: dict[str, Any], status: int = 200) -> Response:
    return Response(render(template, view), status, media_type="text/html", headers=_HEADERS)
