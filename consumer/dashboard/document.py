"""The page as a whole. Pure."""

from __future__ import annotations

from consumer.dashboard.drift_section import drift_section, model_section
from consumer.dashboard.facts import PageView
from consumer.dashboard.flow_section import flow_section, last_section
from consumer.dashboard.health_section import health_section, short_status
from consumer.dashboard.markup import document, moment, tag

_ENDPOINTS = ("/monitoring/drift", "/monitoring/retraining_trigger", "/health/ready", "/metrics")


def page(facts: PageView) -> bytes:
    """Return the page; whatever has ``data-live`` is what the script puts anew."""
    return document(
        tag(
            "html",
            tag(
                "head",
                tag("meta", charset="utf-8"),
                tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
                tag("meta", name="color-scheme", content="light dark"),
                tag("title", f"{short_status(facts)} · Purchase Stream"),
                tag("link", rel="icon", href="/static/icon.svg", type="image/svg+xml"),
                tag("link", rel="stylesheet", href="/static/page.css"),
                tag("script", src="/static/page.js", defer=True),
            ),
            tag(
                "body",
                tag("a", "Skip to the status", href="#main", class_="skip"),
                tag(
                    "header",
                    tag("h1", "Purchase Stream"),
                    tag("p", "As of ", moment(facts.at_s), id="as-of", data_live=True),
                    tag(
                        "button",
                        "Pause updates",
                        id="pause",
                        type="button",
                        aria_pressed="false",
                        hidden=True,
                    ),
                    tag("p", id="connection", role="status"),
                ),
                tag(
                    "main",
                    health_section(facts),
                    flow_section(facts),
                    drift_section(facts),
                    model_section(facts),
                    last_section(facts),
                    id="main",
                    tabindex=-1,
                ),
                tag(
                    "footer",
                    tag(
                        "nav",
                        tag("ul", *[tag("li", tag("a", path, href=path)) for path in _ENDPOINTS]),
                        aria_label="The same for machines",
                    ),
                ),
            ),
            lang="en",
        )
    )
