"""``train`` and ``models …``: train a model, and manage the versions in the store."""

from __future__ import annotations

import getpass
import json
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Annotated, Any

import typer

from consumer.cli.context import Context
from consumer.cli.formatting import parse_time
from consumer.dashboard.model_card import render_model_card
from consumer.errors import BadInputError, StartupError, Unavailable, UsageError
from consumer.kafka.schema_registry import writer_schemas
from consumer.ops.model_replay import replay_model
from consumer.ops.outcome_training import outcome_table
from consumer.ops.past import NO_OUTCOMES, Outcomes, Past
from consumer.pipeline.score import ModelFails
from consumer.settings import Settings
from model_store.aliases import ALIASES
from model_store.errors import ModelStoreError
from model_store.estimator import input_format, read_estimator
from model_store.evaluation import Evaluation, ThresholdCriterion
from model_store.inputs import EngagementWeights
from model_store.manifest import Metrics, Provenance
from model_store.promotion import Check, PromotionRefused, judge
from model_store.store import ModelStore
from model_store.synthetic import generate_students
from model_store.training import TrainedModel, assess
from model_store.training import train as fit
from model_store.training_data import TrainingTable, read_training_csv

models = typer.Typer(
    help="Manage the versions in the model store.",
    epilog="Example: purchase-stream models ls",
    no_args_is_help=True,
)

GENERATED_STUDENTS = 20_000
_EXIT_CONFIGURATION = 78

Reason = Annotated[str, typer.Option(help="The reason, recorded in the history.")]
Version = Annotated[str, typer.Argument(help="A version's id, or an alias.")]
Promote = Annotated[bool, typer.Option("--promote", help="Make the new version the champion.")]
CriterionName = Annotated[
    str, typer.Option("--criterion", help="How to choose the threshold: max_f1, cost, precision or fixed.")
]
FalsePositiveCost = Annotated[
    float, typer.Option(help="For cost: the cost of flagging a student who will not buy.")
]
FalseNegativeCost = Annotated[
    float, typer.Option(help="For cost: the cost of missing a student who will buy.")
]
MinPrecision = Annotated[float, typer.Option(help="For precision: the smallest precision to accept.")]
FixedValue = Annotated[float, typer.Option("--value", help="For fixed: the threshold.")]
Seed = Annotated[int, typer.Option(help="The seed of the splits: equal data and seeds give equal results.")]

TimeColumn = Annotated[
    str | None,
    typer.Option(
        help="A column with times, such as occurred_at: fit on earlier students, measure on later ones.",
        metavar="NAME",
    ),
]


Since = Annotated[
    str | None,
    typer.Option(help="Start: a time such as 2026-01-31T12:00Z, or an age: 24h, 7d, 30m.", metavar="T"),
]
Until = Annotated[
    str | None, typer.Option(help="End (exclusive), in the same form. Default: now.", metavar="T")
]
Log = Annotated[Path | None, typer.Option(help="Audit log instead of the configured one.")]
FromTopic = Annotated[
    bool, typer.Option("--topic", help="Read the predictions topic instead of an audit log.")
]


def add_to(app: typer.Typer) -> None:
    """Register the verbs."""
    app.command(epilog="Example: purchase-stream train --data students.csv --promote")(train)
    app.add_typer(models, name="models")


