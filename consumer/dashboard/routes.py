"""``GET /`` and the files of the page."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from consumer.dashboard.rendering import render, static_text
from consumer.dashboard.view import page

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


def page_routes(answer: Callable[[], dict[str, Any]]) -> list[BaseRoute]:
    """Return the routes.

    Args:
        answer: returns what the monitor knows, see :func:`consumer.monitor.view.page_view`; called from
            the HTTP thread.
    """
    contents = {name: static_text(name) for name in _MEDIA_TYPES}

    async def answer_page(_: Request) -> Response:
        return Response(render("page.html", page(answer())), media_type="text/html", headers=_HEADERS)

    async def answer_file(request: Request) -> Response:
        name = request.path_params["name"]
        if name not in contents:
            return Response("no such file", 404, headers=_HEADERS)
        return Response(contents[name], media_type=_MEDIA_TYPES[name], headers=_HEADERS)

    return [Route("/", answer_page), Route("/static/{name}", answer_file)]
