"""What a version is: its files, what it needs to run, how its threshold was chosen, how good it is.

The manifest is the version's identity: an alias names its digest, and it names the digest of every
other file. A digest holds for exact bytes, so JSON is written in one canonical form.
"""

from __future__ import annotations

import hashlib
import json
import platform
from importlib import metadata
from typing import Annotated, Final, Literal

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field

from model_store.features import EngagementWeights

MANIFEST_FILE: Final = "manifest.json"
MODEL_FILE: Final = "model.joblib"
BASELINE_FILE: Final = "baseline.json"
SELF_TEST_FILE: Final = "selftest.jsonl"
PAYLOAD_FILES: Final = (MODEL_FILE, BASELINE_FILE, SELF_TEST_FILE)
"""The files that a manifest vouches for."""

LIBRARIES: Final = ("scikit-learn", "numpy", "scipy", "joblib")

Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Ratio = Annotated[float, Field(ge=0, le=1)]


class _Record(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class FileDigest(_Record):
    """A file's content: SHA-256 in hex, and size in bytes."""

    sha256: Sha256
    size: int = Field(ge=0)


class Threshold(_Record):
    """A decision threshold: a student is predicted to buy if the probability is at or above it.

    Attributes:
        criterion: ``max_f1``, or ``cost`` for the least expected cost.
        false_positive_cost: of ``cost``: what flagging a student who won't buy costs.
        false_negative_cost: of ``cost``: what missing a student who will buy costs, same unit.
        precision: at the threshold, on the out-of-fold probabilities it was chosen on.
        recall: likewise.
        f1: likewise.
    """

    value: Ratio
    criterion: Literal["max_f1", "cost"]
    false_positive_cost: float | None = None
    false_negative_cost: float | None = None
    precision: Ratio
    recall: Ratio
    f1: Ratio


class Quality(_Record):
    """How good probabilities are on students the model had not seen; losses in nats."""

    rows: int
    positives: int
    average_precision: Ratio
    roc_auc: Ratio
    brier_score: Ratio
    log_loss: float = Field(ge=0)
    precision: Ratio
    recall: Ratio


class Metrics(_Record):
    """Quality measured in two ways.

    Attributes:
        cross_validated: on every row, each scored by a model fitted without its fold.
        folds: how many folds.
        held_out: on a part of the rows that neither the fit nor the threshold had seen.
    """

    cross_validated: Quality
    folds: int
    held_out: Quality


class TrainingData(_Record):
    """What a model was trained on; ``sha256`` is of the file's bytes, or of generated columns."""

    source: str
    sha256: Sha256
    rows: int
    positives: int


class Manifest(_Record):
    """Everything about a version but its bytes.

    Attributes:
        libraries: version of Python and of each library that the pickled model depends on.
        estimator_class: dotted name of the pipeline's last step.
        input_features: the inputs in their order.
        engineered_features: what the pipeline makes of them, in order.
        classes: the labels; the last one is a purchase.
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
    """Return a record as JSON whose bytes depend on nothing but its content."""
    tree = record.model_dump(mode="json")
    return (json.dumps(tree, sort_keys=True, indent=2, allow_nan=False, ensure_ascii=False) + "\n").encode()


def digest(content: bytes) -> str:
    """Return the SHA-256 of some bytes in hex."""
    return hashlib.sha256(content).hexdigest()


def library_versions() -> dict[str, str]:
    """Return the versions of Python and of :data:`LIBRARIES` as they run here."""
    return {"python": platform.python_version(), **{name: metadata.version(name) for name in LIBRARIES}}
