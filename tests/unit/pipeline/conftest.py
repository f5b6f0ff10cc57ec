"""A decoder that knows the schemas in the folder, and a model trained in a moment."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pytest

from consumer.pipeline.decode import Decoder
from consumer.pipeline.pipeline import Pipeline
from consumer.pipeline.score import CountryNumbers
from model_store.countries import country_code
from model_store.estimator import probability_model
from model_store.linear import ProbabilityModel
from model_store.synthetic import generate_students
from model_store.training import train
from schemas.repository import BundledSchemas, engagement_event, purchase_prediction, single_object_header

if TYPE_CHECKING:
    from numpy.typing import NDArray


@dataclass(frozen=True)
class Champion:
    """The real scorer, with what a loaded version adds to it."""

    scorer: ProbabilityModel
    threshold: float
    version: str = "20261122T101500Z-1a2b3c4d"

    def predict_probability(self, features: NDArray[np.float64]) -> NDArray[np.float64]:
        """Score."""
        return self.scorer.predict_probability(features)

    def current(self) -> Champion:
        """Stay on."""
        return self


@pytest.fixture(scope="session")
def decoder() -> Decoder:
    """A decoder without a registry."""
    return Decoder(engagement_event(), BundledSchemas())


@pytest.fixture(scope="session")
def champion() -> Champion:
    """A model trained on generated students."""
    trained = train(generate_students(800, seed=1))
    return Champion(probability_model(trained.estimator), trained.threshold.value)


@pytest.fixture(scope="session")
def pipeline(decoder: Decoder, champion: Champion) -> Pipeline:
    """The whole decision."""
    header = single_object_header(purchase_prediction().fingerprint)
    return Pipeline(decoder, champion, CountryNumbers(country_code), header)