def train(
    context: typer.Context,
    data: Annotated[Path | None, typer.Option(help="CSV with the seven inputs and `purchased`.")] = None,
    time_column: TimeColumn = None,
    promote: Promote = False,
    criterion: CriterionName = "max_f1",
    false_positive_cost: FalsePositiveCost = 1.0,
    false_negative_cost: FalseNegativeCost = 1.0,
    min_precision: MinPrecision = 0.5,
    value: FixedValue = 0.5,
    seed: Seed = 0,
    from_outcomes: Annotated[
        bool,
        typer.Option(
            "--from-outcomes",
            help="Train on past predictions' inputs and the outcomes that followed, instead of --data.",
        ),
    ] = False,
    since: Since = None,
    until: Until = None,
    log: Log = None,
    topic: FromTopic = False,
) -> None:
    """Train a model and add it to the store; without --data, train on generated students."""
    if data and from_outcomes:
        raise UsageError("--data and --from-outcomes name two sources; give one of them")
    if not from_outcomes and (since or until or log or topic):
        raise UsageError("--since, --until, --log and --topic belong to --from-outcomes")
    chosen = _criterion(criterion, false_positive_cost, false_negative_cost, min_precision, value)
    settings = _settings(context)
    weights = settings.training
    if from_outcomes:
        past = _past(settings, since, until, log, topic=topic)
        table = outcome_table(past, past.outcomes(), settings.outcomes.maturity_days)
    elif data:
        table = read_training_csv(data, _echo_progress, time_column)
    elif time_column:
        raise UsageError("--time-column needs --data FILE")
    else:
        table = generate_students(GENERATED_STUDENTS, seed)
    try:
        engagement_weights = EngagementWeights(
            minutes_watched=weights.weight_minutes_watched,
            days_on_platform=weights.weight_days_on_platform,
            courses_started=weights.weight_courses_started,
        )
    except ValueError as error:
        raise UsageError(str(error)) from error
    trained = fit(table, weights=engagement_weights, criterion=chosen, seed=seed)
    _echo_dialect(table)
    typer.echo(f"trained on {table.rows} students from {table.source}, {table.positives} of them buyers")
    _store_version(_store(settings), trained, promote=promote, reason="train --promote")


@models.command(
    epilog="Example: purchase-stream models add boosted.joblib --data students.csv --promote",
)
def add(
    context: typer.Context,
    file: Annotated[Path, typer.Argument(help="A fitted classifier, saved with joblib.dump.")],
    data: Annotated[Path, typer.Option(help="CSV with the seven inputs and `purchased`.")],
    time_column: TimeColumn = None,
    promote: Promote = False,
    unseen: Annotated[
        bool, typer.Option("--unseen", help="The model was not fitted on these rows: measure it as it is.")
    ] = False,
    inputs: Annotated[
        str,
        typer.Option(
            help="How the classifier receives the inputs, as container-country; auto tries all formats."
        ),
    ] = "auto",
    criterion: CriterionName = "max_f1",
    false_positive_cost: FalsePositiveCost = 1.0,
    false_negative_cost: FalseNegativeCost = 1.0,
    min_precision: MinPrecision = 0.5,
    value: FixedValue = 0.5,
    seed: Seed = 0,
) -> None:
    """Add your own classifier: measure it on the data, choose its threshold, compute its baseline.

    Unpickling FILE runs code: add only files that you trust.
    """
    chosen = _criterion(criterion, false_positive_cost, false_negative_cost, min_precision, value)
    store = _store(_settings(context))
    estimator = read_estimator(file)
    table = read_training_csv(data, _echo_progress, time_column)
    try:
        given = None if inputs == "auto" else input_format(estimator, inputs, table.inputs)
    except ValueError as error:
        raise UsageError(f"--inputs {inputs}: {error}") from error
    trained = assess(table, estimator, unseen=unseen, input_format=given, criterion=chosen, seed=seed)
    how = "as it is" if unseen else "as clones, fitted again for each fold"
    _echo_dialect(table)
    typer.echo(
        f"measured on {table.rows} students from {table.source}, {table.positives} of them buyers, {how}"
    )
    typer.echo(f"it receives: {trained.input_format}")
    _store_version(store, trained, promote=promote, reason="models add --promote")


