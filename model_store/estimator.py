"""Use fitted scikit-learn classifiers as probability models.

:func:`probability_model` folds the default pipeline into a :class:`~model_store.linear.LinearModel`.
Every other classifier is called through its ``predict_proba``, in the input format that it needs.
"""

from __future__ import annotations

import inspect
import io
import pickle
import sys
import threading
import time
import warnings
from dataclasses import dataclass, field
from functools import cache
from importlib import metadata
from operator import itemgetter
from typing import TYPE_CHECKING, Any, Final

import joblib
import numpy as np
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.exceptions import InconsistentVersionWarning, NotFittedError
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.validation import check_is_fitted
from threadpoolctl import threadpool_limits

from model_store.countries import COUNTRY_CODES, country_alpha2
from model_store.errors import ModelStoreError
from model_store.evaluation import Ranking
from model_store.features import EngagementFeatures
from model_store.inputs import INPUT_NAMES, NUMERIC_FEATURE_NAMES, country_indices, input_matrix
from model_store.linear import LinearModel
from model_store.manifest import Cost, InputFormat, library_versions

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from numpy.typing import NDArray

    from model_store.linear import ProbabilityModel

UNKNOWN_TEXT: Final = "unknown"
"""The text that an estimator receives for an unknown country, if it takes the country as text."""

_COUNTRY_TEXTS: Final = np.array(
    [country_alpha2(code) for code in range(COUNTRY_CODES)] + [UNKNOWN_TEXT], dtype=object
)
_FORMATS: Final = (
    ("array", "number"),
    ("array", "text"),
    ("frame", "number"),
    ("frame", "text"),
    ("frame", "category"),
)
"""The input formats, from the fastest to the slowest."""

_TRIED_ROWS: Final = 20_000
_COST_ROWS: Final = 1000
_OWN_PACKAGES: Final = frozenset({"consumer", "model_store", "schemas"})


