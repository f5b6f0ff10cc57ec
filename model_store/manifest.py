"""The manifest of a version: files, libraries, features, threshold, quality, training data.

The manifest identifies the version: an alias holds the manifest's digest, and the manifest holds the
digest of every other file. A digest depends on exact bytes, so JSON has one canonical form here.
"""

from __future__ import annotations

import hashlib
import json
import platform
from importlib import metadata
from typing import Annotated, Final, Literal

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field

from model_store.inputs import EngagementWeights

MANIFEST_FILE: Final = "manifest.json"
MODEL_FILE: Final = "model.joblib"
BASELINE_FILE: Final = "baseline.json"
SELF_TEST_FILE: Final = "selftest.jsonl"
PAYLOAD_FILES: Final = (MODEL_FILE, BASELINE_FILE, SELF_TEST_FILE)
"""The files whose digests are in the manifest."""

LIBRARIES: Final = ("scikit-learn", "numpy", "scipy", "joblib")
"""The libraries whose versions a model depends on."""

Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Ratio = Annotated[float, Field(ge=0, le=1)]


class _Record(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class FileDigest(_Record):
    """A file's SHA-256 in hex and its size in bytes."""

    sha256: Sha256
    size: int = Field(ge=0)


class Threshold(_Record):
    """A decision threshold: a purchase is predicted at or above this probability.

    Attributes:
        value: The probability.
        criterion: How it was chosen: ``max_f1``, or ``cost`` for the least expected cost.
        false_positive_cost: For ``cost``: the cost of flagging a student who will not buy.
        false_negative_cost: For ``cost``: the cost of missing a student who will buy, same unit.
        precision: The precision on the out-of-fold probabilities that were used to choose it.
        recall: The recall on them.
        f1: The F1 score on them.
    """

    value: Ratio
    criterion: Literal["max_f1", "cost"]
    false_positive_cost: float | None = None
    false_negative_cost: float | None = None
    precision: Ratio
    recall: Ratio
    f1: Ratio


class Quality(_Record):
    """The quality of probabilities for students that the model was not fitted on; log loss in nats."""

    rows: int
    positives: int
    average_precision: Ratio
    roc_auc: Ratio
    brier_score: Ratio
    log_loss: float = Field(ge=0)
    precision: Ratio
    recall: Ratio


class Metrics(_Record):
    """Quality, measured in two ways.

    Attributes:
        cross_validated: On all rows, from out-of-fold probabilities.
        folds: The number of folds.
        held_out: On held-out rows, used neither to fit the model nor to choose the threshold.
    """

    cross_validated: Quality
    folds: int
    held_out: Quality


class TrainingData(_Record):
    """The training data of a model.

    Attributes:
        source: Where the rows came from, for people.
        sha256: The digest of the file's bytes, or of the generated columns.
        rows: The number of students.
        positives: The number of students who bought.
    """

    source: str
    sha256: Sha256
    rows: int
    positives: int


class Manifest(_Record):
    """Everything about a version except its content.

    Attributes:
        libraries: The versions of Python and of each library that the pickled model depends on.
        estimator_class: The dotted name of the class of the estimator or the pipeline's last step.
        input_features: The inputs, in order.
        engineered_features: The features that the pipeline computes from them, in order.
        classes: The labels; the last one is a purchase.
    """

    schema_version: Literal[1] = 1
    model: str
    version: str
    created_at: AwareDatetime
    files: dict[str, FileDigest]
    libraries: dict[str, str]
    estimator_class: str
    input_features: tuple[str, ...]
    engineered_features: tuple[str, ...]
    classes: tuple[int, ...]
    threshold: Threshold
    engagement_weights: EngagementWeights
    metrics: Metrics
    training_data: TrainingData

    def to_bytes(self) -> bytes:
        """Return the canonical JSON: sorted keys, two spaces, UTF-8, a newline at the end."""
        return canonical_json(self)


def canonical_json(record: BaseModel) -> bytes:
    """Return a record as JSON; equal records give equal bytes."""
    tree = record.model_dump(mode="json")
    return (json.dumps(tree, sort_keys=True, indent=2, allow_nan=False, ensure_ascii=False) + "\n").encode()


def digest(content: bytes) -> str:
    """Return the SHA-256 of the content in hex."""
    return hashlib.sha256(content).hexdigest()


def library_versions() -> dict[str, str]:
    """Return the installed versions of Python and :data:`LIBRARIES`."""
    return {"python": platform.python_version(), **{name: metadata.version(name) for name in LIBRARIES}}