@models.command("ls", epilog="Example: purchase-stream models ls")
def list_versions(context: typer.Context) -> None:
    """List versions, oldest first, with their quality and aliases; name damaged versions."""
    store = _store(_settings(context))
    names: dict[str, list[str]] = {}
    problems = []
    for alias in ALIASES:
        try:
            target = store.target(alias)
        except ModelStoreError as error:
            problems.append(str(error))
        else:
            if target:
                names.setdefault(target.version, []).append(alias)
    for version in store.versions():
        try:
            manifest = store.manifest(version)
        except ModelStoreError as error:
            problems.append(str(error))
            continue
        quality = manifest.metrics.cross_validated
        low, high = quality.intervals.get("average_precision", (quality.average_precision,) * 2)
        typer.echo(
            f"{version}  AP {quality.average_precision:.3f} [{low:.3f}, {high:.3f}]  "
            f"AUC {quality.roc_auc:.3f}  threshold {manifest.threshold.value:.4f}  "
            f"{', '.join(names.get(version, []))}".rstrip()
        )
    for problem in problems:
        typer.echo(problem, err=True)
    if problems:
        raise typer.Exit(_EXIT_CONFIGURATION)


@models.command(epilog="Example: purchase-stream models show champion")
def show(context: typer.Context, version: Version = "champion") -> None:
    """Print a version's manifest, including its quality, its threshold and its cost in µs per event."""
    typer.echo(_store(_settings(context)).manifest(version).model_dump_json(indent=2))


@models.command(epilog="Example: purchase-stream models slices champion")
def slices(context: typer.Context, version: Version = "champion") -> None:
    """Print a version's quality by country and activity."""
    for item in _evaluation(_store(_settings(context)), version).slices:
        quality = item.quality
        low, high = quality.intervals["average_precision"] if quality else (0.0, 1.0)
        figures = (
            f"AP {quality.average_precision:.3f} [{low:.3f}, {high:.3f}]" if quality else "too few buyers"
        )
        group = f"{item.feature}: {item.group}"
        typer.echo(f"{group:<45} {item.rows:>8} rows {item.positives:>6} buyers  {figures}")


@models.command(epilog="Example: purchase-stream models card champion --out card.html")
def card(
    context: typer.Context,
    version: Version = "champion",
    out: Annotated[Path, typer.Option(help="File to write.")] = Path("model-card.html"),
) -> None:
    """Write a version's model card: quality, calibration, thresholds and slices as one HTML file."""
    store = _store(_settings(context))
    manifest = store.manifest(version)
    page = render_model_card(manifest, _evaluation(store, version), judge(store, manifest.version))
    try:
        out.write_bytes(page)
    except OSError as error:
        raise StartupError(f"{out} cannot be written: {error.strerror}; name another with --out") from error
    typer.echo(f"{out}: model card of version {manifest.version}")


@models.command(epilog="Example: purchase-stream models history")
def history(context: typer.Context) -> None:
    """List all switches of aliases with their reasons and findings, oldest first."""
    for switch in _store(_settings(context)).history():
        typer.echo(
            f"{switch.get('at')}  {switch.get('actor')}  {switch.get('alias')}: "
            f"{switch.get('from') or 'none'} → {switch.get('to') or 'none'}  "
            f"{switch.get('reason') or ''}".rstrip()
        )
        for name, evidence in (switch.get("evidence") or {}).items():
            checked = isinstance(evidence, dict) and "finding" in evidence
            finding = _finding(evidence["passed"], evidence["finding"]) if checked else evidence
            typer.echo(f"    {name}: {finding}")


@models.command(epilog="Example: purchase-stream models diff previous champion")
def diff(context: typer.Context, first: Version, second: Version) -> None:
    """Print the fields in which the manifests of two versions differ."""
    store = _store(_settings(context))
    left, right = (_flat(store.manifest(version).model_dump(mode="json")) for version in (first, second))
    for name in sorted(left.keys() | right.keys()):
        if left.get(name) != right.get(name) and not name.startswith("files."):
            typer.echo(f"{name}: {left.get(name)} → {right.get(name)}")


@models.command(epilog="Example: purchase-stream models rm 20261122T101500Z-1a2b3c4d")
def rm(context: typer.Context, version: Version) -> None:
    """Delete a version that no alias names. `why` and `report` can no longer explain its predictions."""
    _store(_settings(context)).remove(version)
    typer.echo(f"removed {version}")


