"""The seven inputs of a prediction: their names, their order, and the rules each obeys.

An input matrix is float64 of shape (m, 7) in Fortran order, so that every column is contiguous.
Column 0 is the country's number (:func:`model_store.countries.country_code`), the rest are
counts, days and minutes as received.
"""

from __future__ import annotations

from typing import Final

INPUT_NAMES: Final = (
    "student_country",
    "days_on_platform",
    "minutes_watched",
    "courses_started",
    "practice_exams_started",
    "practice_exams_passed",
    "minutes_spent_on_exams",
)

INTEGER_INPUTS: Final = frozenset(
    {"days_on_platform", "courses_started", "practice_exams_started", "practice_exams_passed"}
)
"""Inputs that the event schema declares as whole numbers."""

COUNTRY_MIN_CHARACTERS: Final = 2
COUNTRY_MAX_CHARACTERS: Final = 64
