"""Manage the model store: a folder with versions, aliases and their history.

::

    <store>/<model>/versions/<id>/     immutable: model.joblib, baseline.json, selftest.jsonl, manifest.json
    <store>/<model>/aliases/<alias>    one JSON line: a version and the digest of its manifest
    <store>/<model>/history.jsonl      one line per switch of an alias

A version appears whole, because its folder is renamed into place. An alias changes atomically.
Writers hold a lock; readers need none. Every version is verified when it is promoted and again when
it is loaded. A digest beside its file detects damage, not forgery: give scorers read-only access, or
sign versions (:mod:`model_store.signing`).
"""

from __future__ import annotations

import difflib
import os
import shutil
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from model_store import files, self_test
from model_store.aliases import ALIASES, PLAIN_NAME, Alias, Aliases, AliasTarget
from model_store.baseline import Baseline
from model_store.errors import ModelStoreError
from model_store.inputs import INPUT_NAMES
from model_store.linear import LinearModel
from model_store.loading import LoadedModel, load_version, read_manifest, read_verified
from model_store.manifest import (
    BASELINE_FILE,
    EVALUATION_FILE,
    LINEAR_FILE,
    MANIFEST_FILE,
    MODEL_FILE,
    SELF_TEST_FILE,
    FileDigest,
    Manifest,
    Provenance,
    canonical_json,
    digest,
)
from model_store.signing import SIGNATURE_FILE, sign

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from model_store.evaluation import Evaluation, ThresholdCriterion
    from model_store.promotion import Promotion
    from model_store.training import TrainedModel
    from model_store.training_data import TrainingTable

_READ_ONLY: Final = 0o444


@dataclass(frozen=True, slots=True)
class Migration:
    """A version whose scores were proved equal with the installed libraries.

    Attributes:
        version: The id of the version for these libraries.
        rows: The self-test rows that were scored.
        leaves: The leaves of its trees that the rows reach; ``None`` if it has no trees.
    """

    version: str
    rows: int
    leaves: int | None


