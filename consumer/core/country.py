"""Countries as they arrive in bytes → the model's number for them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

MAX_REMEMBERED: Final = 4096
"""Spellings that are looked up once only. All of ISO 3166 in two cases fits; a flood of made-up
countries does not grow the table, it is merely looked up each time."""


class CountryNumbers(dict[bytes, int]):
    """Maps a country as received (UTF-8) to its number; looks an unseen spelling up.

    Args:
        number_of: from a text to its number.
    """

    def __init__(self, number_of: Callable[[str], int]) -> None:
        super().__init__()
        self._number_of = number_of

    def __missing__(self, country: bytes) -> int:
        number = self._number_of(country.decode())
        if len(self) < MAX_REMEMBERED:
            self[country] = number
        return number
