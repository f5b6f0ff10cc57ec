"""Score with any version of the model store in a child process of the monitor.

A challenger is a model that nobody relies on yet: it may be slow, leak memory or crash in a native library.
In its own process, at the lowest priority, it can harm neither the audit log nor the scorers, and the
monitor itself never unpickles a model. The process ends with its parent, when its standard input ends.

Both directions carry pickled tuples, which only the two processes can write.
"""

from __future__ import annotations

import contextlib
import getpass
import os
import pickle
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Final, Literal, Protocol

import numpy as np

from consumer.columnar.arrays import FloatArray
from consumer.errors import FatalError
from consumer.pipeline.score import ModelFails, predict_rows
from model_store.errors import ModelStoreError
from model_store.store import ModelStore

if TYPE_CHECKING:
    from model_store.loading import LoadedModel

ANSWER_LIMIT_S: Final = 60.0
"""A process that takes longer for one request is killed, because the model hangs."""

_RETRY_REFUSED_S: Final = 30.0
"""A refused version is tried again after this time, since a missing library may be installed meanwhile."""

_PROGRAM: Final = f"from {__name__} import main; main()"
"""Run as ``-m``, the child would have a second copy of this module's classes, which pickle tells apart."""

_MODELS_KEPT: Final = 2
_LOWEST_PRIORITY: Final = 19


@dataclass(frozen=True, slots=True)
class Score:
    """A request to score rows.

    Attributes:
        version: The version to score with.
        features: The inputs, Fortran-ordered, float64 (m, 7).
    """

    version: str
    features: FloatArray = field(repr=False)


@dataclass(frozen=True, slots=True)
class Scores:
    """The answer to :class:`Score`.

    Attributes:
        probabilities: The probabilities, float64 (m,); NaN where the model failed.
        threshold: The version's threshold.
    """

    probabilities: FloatArray = field(repr=False)
    threshold: float


@dataclass(frozen=True, slots=True)
class Switch:
    """A request to make another version the champion.

    Attributes:
        action: ``promote`` the version, or ``rollback`` to it.
        version: The new champion.
        champion: The champion that the decision is about; if the champion has changed since, nothing happens.
        reason: The reason for the history.
        evidence: The findings for the history, by the check's name.
    """

    action: Literal["promote", "rollback"]
    version: str
    champion: str
    reason: str
    evidence: Mapping[str, Any] = field(repr=False)


@dataclass(frozen=True, slots=True)
class Switched:
    """The answer to :class:`Switch`: the champion is another one now."""


class ModelProblem(Exception):  # noqa: N818 - an answer rather than an error
    """A version cannot be used; the message says why."""


Request = Score | Switch
Answer = Scores | Switched


class Models(Protocol):
    """Answers requests about versions."""

    def ask(self, request: Request) -> Answer:
        """Answer a request.

        Raises:
            ModelProblem: The version cannot be used.
        """

    def close(self) -> None:
        """Stop, even if a request is being answered."""


class ModelProcess:
    """The parent's side: starts the process when it is first needed, and again after it has ended.

    Args:
        store: The folder of the model store.
        model: The model's name.
        public_key: The file with the key that must have signed its versions, if they must be signed.
    """

    def __init__(self, store: Path, model: str, public_key: Path | None = None) -> None:
        key = [] if public_key is None else [str(public_key)]
        self._command = (sys.executable, "-P", "-c", _PROGRAM, str(store), model, *key)
        self._process: subprocess.Popen[bytes] | None = None
        self._lock = threading.Lock()  # of _process and _closed
        self._closed = False

    def ask(self, request: Request) -> Answer:
        """Answer a request. Called by one thread.

        Raises:
            ModelProblem: The version cannot be used, or the process ended.
        """
        process = self._running()
        timer = threading.Timer(ANSWER_LIMIT_S, process.kill)
        timer.start()
        try:
            _send(process.stdin, request)
            answer: Answer | str = _receive(process.stdout)
        except (OSError, EOFError, ValueError, pickle.UnpicklingError) as error:
            status = _end(process)
            raise ModelProblem(f"the process that scores it ended with status {status}") from error
        finally:
            timer.cancel()
        if isinstance(answer, str):
            raise ModelProblem(answer)
        return answer

    def close(self) -> None:
        """Kill the process. A request that is being answered ends with :class:`ModelProblem`."""
        with self._lock:
            self._closed = True
            process = self._process
        if process is not None:
            _end(process)

    def _running(self) -> subprocess.Popen[bytes]:
        with self._lock:
            if self._closed:
                raise ModelProblem("the monitor stops")
            if self._process is not None and self._process.poll() is not None:
                _end(self._process)
                self._process = None
            if self._process is None:
                self._process = subprocess.Popen(  # noqa: S603 - our own module
                    self._command, stdin=subprocess.PIPE, stdout=subprocess.PIPE
                )
            return self._process