@models.command(epilog="Example: purchase-stream models gc --keep 5")
def gc(
    context: typer.Context,
    keep: Annotated[int, typer.Option(min=0, help="The number of newest versions to keep.")] = 5,
) -> None:
    """Delete the oldest versions, except those that an alias names."""
    store = _store(_settings(context))
    named = {target.version for target in store.aliases().values()}
    versions = store.versions()
    for version in versions[: max(len(versions) - keep, 0)]:
        if version not in named:
            store.remove(version)
            typer.echo(f"removed {version}")


@models.command(epilog="Example: purchase-stream models export champion ./champion")
def export(
    context: typer.Context, version: Version, folder: Annotated[Path, typer.Argument(help="A new folder.")]
) -> None:
    """Copy a version's verified files to a new folder."""
    exported = _store(_settings(context)).export(version, folder)
    typer.echo(f"exported {exported} to {folder}")


@models.command(epilog="Example: purchase-stream models sign champion --key private.pem")
def sign(
    context: typer.Context,
    version: Version,
    key: Annotated[Path, typer.Option(help="A private Ed25519 key, PEM.")],
) -> None:
    """Verify a version and sign its manifest, for scorers with model_store.public_key_file."""
    settings = _settings(context).model_store
    store = ModelStore(settings.path, settings.model)  # the version need not be signed yet
    signed = store.sign(version, key, lambda: getpass.getpass(f"Passphrase of {key}: "))
    typer.echo(f"signed {signed}")


@models.command(
    epilog="Example: purchase-stream models threshold champion --criterion precision --min-precision 0.9"
)
def threshold(
    context: typer.Context,
    version: Version = "champion",
    criterion: CriterionName = "max_f1",
    false_positive_cost: FalsePositiveCost = 1.0,
    false_negative_cost: FalseNegativeCost = 1.0,
    min_precision: MinPrecision = 0.5,
    value: FixedValue = 0.5,
) -> None:
    """Choose another threshold for a version, without training again; add the result as a new version."""
    chosen = _criterion(criterion, false_positive_cost, false_negative_cost, min_precision, value)
    store = _store(_settings(context))
    added = store.rethreshold(version, chosen, provenance=_provenance())
    manifest = store.manifest(added)
    typer.echo(f"threshold {manifest.threshold.value:.4f} ({criterion})")
    typer.echo(_quality_lines(manifest.metrics)[-1])
    typer.echo(f"activate it with: purchase-stream models promote {added}")


@models.command(epilog="Example: purchase-stream models migrate champion --promote")
def migrate(context: typer.Context, version: Version = "champion", promote: Promote = False) -> None:
    """Prove that a version scores equally with the installed libraries, and add it for them."""
    store = _store(_settings(context))
    migration = store.migrate(version, provenance=_provenance())
    reached = "" if migration.leaves is None else f", which reach {migration.leaves} leaves of its trees,"
    typer.echo(
        f"all {migration.rows} self-test rows{reached} score equally to the last bit with the installed "
        f"libraries; added as {migration.version}"
    )
    if promote:
        _promote(store, migration.version, reason="models migrate --promote")


@models.command(epilog="Example: purchase-stream models replay --version challenger --since 7d")
def replay(
    context: typer.Context,
    version: Annotated[str, typer.Option(help="The version to score with, or an alias.")],
    since: Since = None,
    until: Until = None,
    log: Log = None,
    topic: FromTopic = False,
    as_json: Annotated[bool, typer.Option("--json", help="Answer in JSON.")] = False,
) -> None:
    """Score the past with another version: who gets another decision, and was it right?

    Precision and recall need the outcomes topic. Nothing is published.
    """
    settings = _settings(context)
    model = _store(settings).load(version)
    past = _past(settings, since, until, log, topic=topic)
    try:
        result = replay_model(past, model, _outcomes(past), _echo_progress)
    except ModelFails as error:
        raise BadInputError(f"version {model.version} fails on the past's inputs: {error}") from error
    if as_json:
        typer.echo(json.dumps(result.as_json(), indent=2))
        return
    for line in result.lines():
        typer.echo(line)


