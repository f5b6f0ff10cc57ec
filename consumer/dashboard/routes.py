"""The dashboard's routes: the page, the pages of single records, and their files."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from consumer.dashboard.records import RecordPages
from consumer.dashboard.rendering import render, static_text
from consumer.dashboard.view import page
from consumer.errors import ServiceError
from consumer.settings import Settings

_MEDIA_TYPES: Final = {
    "page.css": "text/css; charset=utf-8",
    "page.js": "text/javascript; charset=utf-8",
    "icon.svg": "image/svg+xml",
}

_HEADERS: Final = {
    # Only our own files, and nothing inline: a browser runs no text that reaches the page.
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self';"
        " base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-cache",
}


def page_routes(
    settings: Settings, answer: Callable[[], dict[str, Any]], records: RecordPages
) -> list[BaseRoute]:
    """Return the routes.

    Args:
        settings: where the page's content comes from.
        answer: returns what the monitor knows, see :func:`consumer.monitor.view.page_view`; called from
            the HTTP thread.
        records: finds single records; called from a thread of its own, because Kafka is asked.
    """
    contents = {name: static_text(name) for name in _MEDIA_TYPES}

    async def answer_page(_: Request) -> Response:
        return _html("page.html", page(answer(), settings))

    def answer_rejection(request: Request) -> Response:
        return _record("rejection.html", "dead letter", records.rejection, request)

    def answer_prediction(request: Request) -> Response:
        return _record("prediction.html", "prediction", records.prediction, request)

    async def answer_file(request: Request) -> Response:
        name = request.path_params["name"]
        if name not in contents:
            return Response("no such file", 404, headers=_HEADERS)
        return Response(contents[name], media_type=_MEDIA_TYPES[name], headers=_HEADERS)

    return [
        Route("/", answer_page),
        Route("/rejections/{partition:int}/{offset:int}", answer_rejection),
        Route("/predictions/{partition:int}/{offset:int}", answer_prediction),
        Route("/static/{name}", answer_file),
    ]


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
