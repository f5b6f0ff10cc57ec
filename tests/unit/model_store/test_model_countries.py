"""One number per country, whatever people write for it."""

from __future__ import annotations

import pycountry
import pytest
from hypothesis import given
from hypothesis import strategies as st

from model_store import countries
from model_store.countries import UNKNOWN_COUNTRY, country_alpha2, country_code


@pytest.mark.parametrize(
    ("text", "alpha_2"),
    [
        ("NA", "NA"),
        ("na", "NA"),
        ("United States", "US"),
        ("united STATES of america", "US"),
        ("usa", "US"),
        ("U.S.A.", "US"),
        (" us ", "US"),
        ("UK", "GB"),
        ("Great Britain", "GB"),
        ("Cote d'Ivoire", "CI"),
        ("CÔTE D\u2019IVOIRE", "CI"),
        ("Ivory Coast", "CI"),
        ("South Korea", "KR"),
        ("Korea, Republic of", "KR"),
        ("Russia", "RU"),
        ("Turkey", "TR"),
        ("Türkiye", "TR"),
        ("Vietnam", "VN"),
        ("Bolivia", "BO"),
        ("Palestine", "PS"),
        ("Trinidad & Tobago", "TT"),
        ("the Netherlands", "NL"),
        ("Democratic Republic of the Congo", "CD"),
        ("Republic of the Congo", "CG"),
        ("Sao Tome and Principe", "ST"),
        ("Kosovo", "XK"),
    ],
)
def test_text_names_the_country(text: str, alpha_2: str) -> None:
    """Codes, names and everyday names are understood in any case, accented or not."""
    assert country_alpha2(country_code(text)) == alpha_2


@pytest.mark.parametrize("text", ["", "??", "Atlantis", "Korea", "Virgin Islands", "ZZ", "x" * 10_000])
def test_other_text_is_unknown(text: str) -> None:
    """A text that names no country, or more than one, is unknown."""
    assert country_code(text) == UNKNOWN_COUNTRY


def test_every_iso_spelling_is_its_own_country() -> None:
    """No name in ISO 3166 is taken for another country's."""
    for country in pycountry.countries:
        expected = 26 * (ord(country.alpha_2[0]) - 65) + ord(country.alpha_2[1]) - 65
        for attribute in ("alpha_2", "alpha_3", "name", "official_name", "common_name"):
            text = getattr(country, attribute, country.alpha_2)
            assert country_code(text) == expected, text
            assert country_code(text.upper()) == country_code(text.lower()) == expected, text


def test_everyday_names_are_understood() -> None:
    """Every everyday name is understood as the country that the table gives."""
    for text, alpha_2 in countries._EVERYDAY_NAMES.items():
        assert country_alpha2(country_code(text)) == alpha_2, text


@given(st.text(max_size=100))
def test_any_text_gets_a_number_or_unknown(text: str) -> None:
    """No text raises, and every known number has two letters."""
    code = country_code(text)
    assert code == UNKNOWN_COUNTRY or 0 <= code < 676
    assert (country_alpha2(code) is None) == (code == UNKNOWN_COUNTRY)


def test_a_flood_of_garbage_stays_within_bounded_memory() -> None:
    """Distinct texts without end do not grow what is remembered without end."""
    for number in range(10_000):
        country_code(f"garbage {number}")
    remembered = countries._remembered.cache_info()
    assert remembered.maxsize == 4096
    assert remembered.currsize <= remembered.maxsize
