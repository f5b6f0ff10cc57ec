"""Define the manifest of a version: files, libraries, features, threshold, quality, training data.

The manifest identifies the version: an alias holds the manifest's digest, and the manifest holds the
digest of every other file. A digest depends on exact bytes, so JSON has one canonical form here.

Schema version 1 is the manifest without the fields that have a default. It is still read. It records
SciPy only for information; version 2 records SciPy only if the pickle names it.
"""

from __future__ import annotations

import hashlib
import json
import platform
from importlib import metadata
from typing import Annotated, Final, Literal

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field

from model_store.inputs import INPUT_NAMES, EngagementWeights

MANIFEST_FILE: Final = "manifest.json"
MODEL_FILE: Final = "model.joblib"
BASELINE_FILE: Final = "baseline.json"
SELF_TEST_FILE: Final = "selftest.jsonl"
EVALUATION_FILE: Final = "evaluation.json"
LINEAR_FILE: Final = "linear.json"
REQUIRED_FILES: Final = frozenset({MODEL_FILE, BASELINE_FILE, SELF_TEST_FILE})
OPTIONAL_FILES: Final = frozenset({EVALUATION_FILE, LINEAR_FILE})
"""The file that only versions of schema version 2 have, and the file that only linear models have."""

LIBRARIES: Final = ("scikit-learn", "numpy", "joblib")
"""The libraries that every version records; a pickle may name more."""

Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Ratio = Annotated[float, Field(ge=0, le=1)]


class Record(BaseModel):
    """A frozen record without unknown fields, infinities or NaN."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class FileDigest(Record):
    """A file's SHA-256 in hex and its size in bytes."""

    sha256: Sha256
    size: int = Field(ge=0)


class Threshold(Record):
    """A decision threshold: a purchase is predicted at or above this probability.

    Attributes:
        value: The probability.
        criterion: How it was chosen: ``max_f1``, ``cost`` for the least expected cost, ``precision``
            for the largest recall with at least ``min_precision``, or ``fixed``.
        false_positive_cost: For ``cost``: the cost of flagging a student who will not buy.
        false_negative_cost: For ``cost``: the cost of missing a student who will buy, same unit.
        min_precision: For ``precision``: the smallest accepted precision.
        precision: The precision on the out-of-fold probabilities that were used to choose it.
        recall: The recall on the same probabilities.
        f1: The F1 score on the same probabilities.
    """

    value: Ratio
    criterion: Literal["max_f1", "cost", "precision", "fixed"]
    false_positive_cost: float | None = None
    false_negative_cost: float | None = None
    min_precision: Ratio | None = None
    precision: Ratio
    recall: Ratio
    f1: Ratio


class Quality(Record):
    """The quality of probabilities for students whom the model was not fitted on; log loss in nats.

    Attributes:
        intervals: The bounds of the 95 % interval by measure: bootstrap intervals of average
            precision, ROC AUC and Brier score, Wilson intervals of precision and recall.
    """

    rows: int
    positives: int
    average_precision: Ratio
    roc_auc: Ratio
    brier_score: Ratio
    log_loss: float = Field(ge=0)
    precision: Ratio
    recall: Ratio
    intervals: dict[str, tuple[float, float]] = {}


class Metrics(Record):
    """Quality, measured in two ways.

    Attributes:
        cross_validated: On all rows, from out-of-fold probabilities.
        folds: The number of folds; 1 if the model itself was measured on rows that it had not seen.
        split: Whether folds and held-out rows were drawn at random, or later rows were measured by
            models that were fitted on earlier ones.
        held_out: On held-out rows, used neither to fit the model nor to choose the threshold.
    """

    cross_validated: Quality
    folds: int
    split: Literal["random", "time"] = "random"
    held_out: Quality


class TrainingData(Record):
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


class InputFormat(Record):
    """How an estimator receives the seven inputs.

    Attributes:
        container: ``array``: a 2-d NumPy array. ``frame``: a pandas DataFrame.
        country: ``number``: the store's country number, -1 for unknown. ``text``: the ISO 3166
            alpha-2 code, ``unknown`` for unknown. ``category``: the code as a pandas Categorical of
            ``categories``, missing for every other country.
        columns: The order of the columns.
        categories: For ``category``: the countries in the data.
    """

    container: Literal["array", "frame"] = "array"
    country: Literal["number", "text", "category"] = "number"
    columns: tuple[str, ...] = INPUT_NAMES
    categories: tuple[str, ...] = ()

    def __str__(self) -> str:
        """Return a description for people."""
        return f"{self.container} with the country as {self.country}"


class Cost(Record):
    """How long a prediction took when the version was added, on one thread.

    Attributes:
        batch_us: Microseconds per event in a batch of ``batch_rows``.
        single_us: Microseconds for an event alone.
    """

    batch_rows: int
    batch_us: float
    single_us: float


class Provenance(Record):
    """Who made a version, and how.

    Attributes:
        user: The name of the user.
        command: The command.
        software: The release of this software.
        parent: The version that this one was derived from.
    """

    user: str = ""
    command: str = ""
    software: str = ""
    parent: str | None = None


class Manifest(Record):
    """Everything about a version except its content.

    Attributes:
        libraries: The versions of Python and of each library that the pickled model depends on.
        estimator_class: The dotted name of the class of the estimator or the pipeline's last step.
        input_features: The inputs, in order.
        engineered_features: The features that the pipeline computes from them, in order.
        classes: The labels; the last one is a purchase.
        engagement_weights: The weights of the engagement score; ``None`` for an estimator without one.
        input_format: How the estimator receives the inputs.
        batch_invariant: Whether a row's probability has the same bits alone and in a batch.
        cost: How long a prediction takes.
        provenance: Who made the version, and how.
    """

    schema_version: Literal[1, 2] = 2
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
    engagement_weights: EngagementWeights | None
    metrics: Metrics
    training_data: TrainingData
    input_format: InputFormat = InputFormat()
    batch_invariant: bool | None = None
    cost: Cost | None = None
    provenance: Provenance = Provenance()

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