class StoreModels:
    """The child's side: loads versions and scores with them.

    Args:
        store: The model store.
    """

    def __init__(self, store: ModelStore) -> None:
        self._store = store
        self._models: dict[str, LoadedModel] = {}
        self._refused: dict[str, tuple[float, str]] = {}

    def ask(self, request: Request) -> Answer:
        """Answer a request.

        Raises:
            ModelProblem: The version is refused or fails, or the champion was not switched.
        """
        return self._score(request) if isinstance(request, Score) else self._switch(request)

    def close(self) -> None:
        """Do nothing: there is nothing to stop."""

    def _score(self, request: Score) -> Scores:
        model = self._load(request.version)
        try:
            probabilities, failures = predict_rows(model, request.features)
        except ModelFails as error:
            raise ModelProblem(f"it fails on most students: {error}") from error
        probabilities = probabilities.copy()  # a model may return an array that cannot be changed
        probabilities[list(failures)] = np.nan
        return Scores(probabilities, model.threshold)

    def _load(self, version: str) -> LoadedModel:
        if version not in self._models:
            at_s, problem = self._refused.get(version, (0.0, ""))
            if problem and time.monotonic() < at_s + _RETRY_REFUSED_S:
                raise ModelProblem(problem)
            try:
                model = self._store.load(version)
            except ModelStoreError as error:
                self._refused[version] = (time.monotonic(), str(error))
                raise ModelProblem(str(error)) from error
            self._models = dict([*self._models.items(), (version, model)][-_MODELS_KEPT:])
        return self._models[version]

    def _switch(self, request: Switch) -> Switched:
        store, actor = self._store, getpass.getuser()
        try:
            champion = store.resolve("champion").version
            if champion != request.champion:
                raise ModelProblem(f"the champion is {champion} by now")
            if request.action == "rollback":
                previous = store.resolve("previous").version
                if previous != request.version:
                    raise ModelProblem(f"the previous champion is {previous} by now")
                store.rollback(reason=request.reason, actor=actor, evidence=dict(request.evidence))
                return Switched()
            store.promote(
                request.version, reason=request.reason, actor=actor, evidence=dict(request.evidence)
            )
            store.withdraw("challenger", reason="it is the champion", actor=actor)
        except ModelStoreError as error:
            raise ModelProblem(str(error)) from error
        return Switched()


def main() -> None:
    """Answer requests from standard input on standard output until the input ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the parent decides
    with contextlib.suppress(OSError):
        os.nice(_LOWEST_PRIORITY)
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # some libraries print while they predict
    models = StoreModels(ModelStore(Path(sys.argv[1]), sys.argv[2], *map(Path, sys.argv[3:])))
    while True:
        try:
            request = _receive(sys.stdin.buffer)
        except EOFError:
            return
        try:
            answer: Answer | str = models.ask(request)
        except ModelProblem as problem:
            answer = str(problem)
        except Exception as error:  # noqa: BLE001 - any model, any error
            answer = " ".join(f"{type(error).__name__}: {error}".split())[:300]
        _send(answers, answer)


def _end(process: subprocess.Popen[bytes]) -> int:
    """Kill a process, close its pipes, and return its status."""
    process.kill()
    status = process.wait()
    for pipe in (process.stdin, process.stdout):
        if pipe is not None:
            with contextlib.suppress(OSError):  # what was not sent cannot be flushed any more
                pipe.close()
    return status


def _send(pipe: IO[bytes] | None, message: Request | Answer | str) -> None:
    if pipe is None:
        raise FatalError("the process has no pipe")
    pickle.dump(message, pipe, protocol=5)
    pipe.flush()


def _receive(pipe: IO[bytes] | None) -> Any:
    if pipe is None:
        raise FatalError("the process has no pipe")
    return pickle.load(pipe)  # noqa: S301 - from our own process