@dataclass(frozen=True, slots=True, eq=False)
class EstimatorModel:
    """A fitted classifier on the seven inputs; its second class is a purchase.

    Native thread pools (OpenMP, BLAS) are limited to one thread in every thread that predicts. A
    scorer is one of several processes on its machine: more threads compete with the other scorers
    and make small batches slower.

    Attributes:
        estimator: The classifier.
        input_format: How it receives the inputs.
    """

    estimator: Any
    input_format: InputFormat
    _thread: threading.local = field(default_factory=threading.local, repr=False)
    _options: dict[str, int] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        """Limit the threads that the estimator itself starts."""
        _set_n_jobs(self.estimator)
        # CatBoost has its own thread pool, which no library limits from outside.
        parameters = inspect.signature(self.estimator.predict_proba).parameters
        options = {"thread_count": 1} if "thread_count" in parameters else {}
        object.__setattr__(self, "_options", options)
        # An estimator that was fitted on a DataFrame may still receive an array in the same order.
        warnings.filterwarnings("ignore", message="X does not have valid feature names")

    def predict_probability(self, inputs: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the probability of a purchase, float64 (m,), for inputs float64 (m, 7)."""
        if not hasattr(self._thread, "limited"):
            threadpool_limits(1)
            self._thread.limited = True
        inputs = input_matrix(inputs)
        if not len(inputs):  # many estimators refuse an empty batch
            return np.empty(0)
        columns = self.estimator.predict_proba(format_inputs(inputs, self.input_format), **self._options)
        return np.ascontiguousarray(np.asarray(columns)[:, 1], dtype=np.float64)


def probability_model(estimator: Any, input_format: InputFormat | None = None) -> ProbabilityModel:
    """Return the fastest probability model for a fitted estimator on the seven inputs."""
    steps = _steps(estimator)
    if [type(step) for step in steps] == [EngagementFeatures, LogisticRegression]:
        return _fold(steps[0], None, steps[1])
    if [type(step) for step in steps] == [EngagementFeatures, StandardScaler, LogisticRegression]:
        return _fold(*steps)
    return EstimatorModel(estimator, input_format or InputFormat())


def format_inputs(inputs: NDArray[np.float64], input_format: InputFormat) -> Any:
    """Convert inputs, float64 (m, 7), to what the estimator expects.

    >>> row = np.array([[26 * 8 + 13, 9.0, 30.0, 2.0, 4.0, 3.0, 12.0]])
    >>> format_inputs(row, InputFormat(country="text")).tolist()
    [['IN', 9.0, 30.0, 2.0, 4.0, 3.0, 12.0]]
    """
    order = [INPUT_NAMES.index(name) for name in input_format.columns]
    country: Any = inputs[:, 0]
    if input_format.country != "number":
        country = _COUNTRY_TEXTS[country_indices(inputs)]
    if input_format.container == "array":
        if input_format.country == "number":
            return inputs if order == sorted(order) else inputs[:, order]
        table = inputs.astype(object)
        table[:, 0] = country
        return table[:, order]
    import pandas as pd  # noqa: PLC0415 - an extra

    if input_format.country == "category":
        known = np.isin(country.astype(str), input_format.categories)
        country = pd.Categorical(np.where(known, country, None), categories=list(input_format.categories))
    return pd.DataFrame({INPUT_NAMES[i]: country if i == 0 else inputs[:, i] for i in order})


def input_format(estimator: Any, name: str, inputs: NDArray[np.float64]) -> InputFormat:
    """Return the input format with a name such as ``frame-text``.

    Args:
        estimator: The fitted estimator, which knows the order of its columns.
        name: The container and the kind of country.
        inputs: Inputs with every country that ``category`` may name, float64 (n, 7).

    Raises:
        ValueError: There is no such format.
    """
    for container, country in _FORMATS:
        if name == f"{container}-{country}":
            columns = fitted_columns(estimator) or INPUT_NAMES
            categories = _known_countries(inputs) if country == "category" else ()
            return InputFormat.model_validate(
                {"container": container, "country": country, "columns": columns, "categories": categories}
            )
    names = ", ".join("-".join(pair) for pair in _FORMATS)
    raise ValueError(f"there is no such format; choose one of {names}")


def read_estimator(path: Path) -> Any:
    """Unpickle a classifier that somebody saved with ``joblib.dump``. This runs code.

    Raises:
        ModelStoreError: The file cannot be read or unpickled.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise ModelStoreError(f"{path} cannot be read: {error.strerror or error}") from error
    with warnings.catch_warnings():
        warnings.simplefilter("error", InconsistentVersionWarning)
        try:
            return joblib.load(io.BytesIO(content))
        except InconsistentVersionWarning as error:
            raise ModelStoreError(
                f"{path} was saved with scikit-learn {error.original_sklearn_version}, but "
                f"{error.current_sklearn_version} is installed; fit it again with the installed version"
            ) from error
        except ModuleNotFoundError as error:
            raise ModelStoreError(f"{path} needs the module {error.name}; install its package") from error
        except Exception as error:
            raise ModelStoreError(
                f"{path} cannot be unpickled: {one_line(error)}; save it with joblib.dump(model, file)"
            ) from error


def check_classifier(estimator: Any) -> None:
    """Refuse everything but a fitted classifier with the classes 0 and 1 over seven inputs.

    Raises:
        ModelStoreError: The message says what is wrong and what to do.
    """
    name = type(estimator).__name__
    if not callable(getattr(estimator, "predict_proba", None)):
        advice = (
            "wrap it in CalibratedClassifierCV"
            if hasattr(estimator, "decision_function")
            else "it must be a classifier"
        )
        raise ModelStoreError(f"{name} has no predict_proba; {advice}")
    try:
        check_is_fitted(estimator)
    except (NotFittedError, TypeError) as error:
        raise ModelStoreError(f"{name} is not fitted; fit it before you save it") from error
    classes = getattr(estimator, "classes_", None)
    if classes is None:
        raise ModelStoreError(f"{name} has no classes_; add a fitted classifier")
    labels = np.asarray(classes).tolist()
    if labels != [0, 1]:
        raise ModelStoreError(f"{name} has the classes {_listed(labels)}; they must be 0 and 1")
    columns = fitted_columns(estimator)
    if columns is not None and set(columns) != set(INPUT_NAMES):
        raise ModelStoreError(
            f"{name} was fitted on the columns {_listed(columns)}; they must be {_listed(INPUT_NAMES)}"
        )
    width = getattr(estimator, "n_features_in_", None)
    if width and width != len(INPUT_NAMES):  # CatBoost says 0
        raise ModelStoreError(f"{name} was fitted on {width} columns; they must be the seven inputs")


def fitted_columns(estimator: Any) -> tuple[str, ...] | None:
    """Return the column names that an estimator was fitted on, or ``None`` if it was fitted on an array."""
    for attribute in ("feature_names_in_", "feature_names_"):  # the second is CatBoost's
        names = getattr(estimator, attribute, None)
        if names is not None:
            columns = tuple(map(str, names))
            # LightGBM and CatBoost number the columns of an array.
            generated = all(name.removeprefix("Column_").isdecimal() for name in columns)
            return None if generated else columns
    return None


def candidate_formats(
    estimator: Any, inputs: NDArray[np.float64], purchased: NDArray[np.int8]
) -> list[InputFormat]:
    """Find out how an estimator was fitted: try every format, keep those that predict best.

    A format that the estimator refuses is out. Formats with equal average precision are
    equivalent; the fastest one is the first.

    Args:
        estimator: A classifier that :func:`check_classifier` accepts.
        inputs: Labelled inputs, float64 (n, 7).
        purchased: Their labels, int8 (n,).

    Raises:
        ModelStoreError: The estimator refuses every format.
    """
    rows = np.linspace(0, len(inputs) - 1, min(len(inputs), _TRIED_ROWS)).astype(np.intp)
    inputs, purchased = np.asfortranarray(inputs[rows]), purchased[rows]
    columns = fitted_columns(estimator) or INPUT_NAMES
    known = _known_countries(inputs)
    accepted: list[tuple[float, InputFormat]] = []
    refusals = []
    for container, country in _FORMATS:
        categories = known if country == "category" else ()
        tried = InputFormat.model_validate(
            {"container": container, "country": country, "columns": columns, "categories": categories}
        )
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                probabilities = EstimatorModel(estimator, tried).predict_probability(inputs)
            score = Ranking(probabilities).scores(purchased, np.ones(len(purchased)))[0]
        except ImportError:
            refusals.append(f"{tried}: install pandas (pip install 'purchase-stream[pandas]')")
        except Exception as error:  # noqa: BLE001 - any estimator, any reason
            refusals.append(f"{tried}: {one_line(error)}")
        else:
            accepted.append((score, tried))
    if not accepted:
        raise ModelStoreError(f"{type(estimator).__name__} accepts no input format: {'; '.join(refusals)}")
    best, _ = max(accepted, key=itemgetter(0))
    return [tried for score, tried in accepted if score > best - 1e-9]


def _known_countries(inputs: NDArray[np.float64]) -> tuple[str, ...]:
    codes = np.unique(country_indices(inputs))
    return tuple(_COUNTRY_TEXTS[codes[codes >= 0]].tolist())


def leaf_numbers(estimator: Any, rows: Any) -> NDArray[np.intp] | None:
    """Return the leaf that each row reaches in each tree, intp (n, trees); ``None`` if there are no trees.

    Knows the trees of scikit-learn, LightGBM, XGBoost and CatBoost, alone and inside of pipelines and
    of classifiers that calibrate or combine others. Numbers are comparable within a tree only.

    Args:
        estimator: The fitted classifier.
        rows: Inputs in the format that it receives.
    """
    *transformers, classifier = _steps(estimator)
    for step in transformers:
        if step != "passthrough":
            rows = step.transform(rows)
    if hasattr(classifier, "calc_leaf_indexes"):  # CatBoost
        return np.asarray(classifier.calc_leaf_indexes(rows))
    if hasattr(classifier, "booster_"):  # LightGBM
        return np.asarray(classifier.predict(rows, pred_leaf=True)).reshape(len(rows), -1)
    if hasattr(classifier, "apply"):
        return np.asarray(classifier.apply(rows)).reshape(len(rows), -1).astype(np.intp)
    if isinstance(classifier, HistGradientBoostingClassifier):
        # The difference of two stages is a leaf's value, up to rounding.
        stages = np.column_stack([stage.ravel() for stage in classifier.staged_decision_function(rows)])
        values = np.diff(stages, axis=1, prepend=0).round(9) + 0.0  # makes -0.0 equal to 0.0
        return values.view(np.intp)
    inner = [
        *(calibrated.estimator for calibrated in getattr(classifier, "calibrated_classifiers_", ())),
        *getattr(classifier, "estimators_", ()),
        *filter(None, [getattr(classifier, "best_estimator_", None)]),
    ]
    found = [leaves for item in inner if (leaves := leaf_numbers(item, rows)) is not None]
    return np.column_stack(found) if found else None


def measure_cost(model: ProbabilityModel, inputs: NDArray[np.float64]) -> Cost:
    """Measure how long a prediction takes: the best of five batches, the best of twenty single events."""
    batch = np.asfortranarray(np.resize(inputs, (_COST_ROWS, inputs.shape[1])))
    single = np.asfortranarray(inputs[:1])

    def best_s(rows: NDArray[np.float64], repeats: int) -> float:
        durations_s = []
        for _ in range(repeats):
            start_s = time.perf_counter()
            model.predict_probability(rows)
            durations_s.append(time.perf_counter() - start_s)
        return min(durations_s)

    return Cost(
        batch_rows=_COST_ROWS,
        batch_us=round(best_s(batch, 5) / _COST_ROWS * 1e6, 3),
        single_us=round(best_s(single, 20) * 1e6, 1),
    )


def is_batch_invariant(model: ProbabilityModel, inputs: NDArray[np.float64]) -> bool:
    """Return whether rows have the same bits alone as in a batch."""
    inputs = np.asfortranarray(inputs[:64])
    alone = [model.predict_probability(inputs[i : i + 1])[0] for i in range(len(inputs))]
    return bool(np.array(alone).tobytes() == model.predict_probability(inputs).tobytes())


def pickled(estimator: Any) -> tuple[bytes, dict[str, str]]:
    """Pickle an estimator; return the bytes and the versions of every library that the pickle names.

    Raises:
        ModelStoreError: The estimator cannot be pickled, or it needs code that no package installs.
    """
    buffer = io.BytesIO()
    try:
        joblib.dump(estimator, buffer, protocol=5)
        recorder = _ModuleRecorder(io.BytesIO(pickle.dumps(estimator, protocol=5)))
        recorder.load()
    except Exception as error:
        raise ModelStoreError(f"{type(estimator).__name__} cannot be pickled: {one_line(error)}") from error
    versions = library_versions()
    packages = _packages_distributions()
    for package in sorted({module.partition(".")[0] for module in recorder.modules}):
        if (package in sys.stdlib_module_names and package != "__main__") or package in _OWN_PACKAGES:
            continue
        if package == "__main__" or package not in packages:
            raise ModelStoreError(
                f"the pickle needs the module {package}, which no installed package provides: a scorer "
                "could not load it; move the code into a package that is installed beside purchase-stream"
            )
        for name in packages[package]:
            versions[name] = metadata.version(name)
    return buffer.getvalue(), versions


def unpickled(version: str, content: bytes, *, other_versions: bool = False) -> Any:
    """Unpickle a version's estimator, whose digest was verified before.

    Args:
        version: The version's id, for messages.
        content: The pickle.
        other_versions: Whether the library versions may differ from those in training.

    Raises:
        ModelStoreError: It cannot be unpickled.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore" if other_versions else "error", InconsistentVersionWarning)
        try:
            return joblib.load(io.BytesIO(content))
        except Exception as error:
            raise ModelStoreError(
                f"model version {version} is refused: model.joblib cannot be unpickled: {one_line(error)}"
            ) from error


@cache
def _packages_distributions() -> Mapping[str, list[str]]:
    return metadata.packages_distributions()


class _ModuleRecorder(pickle.Unpickler):
    """Records the modules that a pickle names."""

    def __init__(self, file: io.BytesIO) -> None:
        super().__init__(file)
        self.modules: set[str] = set()

    def find_class(self, module: str, name: str) -> Any:
        self.modules.add(module)
        return super().find_class(module, name)


def engineered_names(estimator: Any) -> tuple[str, ...]:
    """Return the names of the features that our transformer engineers; empty without the transformer."""
    first = _steps(estimator)[0]
    return tuple(first.get_feature_names_out()) if isinstance(first, EngagementFeatures) else ()


def estimator_class(estimator: Any) -> str:
    """Return the dotted name of an estimator's class; for a pipeline, of its last step."""
    last = type(_steps(estimator)[-1])
    return f"{last.__module__}.{last.__qualname__}"


def one_line(error: Exception) -> str:
    """Return the type and the message of an error on one line of at most 300 characters."""
    return " ".join(f"{type(error).__name__}: {error}".split())[:300]


def _set_n_jobs(estimator: Any) -> None:
    """Set ``n_jobs`` to 1 in an estimator and in everything that it holds."""
    pending, seen = [estimator], set()
    while pending:
        item = pending.pop()
        if id(item) in seen:
            continue
        seen.add(id(item))
        if isinstance(item, list | tuple):
            pending.extend(item)
        elif isinstance(item, dict):
            pending.extend(item.values())
        elif hasattr(item, "get_params"):
            if getattr(item, "n_jobs", None) not in {None, 1}:
                item.n_jobs = 1
            pending.extend(vars(item).values())
        elif type(item).__module__.startswith("sklearn.") and hasattr(item, "__dict__"):
            pending.extend(vars(item).values())  # such as one of CalibratedClassifierCV's classifiers


def _steps(estimator: Any) -> list[Any]:
    return [step for _, step in estimator.steps] if isinstance(estimator, Pipeline) else [estimator]


def _listed(values: Any) -> str:
    shown = [str(value) for value in list(values)[:10]]
    return ", ".join(shown) + (", …" if len(values) > len(shown) else "")


def _fold(
    features: EngagementFeatures, scaler: StandardScaler | None, regression: LogisticRegression
) -> LinearModel:
    """Fold scaler and regression: w·(f - mean)/scale + b = (w/scale)·f + (b - w·mean/scale)."""
    coefficients = np.array(regression.coef_[0], dtype=np.float64)
    intercept = float(regression.intercept_[0])
    if scaler is not None:
        if scaler.scale_ is not None:
            coefficients /= scaler.scale_
        if scaler.mean_ is not None:
            intercept -= float(np.sum(coefficients * scaler.mean_))
    numeric = len(NUMERIC_FEATURE_NAMES)
    return LinearModel(
        weights=features.weights,
        coefficients=tuple(coefficients[:numeric].tolist()),
        country_log_odds=intercept + coefficients[numeric:][features.country_columns()],
    )
