"""``GET /`` and the few files beside it."""

from __future__ import annotations

from collections.abc import Callable
from importlib.resources import files
from typing import Final

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from consumer.dashboard.document import page
from consumer.dashboard.facts import PageView

_MEDIA_TYPES: Final = {
    "page.css": "text/css; charset=utf-8",
    "page.js": "text/javascript; charset=utf-8",
    "icon.svg": "image/svg+xml",
}

_HEADERS: Final = {
    # Nothing but our own files, nothing inline: whatever text gets onto the page, no browser runs it.
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self';"
        " base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-cache",
}


def static_text(name: str) -> str:
    """Return one of the files beside the page."""
    return files("consumer.dashboard").joinpath("static", name).read_text("utf-8")


def page_routes(facts: Callable[[], PageView]) -> list[BaseRoute]:
    """Return the routes.

    Args:
        facts: returns what is known now; called from the HTTP thread.
    """
    contents = {name: static_text(name) for name in _MEDIA_TYPES}

    async def answer_page(_: Request) -> Response:
        return Response(page(facts()), media_type="text/html", headers=_HEADERS)

    async def answer_file(request: Request) -> Response:
        name = request.path_params["name"]
        if name not in contents:
            return Response("no such file", 404, headers=_HEADERS)
        return Response(contents[name], media_type=_MEDIA_TYPES[name], headers=_HEADERS)

    return [Route("/", answer_page), Route("/static/{name}", answer_file)]
