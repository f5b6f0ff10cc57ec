"""Check everything that the roles need, and advise how to correct what is wrong."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Final

from consumer.errors import ServiceError
from consumer.ops.doctor import broker, local
from consumer.ops.doctor.check import Check, fail, guarded
from consumer.settings import Settings

_EXAMINATIONS: Final = {
    "settings": local.examine_settings,
    "model": local.examine_model,
    "schema registry": local.examine_registry,
    "broker": broker.examine_broker,
    "audit log": local.examine_audit_log,
    "ports": local.examine_ports,
}


def examine(load_settings: Callable[[], Settings]) -> Iterator[Check]:
    """Yield the results of all checks, each as soon as it is known; never raise.

    Args:
        load_settings: Loads the settings. If this fails, nothing else is checked.
    """
    try:
        settings = load_settings()
    except ServiceError as error:
        yield fail("settings", str(error), "nothing else was checked", error.exit_code)
        return
    for name, examination in _EXAMINATIONS.items():
        yield from guarded(name, examination(settings))