@models.command(epilog="Example: purchase-stream models verify champion")
def verify(context: typer.Context, version: Version = "champion") -> None:
    """Check a version's digests, library versions and feature names, and run its self-test."""
    manifest = _store(_settings(context)).verify(version)
    typer.echo(f"{manifest.version} is good")


@models.command(
    epilog="Example: purchase-stream models promote 20261122T101500Z-1a2b3c4d --reason 'new term'"
)
def promote(
    context: typer.Context,
    version: Version,
    reason: Reason = "",
    data: Annotated[
        Path | None, typer.Option(help="CSV of students that neither version was fitted on, to compare both.")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Promote despite failed checks.")] = False,
) -> None:
    """Check a version and make it the champion; running scorers switch to it within seconds."""
    if force and not reason:
        raise UsageError("--force needs --reason TEXT, which is recorded in the history")
    table = read_training_csv(data, _echo_progress) if data else None
    _promote(_store(_settings(context)), version, reason=reason, table=table, force=force)


@models.command(
    epilog="Example: purchase-stream models challenge 20261122T101500Z-1a2b3c4d --reason 'new term'"
)
def challenge(
    context: typer.Context,
    version: Annotated[str | None, typer.Argument(help="A version's id.")] = None,
    stop: Annotated[bool, typer.Option("--stop", help="End the comparison.")] = False,
    reason: Reason = "",
) -> None:
    """Compare a version with the champion on the live stream; its predictions are not published.

    The monitor scores it beside the champion: see its page and /monitoring/challenger.
    """
    if (version is None) != stop:
        raise UsageError("give the version to compare, or --stop")
    store = _store(_settings(context))
    if version is None:
        stopped = store.withdraw("challenger", reason=reason, actor=getpass.getuser())
        typer.echo(f"{stopped} is no longer the challenger" if stopped else "there is no challenger")
        return
    champion = store.resolve("champion").version
    if store.manifest(version).version == champion:
        raise UsageError(f"{champion} is the champion; name another version")
    target = store.promote(version, "challenger", reason=reason, actor=getpass.getuser()).target
    typer.echo(f"challenger is {target.version}, compared with {champion}")


@models.command(epilog="Example: purchase-stream models rollback --reason 'flags too many'")
def rollback(context: typer.Context, reason: Reason = "") -> None:
    """Make the previous champion the champion again."""
    target = _store(_settings(context)).rollback(reason=reason, actor=getpass.getuser())
    typer.echo(f"champion is {target.version}")


def _store_version(store: ModelStore, trained: TrainedModel, *, promote: bool, reason: str) -> None:
    """Add a version to the store, print its quality, and promote it if asked to."""
    version = store.add(trained, provenance=_provenance())
    for line in _quality_lines(trained.metrics):
        typer.echo(line)
    threshold, cost = trained.threshold, trained.cost
    typer.echo(f"threshold {threshold.value:.4f} ({threshold.criterion})")
    typer.echo(f"cost: {cost.batch_us:g} µs per event in a batch, {cost.single_us:g} µs for an event alone")
    if not trained.batch_invariant:
        typer.echo("its last bits depend on the batch: the same event may differ in the 16th decimal")
    typer.echo(f"version {version} in {store.folder}")
    if promote:
        _promote(store, version, reason=reason)
    else:
        typer.echo(f"activate it with: purchase-stream models promote {version}")


def _echo_progress(rows: int) -> None:
    if sys.stderr.isatty():
        typer.echo(f"\r{rows} rows read", err=True, nl=False)


def _echo_dialect(table: TrainingTable) -> None:
    if table.dialect not in {"", "UTF-8, delimiter ,"}:
        typer.echo(f"read {table.source} as {table.dialect}")


def _promote(
    store: ModelStore, version: str, *, reason: str, table: TrainingTable | None = None, force: bool = False
) -> None:
    """Promote a version, and print what its checks found.

    Raises:
        ModelStoreError: A check failed, and the user does not insist.
    """
    try:
        promotion = store.promote(version, reason=reason, actor=getpass.getuser(), table=table, force=force)
    except PromotionRefused as refused:
        _echo_checks(refused.checks)
        raise
    _echo_checks(promotion.checks)
    typer.echo(f"champion is {promotion.target.version}")


def _echo_checks(checks: Sequence[Check]) -> None:
    for check in checks:
        typer.echo(f"{check.name}: {_finding(check.passed, check.finding)}")


def _finding(passed: bool, finding: str) -> str:  # noqa: FBT001 - in the order in which it is written
    return finding if passed else f"FAILED: {finding}"


def _evaluation(store: ModelStore, version: str) -> Evaluation:
    evaluation = store.evaluation(version)
    if evaluation is None:
        raise ModelStoreError(f"version {version} is of a release that kept no evaluation; train it again")
    return evaluation


def _past(settings: Settings, since: str | None, until: str | None, log: Path | None, *, topic: bool) -> Past:
    """Return the span of the past that the options name."""
    if topic and log:
        raise UsageError("--topic and --log name two sources; give one of them")
    now = datetime.now(UTC)
    source = None if topic else log or settings.audit.path
    start, stop = parse_time(since, now, "--since"), parse_time(until, now, "--until")
    return Past(settings, writer_schemas(settings), start, stop, source)


def _outcomes(past: Past) -> Outcomes:
    """Return the outcomes; none if the past is a log and Kafka does not answer."""
    try:
        return past.outcomes()
    except Unavailable as error:
        if past.needs_kafka:
            raise
        typer.echo(f"outcomes are not read: {error}", err=True)
        return NO_OUTCOMES


def _flat(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in tree.items():
        flat |= _flat(value, f"{prefix}{name}.") if isinstance(value, dict) else {prefix + name: value}
    return flat


def _quality_lines(metrics: Metrics) -> list[str]:
    quality = metrics.cross_validated

    def with_interval(name: str, value: float) -> str:
        low, high = quality.intervals.get(name, (value, value))
        return f"{name.replace('_', ' ')} {value:.3f} [{low:.3f}, {high:.3f}]"

    ranking = [
        with_interval("average_precision", quality.average_precision),
        with_interval("roc_auc", quality.roc_auc),
        with_interval("brier_score", quality.brier_score),
    ]
    decisions = [
        with_interval("precision", quality.precision),
        with_interval("recall", quality.recall),
    ]
    return [
        f"on {'later ' * (metrics.split == 'time')}students that it was not fitted on: {', '.join(ranking)}",
        f"at the threshold: {', '.join(decisions)} (95 % intervals)",
    ]


def _criterion(
    name: str,
    false_positive_cost: float,
    false_negative_cost: float,
    min_precision: float,
    value: float,
) -> ThresholdCriterion:

    if name not in ("max_f1", "cost", "precision", "fixed"):
        raise UsageError(f"--criterion {name}: max_f1, cost, precision or fixed")
    criterion: Any = name
    try:
        return ThresholdCriterion(criterion, false_positive_cost, false_negative_cost, min_precision, value)
    except ValueError as error:
        raise UsageError(str(error)) from error


def _provenance() -> Provenance:

    command = " ".join(["purchase-stream", *sys.argv[1:]])
    return Provenance(
        user=getpass.getuser(),
        command=command,
        software=f"purchase-stream {metadata.version('purchase-stream')}",
    )


def _settings(context: typer.Context) -> Settings:
    given: Context = context.obj
    return given.settings()


def _store(settings: Settings) -> ModelStore:

    return settings.model_store.open()