class ModelStore:
    """The versions of one model.

    Args:
        path: The store's folder; the first :meth:`add` creates it.
        model: The model's name, a folder in the store's folder.
        public_key: The file with a public key; versions without its signature are refused.

    Raises:
        ModelStoreError: The model's name has other characters than letters, digits, ., _ and -.
    """

    def __init__(self, path: Path, model: str, public_key: Path | None = None) -> None:
        if not PLAIN_NAME.fullmatch(model):
            raise ModelStoreError(f"model name {model!r} must be letters, digits, '.', '_' and '-'")
        self.model = model
        self.folder = Path(path) / model
        self._public_key = public_key
        self._aliases = Aliases(self.folder)

    def add(self, trained: TrainedModel, *, provenance: Provenance | None = None) -> str:
        """Write a new version and return its id, ``<UTC time>-<first 8 of the model's sha256>``.

        Raises:
            ModelStoreError: The estimator cannot be pickled, or the store is not writable.
        """
        from model_store.estimator import (  # noqa: PLC0415 - imports scikit-learn
            engineered_names,
            estimator_class,
            pickled,
            probability_model,
        )

        content, libraries = pickled(trained.estimator)
        contents = {
            MODEL_FILE: content,
            BASELINE_FILE: canonical_json(trained.baseline),
            SELF_TEST_FILE: self_test.to_lines(trained.self_test),
            EVALUATION_FILE: trained.evaluation.to_bytes(),
        }
        model = probability_model(trained.estimator, trained.input_format)
        if isinstance(model, LinearModel):
            contents[LINEAR_FILE] = model.to_json()
        manifest = Manifest(
            model=self.model,
            version="0",
            created_at=datetime.now(UTC),
            files={},
            libraries=libraries,
            estimator_class=estimator_class(trained.estimator),
            input_features=INPUT_NAMES,
            engineered_features=engineered_names(trained.estimator),
            classes=tuple(int(label) for label in trained.estimator.classes_),
            threshold=trained.threshold,
            engagement_weights=trained.engagement_weights,
            metrics=trained.metrics,
            training_data=trained.training_data,
            input_format=trained.input_format,
            batch_invariant=trained.batch_invariant,
            cost=trained.cost,
            provenance=provenance or Provenance(),
        )
        return self._add(manifest, contents)

    def _add(self, manifest: Manifest, contents: dict[str, bytes]) -> str:
        """Write a version whose manifest lacks only the id, the time and the files."""
        with self._writing("add a version to"):
            created_at = datetime.now(UTC)
            version = f"{created_at:%Y%m%dT%H%M%S.%fZ}-{digest(contents[MODEL_FILE])[:8]}"
            digests = {name: FileDigest(sha256=digest(c), size=len(c)) for name, c in contents.items()}
            manifest = manifest.model_copy(
                update={"version": version, "created_at": created_at, "files": digests, "schema_version": 2}
            )
            self._publish(version, {**contents, MANIFEST_FILE: manifest.to_bytes()})
        return version

    def versions(self) -> list[str]:
        """Return the ids of all versions, oldest first."""
        with _os_errors(f"list the versions of {self.folder}"):
            if not self._versions.is_dir():
                return []
            return sorted(path.name for path in self._versions.iterdir() if PLAIN_NAME.fullmatch(path.name))

    def aliases(self) -> dict[Alias, AliasTarget]:
        """Return the target of each alias that is set.

        Raises:
            ModelStoreError: An alias file is damaged.
        """
        return {alias: target for alias in ALIASES if (target := self._aliases.read(alias))}

    def target(self, alias: Alias) -> AliasTarget | None:
        """Return the target of an alias, or ``None`` if it is not set.

        Raises:
            ModelStoreError: The alias file is damaged.
        """
        return self._aliases.read(alias)

    def history(self) -> list[dict[str, Any]]:
        """Return all switches of aliases, oldest first."""
        with _os_errors(f"read the history of {self.folder}"):
            return self._aliases.history()

    def resolve(self, alias: Alias) -> AliasTarget:
        """Return the target of an alias; takes a few dozen microseconds, so it suits polling.

        Raises:
            ModelStoreError: The alias is not set, or its file is damaged.
        """
        target = self._aliases.read(alias)
        if target is None:
            versions = self.versions()
            advice = (
                f"promote a version: purchase-stream models promote {versions[-1]}"
                if versions
                else "train and promote one: purchase-stream train --promote"
            )
            raise ModelStoreError(f"{self.folder} has no {alias}; {advice}")
        return target

    def manifest(self, version_or_alias: str) -> Manifest:
        """Return a version's manifest without verifying the version's other files.

        Raises:
            ModelStoreError: There is no such version or alias, or its manifest is refused.
        """
        return read_manifest(*self._locate(version_or_alias), self._public_key)[0]

    def load(self, version_or_alias: str = "champion") -> LoadedModel:
        """Verify a version and load it.

        Raises:
            ModelStoreError: There is no such version or alias, or the version fails a check.
        """
        return load_version(*self._locate(version_or_alias), self._public_key)

    def verify(self, version_or_alias: str) -> Manifest:
        """Run every check of :meth:`load`, unpickle linear models too, and return the manifest.

        Raises:
            ModelStoreError: As for :meth:`load`.
        """
        return load_version(*self._locate(version_or_alias), self._public_key, unpickle=True).manifest

    def promote(
        self,
        version: str,
        alias: Alias = "champion",
        *,
        reason: str = "",
        actor: str = "",
        table: TrainingTable | None = None,
        force: bool = False,
        evidence: dict[str, Any] | None = None,
    ) -> Promotion:
        """Verify and judge a version, and switch an alias to it; the old champion becomes ``previous``.

        Only the champion is judged. Nothing changes if the alias already has this target. After a
        crash the alias has either its old target or the new one.

        Args:
            version: A version's id, or an alias.
            alias: The alias to switch.
            reason: The reason, recorded in the history.
            actor: Who promotes, recorded in the history.
            table: Labelled students that neither the version nor the champion was fitted on, to
                compare both.
            force: Whether to promote despite failed checks; this needs a reason.
            evidence: Further findings to record, by name.

        Raises:
            PromotionRefused: The version fails a check of its quality.
            ModelStoreError: The version is refused, or the store is not writable.
        """
        from model_store.promotion import (  # noqa: PLC0415 - a scorer does without
            Promotion,
            PromotionRefused,
            as_evidence,
            judge,
        )

        if force and not reason:
            raise ModelStoreError("a promotion despite failed checks needs a reason")
        loaded = self.load(version)
        target = AliasTarget(version=loaded.version, manifest_sha256=loaded.manifest_sha256)
        if self._aliases.read(alias) == target:
            return Promotion(target)
        checks = judge(self, loaded.version, table) if alias == "champion" else ()
        if not (force or all(check.passed for check in checks)):
            raise PromotionRefused(loaded.version, checks)
        findings = as_evidence(checks) | (evidence or {})
        with self._writing(f"switch {alias} in"):
            old = self._aliases.read(alias)
            # Switch `previous` first. After a crash in between, a rollback finds no earlier
            # champion; the other order would roll back to the version before the last one.
            if alias == "champion" and old not in {None, target}:
                self._aliases.switch("previous", old, reason=reason, actor=actor)
            if old != target:
                self._aliases.switch(alias, target, reason=reason, actor=actor, evidence=findings or None)
        return Promotion(target, checks)

    def withdraw(self, alias: Alias, *, reason: str = "", actor: str = "") -> str | None:
        """Remove an alias; return the version that it named, or ``None`` if it was not set.

        Raises:
            ModelStoreError: The alias is damaged, or the store is not writable.
        """
        with self._writing(f"remove {alias} in"):
            return self._aliases.remove(alias, reason=reason, actor=actor)

    def rollback(
        self, *, reason: str = "", actor: str = "", evidence: dict[str, Any] | None = None
    ) -> AliasTarget:
        """Verify ``previous`` and swap it with the champion; return the new champion.

        Raises:
            ModelStoreError: There is no earlier champion, it fails a check, or the store is not
                writable.
        """
        with self._writing("roll back in"):
            champion, previous = self.resolve("champion"), self._aliases.read("previous")
            if previous in {None, champion}:
                raise ModelStoreError(f"{self.folder} has no earlier champion; promote a version instead")
            target = self.resolve("previous")
            load_version(self._versions / target.version, target.manifest_sha256, self._public_key)
            self._aliases.switch("champion", target, reason=reason, actor=actor, evidence=evidence)
            self._aliases.switch("previous", champion, reason=reason, actor=actor)
        return target

    def evaluation(self, version_or_alias: str) -> Evaluation | None:
        """Return the evaluation of a version; ``None`` for a version of an older release.

        Raises:
            ModelStoreError: There is no such version or alias, or its evaluation is damaged.
        """
        from model_store.evaluation import Evaluation  # noqa: PLC0415 - a scorer does without

        folder, expected_sha256 = self._locate(version_or_alias)
        manifest, _ = read_manifest(folder, expected_sha256, self._public_key)
        if EVALUATION_FILE not in manifest.files:
            return None
        return Evaluation.model_validate_json(read_verified(folder, manifest, EVALUATION_FILE))

    def rethreshold(
        self, version_or_alias: str, criterion: ThresholdCriterion, *, provenance: Provenance | None = None
    ) -> str:
        """Add a version that differs in its threshold only, and return its id.

        Raises:
            ModelStoreError: There is no such version, its evaluation was not kept, or no threshold
                fulfils the criterion.
        """
        from model_store.evaluation import with_decisions  # noqa: PLC0415 - a scorer does without

        manifest, contents = self._read(version_or_alias)
        evaluation = self.evaluation(version_or_alias)
        if evaluation is None:
            raise ModelStoreError(f"version {manifest.version} has no evaluation.json; train it again")
        try:
            threshold = evaluation.curve.threshold(criterion)
        except ValueError as error:
            raise ModelStoreError(f"version {manifest.version}: {error}") from error
        hits = evaluation.curve.counts_at(threshold.value)
        metrics = manifest.metrics.model_copy(
            update={
                "cross_validated": with_decisions(manifest.metrics.cross_validated, *hits),
                "held_out": with_decisions(
                    manifest.metrics.held_out, *evaluation.held_out_curve.counts_at(threshold.value)
                ),
            }
        )
        baseline = Baseline.model_validate_json(contents[BASELINE_FILE]).model_copy(
            update={"predicted_positive_ratio": sum(hits) / evaluation.curve.rows}
        )
        return self._derive(
            manifest,
            {**contents, BASELINE_FILE: canonical_json(baseline)},
            provenance,
            {"threshold": threshold, "metrics": metrics},
        )

    def migrate(self, version_or_alias: str, *, provenance: Provenance | None = None) -> Migration:
        """Add a version for the installed libraries whose scores are equal to the last bit.

        Raises:
            ModelStoreError: There is no such version, it needs no migration, or its scores differ.
        """
        from model_store import estimator as estimators  # noqa: PLC0415 - imports scikit-learn

        manifest, contents = self._read(version_or_alias)
        version = manifest.version
        if LINEAR_FILE in contents:
            raise ModelStoreError(f"version {version} is linear: it loads with any library versions")
        estimator = estimators.unpickled(version, contents[MODEL_FILE], other_versions=True)
        estimators.check_classifier(estimator)
        model = estimators.probability_model(estimator, manifest.input_format)
        rows = self_test.from_lines(contents[SELF_TEST_FILE])
        differences = self_test.differences(rows, model)
        if differences.any():  # also if one is NaN
            lines = [str(index + 1) for index in differences.nonzero()[0]]
            raise ModelStoreError(
                f"version {version} is not migrated: with the installed libraries {len(lines)} of its "
                f"{len(rows)} self-test rows get other probabilities, by at most {differences.max():.3g}: "
                f"{SELF_TEST_FILE}, line {', '.join(lines[:10])}{', …' if len(lines) > 10 else ''}; "  # noqa: PLR2004
                "train it again"
            )
        content, libraries = estimators.pickled(estimator)
        contents |= {MODEL_FILE: content}
        if isinstance(model, LinearModel):  # from a release that did not store the numbers
            contents |= {LINEAR_FILE: model.to_json()}
        leaves = estimators.leaf_numbers(
            estimator, estimators.format_inputs(self_test.input_rows(rows), manifest.input_format)
        )
        added = self._derive(manifest, contents, provenance, {"libraries": libraries})
        return Migration(
            added, len(rows), None if leaves is None else sum(len(set(column)) for column in leaves.T)
        )

    def remove(self, version: str) -> None:
        """Delete a version that no alias names.

        Raises:
            ModelStoreError: There is no such version, an alias names it, or the store is not writable.
        """
        if version in ALIASES:
            raise ModelStoreError(f"{version} is an alias; name the version to remove")
        folder, _ = self._locate(version)
        with self._writing("remove a version from"):
            for alias in ALIASES:
                target = self._aliases.read(alias)
                if target and target.version == version:
                    raise ModelStoreError(f"version {version} is the {alias}; promote another one first")
            removed = self._versions / ".removed"
            shutil.rmtree(removed, ignore_errors=True)
            folder.rename(removed)  # readers see it disappear at once
            shutil.rmtree(removed)
            files.sync_folder(self._versions)

    def export(self, version_or_alias: str, folder: Path) -> str:
        """Copy a version's verified files to a new folder; return the version's id.

        Raises:
            ModelStoreError: There is no such version, it is damaged, or the folder is not writable.
        """
        manifest, contents = self._read(version_or_alias)
        source = self._versions / manifest.version
        with _os_errors(f"export to {folder}"):
            contents[MANIFEST_FILE] = (source / MANIFEST_FILE).read_bytes()
            if (source / SIGNATURE_FILE).exists():
                contents[SIGNATURE_FILE] = (source / SIGNATURE_FILE).read_bytes()
            folder.mkdir(parents=True)
            for name, content in contents.items():
                files.write_new(folder / name, content, _READ_ONLY)
        return manifest.version

    def sign(self, version_or_alias: str, key_file: Path, ask_passphrase: Callable[[], str]) -> str:
        """Verify a version's files and sign its manifest; return the version's id.

        Args:
            version_or_alias: The version.
            key_file: The private Ed25519 key, PEM.
            ask_passphrase: Returns the passphrase of the key; called if the key is encrypted.

        Raises:
            ModelStoreError: There is no such version, it is damaged, the key cannot be used, or the
                store is not writable.
        """
        folder, expected_sha256 = self._locate(version_or_alias)
        loaded = load_version(folder, expected_sha256)
        content = (folder / MANIFEST_FILE).read_bytes()
        if digest(content) != loaded.manifest_sha256:
            raise ModelStoreError(f"{MANIFEST_FILE} of version {loaded.version} has just changed")
        signature = sign(content, key_file, ask_passphrase)
        with self._writing("sign a version in"):
            files.replace_file(folder / SIGNATURE_FILE, signature, _READ_ONLY)
        return loaded.version

    def _read(self, version_or_alias: str) -> tuple[Manifest, dict[str, bytes]]:
        """Return a version's manifest and its other files, verified."""
        folder, expected_sha256 = self._locate(version_or_alias)
        manifest, _ = read_manifest(folder, expected_sha256, self._public_key)
        return manifest, {name: read_verified(folder, manifest, name) for name in manifest.files}

    def _derive(
        self,
        manifest: Manifest,
        contents: dict[str, bytes],
        provenance: Provenance | None,
        changes: dict[str, Any],
    ) -> str:
        """Add a version that differs from another one in a few fields."""
        made = (provenance or Provenance()).model_copy(update={"parent": manifest.version})
        return self._add(manifest.model_copy(update={**changes, "provenance": made}), contents)

    @property
    def _versions(self) -> Path:
        return self.folder / "versions"

    def _locate(self, version_or_alias: str) -> tuple[Path, str | None]:
        """Return the folder of a version, and the expected digest of its manifest if an alias holds one."""
        if version_or_alias in ALIASES:
            target = self.resolve(version_or_alias)
            return self._versions / target.version, target.manifest_sha256
        folder = self._versions / version_or_alias
        if not (PLAIN_NAME.fullmatch(version_or_alias) and folder.is_dir()):
            close = difflib.get_close_matches(version_or_alias, [*ALIASES, *self.versions()], 1, 0.5)
            meant = f"did you mean {close[0]}?" if close else "see: purchase-stream models ls"
            raise ModelStoreError(f"no version or alias {version_or_alias!r} in {self.folder}; {meant}")
        return folder, None

    def _publish(self, version: str, contents: dict[str, bytes]) -> None:
        """Write a version's files to a temporary folder, then rename the folder into place."""
        unfinished = self._versions / ".unfinished"  # one name is enough: the writer holds the lock
        shutil.rmtree(unfinished, ignore_errors=True)
        unfinished.mkdir()
        for name, content in contents.items():
            files.write_new(unfinished / name, content, _READ_ONLY)
        files.sync_folder(unfinished)
        unfinished.rename(self._versions / version)
        files.sync_folder(self._versions)

    @contextmanager
    def _writing(self, action: str) -> Iterator[None]:
        """Hold the writers' lock, and translate errors of the file system."""
        with _os_errors(f"{action} {self.folder}"):
            self._versions.mkdir(parents=True, exist_ok=True)
            with files.locked(self.folder / ".lock"):
                yield


@contextmanager
def _os_errors(action: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        where = f" ({os.fsdecode(error.filename)})" if error.filename else ""
        raise ModelStoreError(f"cannot {action}: {error.strerror or error}{where}") from error
