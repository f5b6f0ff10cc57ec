"""Tells the control topic when the recommendation changes: rarely, and not at all while nothing does."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Final, Protocol

import orjson
import structlog

from consumer.monitor.trigger import RETRAIN, Recommendation

log = structlog.get_logger(__name__)

RETRY_S: Final = 60.0
"""Between tries while the topic is missing or the broker away."""

_S_PER_H: Final = 3600


class ControlTopic(Protocol):
    """Where announcements go."""

    def send(self, key: bytes, value: bytes, on_delivered: Callable[[str | None], None]) -> None:
        """Send one; ``on_delivered`` is later called, from :meth:`poll`, with what went wrong or None."""

    def poll(self) -> None:
        """Serve what has been delivered, without waiting."""


@dataclass(frozen=True, slots=True)
class Announced:
    """What the topic was last told; kept over a restart.

    Attributes:
        action: the recommended action; empty before the first.
        at_s: when, seconds since the epoch.
        retrain_version: the model version that retraining was last recommended for.
        retrain_at_s: when that was.
    """

    action: str = ""
    at_s: float = 0.0
    retrain_version: str | None = None
    retrain_at_s: float = 0.0


class Announcer:
    """Announces changes of the recommended action.

    Args:
        topic: the control topic.
        model: the model's name, the key of every announcement.
        cooldown_h: after retraining was recommended, it is not recommended again for so many hours,
            unless another model version has been put on meanwhile.
        now_s: the wall clock, seconds since the epoch.
    """

    def __init__(
        self, topic: ControlTopic, model: str, cooldown_h: float, now_s: Callable[[], float] = time.time
    ) -> None:
        self._topic = topic
        self._model = model
        self._cooldown_s = cooldown_h * _S_PER_H
        self._now_s = now_s
        self._under_way = False
        self._not_before_s = 0.0
        self.announced = Announced()

    def cooldown_until_s(self, version: str | None) -> float | None:
        """Return until when retraining is not announced again, seconds since the epoch, or ``None``."""
        until_s = self.announced.retrain_at_s + self._cooldown_s
        same_version = self.announced.retrain_version == version and version is not None
        return until_s if same_version and until_s > self._now_s() else None

    def consider(
        self, recommendation: Recommendation, version: str | None, evidence: Callable[[], Mapping[str, Any]]
    ) -> None:
        """Announce a recommendation if it is another action than the last one announced.

        Args:
            recommendation: what is recommended now.
            version: the model version that it is about.
            evidence: returns what stands in the announcement beside the time and the action before.
        """
        self._topic.poll()
        now_s, action = self._now_s(), recommendation.action
        if self._under_way or action == self.announced.action or now_s < self._not_before_s:
            return
        if action == RETRAIN and self.cooldown_until_s(version) is not None:
            return
        announced = Announced(action, now_s, self.announced.retrain_version, self.announced.retrain_at_s)
        if action == RETRAIN:
            announced = replace(announced, retrain_version=version, retrain_at_s=now_s)
        value = {
            "model": self._model,
            "announced_at_s": now_s,
            "previous_action": self.announced.action or None,
            **evidence(),
        }
        self._under_way = True

        def on_delivered(problem: str | None) -> None:
            self._under_way = False
            if problem is None:
                self.announced = announced
                return
            self._not_before_s = self._now_s() + RETRY_S
            log.warning("recommendation not announced", action=action, reason=problem, retry_s=RETRY_S)

        self._topic.send(self._model.encode(), orjson.dumps(value), on_delivered)
