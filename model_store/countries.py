"""Convert country codes and names to country numbers.

A country's number is ``26 * a + b`` for its ISO 3166-1 alpha-2 letters (A = 0 … Z = 25). It does not
change when the standard adds or removes a country. The names come from pycountry.
"""

from __future__ import annotations

import re
import unicodedata
from functools import cache, lru_cache
from typing import Final

import pycountry

from model_store.inputs import COUNTRY_MAX_CHARACTERS

UNKNOWN_COUNTRY: Final = -1
"""The number of a text that is not a known country."""
COUNTRY_CODES: Final = 26 * 26
"""The number of country numbers, which are 0 … ``COUNTRY_CODES - 1``."""

ALPHA2: Final = re.compile("[A-Z]{2}")

_REMEMBERED_TEXTS: Final = 4096
"""The cache size: far above the number of real spellings, and a limit in a flood of garbage."""

# Names in everyday use that neither ISO 3166 nor pycountry lists.
_EVERYDAY_NAMES: Final = {
    "uk": "GB",
    "great britain": "GB",
    "britain": "GB",
    "england": "GB",
    "scotland": "GB",
    "wales": "GB",
    "northern ireland": "GB",
    "america": "US",
    "russia": "RU",
    "turkey": "TR",
    "ivory coast": "CI",
    "cape verde": "CV",
    "swaziland": "SZ",
    "macedonia": "MK",
    "burma": "MM",
    "east timor": "TL",
    "vatican": "VA",
    "vatican city": "VA",
    "brunei": "BN",
    "macau": "MO",
    "hong kong sar": "HK",
    "holland": "NL",
    "uae": "AE",
    "drc": "CD",
    "dr congo": "CD",
    "democratic republic of congo": "CD",
    "congo kinshasa": "CD",
    "republic of congo": "CG",
    "congo brazzaville": "CG",
    "st lucia": "LC",
    "st kitts and nevis": "KN",
    "st vincent and the grenadines": "VC",
    # Not in ISO 3166, but the code the EU and most platforms use.
    "kosovo": "XK",
    "xk": "XK",
    "xkx": "XK",
}


def country_code(text: str) -> int:
    """Return the number of the country in a text, or :data:`UNKNOWN_COUNTRY`.

    Accepts alpha-2 and alpha-3 codes and names (short, official, common, everyday) in any letter
    case, with or without accents and punctuation:

    >>> country_alpha2(country_code("na")), country_alpha2(country_code("Côte d'Ivoire"))
    ('NA', 'CI')
    >>> country_code("Atlantis") == UNKNOWN_COUNTRY
    True
    """
    if len(text) > COUNTRY_MAX_CHARACTERS:
        return UNKNOWN_COUNTRY
    return _remembered(text)


def alpha2_number(alpha_2: str) -> int:
    """Return the country number of two capital letters, 26·a + b."""
    return 26 * (ord(alpha_2[0]) - ord("A")) + ord(alpha_2[1]) - ord("A")


def country_alpha2(code: int) -> str | None:
    """Return the alpha-2 code for a country number, or ``None`` if the number is out of range."""
    if not 0 <= code < COUNTRY_CODES:
        return None
    first, second = divmod(code, 26)
    return chr(ord("A") + first) + chr(ord("A") + second)


def iso_country_numbers() -> list[int]:
    """Return the numbers of all countries in ISO 3166, ascending."""
    return sorted(alpha2_number(country.alpha_2) for country in pycountry.countries)


@lru_cache(maxsize=_REMEMBERED_TEXTS)
def _remembered(text: str) -> int:
    """Look up a text. With the cache, this takes one lookup per distinct spelling."""
    return _spellings().get(_normalised(text), UNKNOWN_COUNTRY)


@cache
def _spellings() -> dict[str, int]:
    """Build the table of normalised spellings; in a conflict the more official spelling wins."""
    table: dict[str, int] = {}
    shortened: dict[str, set[int]] = {}
    countries = list(pycountry.countries)
    for attribute in ("alpha_2", "alpha_3", "name", "common_name", "official_name"):
        for country in countries:
            spelling = getattr(country, attribute, None)
            if spelling:
                table.setdefault(_normalised(spelling), alpha2_number(country.alpha_2))
    for country in countries:
        # "Bolivia, Plurinational State of" and "Falkland Islands (Malvinas)" are known by their
        # first part, unless two countries share it (Korea, Virgin Islands). A comma inverts the
        # name ("Congo, The Democratic Republic of the").
        first, *rest = re.split(r"[,(]", country.name, maxsplit=1)
        number = alpha2_number(country.alpha_2)
        shortened.setdefault(_normalised(first), set()).add(number)
        shortened.setdefault(_normalised(" ".join([*rest, first])), set()).add(number)
    for spelling, numbers in shortened.items():
        if len(numbers) == 1:
            table.setdefault(spelling, *numbers)
    for spelling, alpha_2 in _EVERYDAY_NAMES.items():
        table.setdefault(spelling, alpha2_number(alpha_2))
    return table


def _normalised(text: str) -> str:
    """Remove case, accents, punctuation, extra spaces and a leading "the".

    >>> _normalised("The CÔTE-d'Or")
    'cote dor'
    """
    decomposed = unicodedata.normalize("NFKD", text.casefold())
    letters = "".join(c for c in decomposed if not unicodedata.combining(c)).replace("&", " and ")
    words = re.sub(r"[^\w\s]", " ", re.sub(r"[.'\u2019`]", "", letters)).split()
    return " ".join(words[1:] if words[:1] == ["the"] else words)
