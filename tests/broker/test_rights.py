"""Roles and verbs on a Kafka that grants exactly the rights that `acls` prints for them, or one fewer."""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import httpx
import pytest

from consumer.ops.acls import Grant, User, grants
from consumer.settings import Settings
from tests.support.locked_stream import LockedStream, Running
from tests.support.markdown_tables import rows
from tests.support.secured_kafka import Right, SecuredKafka

pytestmark = pytest.mark.broker

ROLES: Final = (User.SCORE, User.MONITOR, User.SERVE)

VERBS: Final = {
    User.PRODUCE: ("produce --count 5", "5 events sent"),
    User.TOPICS_CREATE: ("topics create", "exists, 1 partitions"),
    User.AUDIT_VERIFY: ("audit verify --until-idle", "events"),
    User.AUDIT_REBUILD: ("--set audit.path={user}.jsonl audit rebuild", "the monitor resumes after them"),
    User.REPORT_TOPIC: ("report --topic", "predictions of 1 model versions"),
    User.WHY: ("why 0:{rejected}", "dead letter"),
    User.DLQ_LIST: ("dlq list", "dead letters"),
    User.DLQ_STATS: ("dlq stats", "signatures"),
    User.DLQ_SHOW: ("dlq show 0:0", "dead letter 0:0"),
    User.DLQ_REPLAY: ("dlq replay --include-rejected --code tombstone", "sent to"),
    User.DLQ_REPLAY_SKIP_STALE: ("dlq replay --include-rejected --skip-stale --code tombstone", "sent to"),
    User.DLQ_REPAIR: ("dlq repair --code field_invalid --set days_on_platform=1", "sent to"),
    User.ERASE: ("erase student-000000 --dry-run", "monitor's state"),
    User.MODELS_REPLAY: ("models replay --topic --version champion", ""),
    User.TRAIN_FROM_OUTCOMES: (
        "--set model_store.path={user} train --from-outcomes --topic",
        "no outcome was observed after a prediction",
    ),
    User.DOCTOR: ("doctor", "ok    transactions"),
}
"""What a verb is called with, and what it says then."""

EXIT_CODES: Final = {User.TRAIN_FROM_OUTCOMES: 65}
"""Where it is not 0: the stream has no outcomes to train on."""

SLOW: Final = (User.MODELS_REPLAY, User.TRAIN_FROM_OUTCOMES)
"""Verbs that load scikit-learn, left to `make faults`."""

PLACEHOLDER: Final = "GROUP"
"""Stands for the name of the stream, which the tests' ids must not contain."""


def placeholders(role: User) -> list[Grant]:
    """Return the rights of a role for a stream called ``GROUP``."""
    topics = {topic: f"{PLACEHOLDER}.{topic}" for topic in Settings().topics.model_dump()}
    return grants(Settings.model_validate({"kafka": {"group_id": PLACEHOLDER}, "topics": topics}), role)


@pytest.fixture(scope="module")
def stream(
    secured: SecuredKafka, trained_store: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[LockedStream]:
    """A stream whose topics and events were made by users with the least rights."""
    stream = LockedStream(secured, trained_store, tmp_path_factory.mktemp("locked"))
    for role, words in (
        (User.TOPICS_CREATE, "topics create --partitions 1"),
        (User.PRODUCE, "produce --count 40 --broken 0.4"),
    ):
        code, said = stream.run(stream.add_user(*stream.rights(role)), words)
        assert code == 0, said
    yield stream
    stream.close()


@pytest.fixture(scope="module")
def roles(stream: LockedStream) -> Iterator[dict[User, Running]]:
    """The three roles, each with the least rights, after every event was decided."""
    with contextlib.ExitStack() as running:
        roles = {
            role: running.enter_context(stream.running(role, stream.add_user(*stream.rights(role))))
            for role in ROLES
        }
        for role in roles.values():
            role.await_ready()
        stream.await_decided(roles[User.SCORE])
        yield roles


@pytest.fixture(scope="module")
def rejected(stream: LockedStream, roles: dict[User, Running]) -> int:
    """The offset of an event that became a dead letter."""
    stream.await_decided(roles[User.SCORE])
    _, said = stream.run(stream.add_user(*stream.rights(User.DLQ_LIST)), "dlq list --limit 1 --json")
    return int(json.loads(said)["newest"][0]["letter"]["source"]["offset"])


def n_lines(stream: LockedStream) -> int:
    """Return the number of lines of the audit log."""
    return stream.settings.audit.path.read_bytes().count(b"\n")


def test_the_roles_work_with_the_rights_that_acls_prints(
    stream: LockedStream, roles: dict[User, Running]
) -> None:
    """They decide all events, log each prediction, and answer over HTTP; none reports a missing right."""
    student = {
        "student_country": "NL", "days_on_platform": 9, "minutes_watched": 120.5, "courses_started": 2,
        "practice_exams_started": 1, "practice_exams_passed": 1, "minutes_spent_on_exams": 8,
    }  # fmt: skip
    # Another test may have taken a right away for a while, so only the output from here on counts.
    before = {user: len(role.process.output()) for user, role in roles.items()}
    answer = httpx.post(f"{roles[User.SERVE].url}/predict", json=student, timeout=30)
    assert 0 <= answer.json()["predicted_purchase_probability"] <= 1
    logged = n_lines(stream)
    stream.run(stream.add_user(*stream.rights(User.PRODUCE)), "produce --count 7")
    roles[User.MONITOR].await_that(lambda: n_lines(stream) >= logged + 7, "events are not logged")
    for user, role in roles.items():
        assert "lacks the right" not in role.process.output()[before[user] :]


@pytest.mark.parametrize(
    "verb", [pytest.param(verb, marks=[pytest.mark.faults] if verb in SLOW else []) for verb in VERBS]
)
def test_a_verb_works_with_the_rights_that_acls_prints(
    stream: LockedStream, roles: dict[User, Running], rejected: int, verb: User
) -> None:
    """And says nothing about rights."""
    words, expected = VERBS[verb]
    stream.await_decided(roles[User.SCORE])
    user = stream.add_user(*stream.rights(verb))
    code, said = stream.run(user, words.format(user=user, rejected=rejected))
    assert code == EXIT_CODES.get(verb, 0), said
    assert expected in said
    assert "lacks the right" not in said


def test_every_role_and_verb_is_tried() -> None:
    """A new one has to be added to this file."""
    assert {*VERBS, *ROLES} == set(User)


LATER: Final[dict[str, Right]] = {
    "Read on the group": ("group", PLACEHOLDER, "Read"),
    "Describe on the group": ("group", PLACEHOLDER, "Describe"),
    "Write on the transactional id": ("transactional-id", f"{PLACEHOLDER}-*", "Write"),
    "Read on the events": ("topic", f"{PLACEHOLDER}.events", "Read"),
    "Read on the predictions": ("topic", f"{PLACEHOLDER}.predictions", "Read"),
    "Write on the predictions": ("topic", f"{PLACEHOLDER}.predictions", "Write"),
    "Read on the dead letters": ("topic", f"{PLACEHOLDER}.dead_letters", "Read"),
    "Write on the dead letters": ("topic", f"{PLACEHOLDER}.dead_letters", "Write"),
    "Read on the outcomes": ("topic", f"{PLACEHOLDER}.outcomes", "Read"),
    "Write on the control topic": ("topic", f"{PLACEHOLDER}.control", "Write"),
}
"""The rights in docs/refusals.md that are taken away while a role runs."""

NOT_AT_THE_START: Final = {
    (User.SCORE, LATER["Write on the predictions"]),
    (User.SCORE, LATER["Write on the dead letters"]),
    (User.MONITOR, LATER["Read on the dead letters"]),
    (User.MONITOR, LATER["Read on the outcomes"]),
    (User.MONITOR, LATER["Read on the events"]),
    (User.MONITOR, LATER["Write on the control topic"]),
    (User.MONITOR, LATER["Describe on the group"]),
    (User.ERASE, LATER["Write on the predictions"]),  # only where the topic is compacted
    (User.ERASE, LATER["Write on the dead letters"]),
}
"""Rights without which a role starts, and a verb may end well."""

ALIKE: Final = (User.TOPICS_CREATE, User.DLQ_STATS, User.DLQ_REPLAY_SKIP_STALE, User.DLQ_REPAIR)
"""Verbs whose refusals are tried with another verb or topic already; the rest is left to `make faults`."""


def cases() -> Iterator[Any]:
    """Yield each right of each role and verb that ends it if it is missing."""
    for user in User:
        for i, grant in enumerate(placeholders(user)):
            right = (grant.resource, grant.name + "*" * grant.prefixed, grant.operation)
            if user is User.DOCTOR or (user, right) in NOT_AT_THE_START:
                continue
            marks = [pytest.mark.faults] if user in (User.ERASE, *SLOW) or (user in ALIKE and i) else []
            yield pytest.param(user, right, id=f"{user.value}: {' '.join(right)}", marks=marks)


@pytest.mark.usefixtures("roles")
@pytest.mark.parametrize(("user", "missing"), list(cases()))
def test_a_missing_right_is_named_and_ends_the_command(
    stream: LockedStream, rejected: int, user: User, missing: Right
) -> None:
    """With the operation and the resource, and exit code 78. Without `Read`, `Describe` is missing, too."""
    # A group without offsets reads the outputs, too.
    group = stream.add_group() if user is User.SCORE else stream.group
    kind, placeholder, operation = missing
    name = placeholder.replace(PLACEHOLDER, stream.group if kind == "topic" else group)
    rights = stream.rights(user, group)
    rights.remove((kind, name, operation))
    principal = stream.add_user(*rights)
    words = VERBS[user][0].format(user=principal, rejected=rejected) if user in VERBS else user.value
    code, said = stream.run(principal, words, KAFKA__GROUP_ID=group)
    named = f"({operation}|Describe)" if operation in {"Read", "Write"} else operation
    resource = rf"{kind.replace('-', ' ')} {re.escape(name.removesuffix('*'))}\S*"
    sentence = rf"User:{principal} lacks the right {named} on {resource} \(\w+_AUTHORIZATION_FAILED\)"
    assert re.search(f"^purchase-stream: {sentence}; see: purchase-stream acls$", said, re.MULTILINE), said
    assert code == 78
    assert "FAIL [" not in said, "a raw line of the client"


def taken_away() -> Iterator[Any]:
    """Yield the rows of the table in docs/refusals.md."""
    for role, right, reported in rows("refusals.md", "role"):
        quick = (role, right) in {("score", "Read on the group"), ("score", "Write on the predictions")}
        marks = [] if quick else [pytest.mark.faults]
        yield pytest.param(User(role), right, reported, id=f"{role}: {right}", marks=marks)


@pytest.mark.parametrize(("user", "right", "reported"), list(taken_away()))
def test_a_right_that_is_taken_away_is_reported_until_it_is_back(
    stream: LockedStream, roles: dict[User, Running], user: User, right: str, reported: str
) -> None:
    """The role goes on by itself; nothing that was sent meanwhile is lost."""
    role, platform = roles[user], stream.add_user(*stream.rights(User.PRODUCE))
    kind, placeholder, operation = LATER[right]
    missing: Right = kind, placeholder.replace(PLACEHOLDER, stream.group), operation
    where, _, name = reported.partition(" ")
    named = f"({operation}|Describe)" if operation in {"Read", "Write"} else operation
    sentence = rf"User:{role.user} lacks the right {named} on {kind.replace('-', ' ')} {stream.group}"

    def is_reported() -> bool:
        if user is User.SCORE:
            stream.run(platform, "produce --count 2 --broken 1")
        if where == "log":
            return re.search(sentence, role.process.output()) is not None
        found = role.conditions() if where == "condition" else role.causes()
        return re.search(sentence, found.get(name, "")) is not None

    stream.kafka.revoke(role.user, missing)
    try:
        if right == "Write on the control topic":  # only a change of the recommendation is announced
            with stream.running(user, role.user, AUDIT__PATH="without-control.jsonl") as role:
                role.await_that(is_reported, f"{sentence} is not reported")
                role.await_ready()
        else:
            role.await_that(is_reported, f"{sentence} is not reported")
    finally:
        stream.kafka.allow(role.user, missing)
    roles[user].await_that(
        lambda: not roles[user].conditions() and "lacks the right" not in str(roles[user].causes()),
        "it is not ready again",
    )
    stream.await_decided(roles[User.SCORE])


def test_a_monitor_without_the_control_topic_goes_on_with_the_audit_log(
    stream: LockedStream, roles: dict[User, Running]
) -> None:
    """It says once what is missing, and stays ready."""
    control: Right = "topic", f"{stream.group}.control", "Write"
    user = stream.add_user(*[right for right in stream.rights(User.MONITOR) if right != control])
    log = stream.folder / "own-log.jsonl"
    with stream.running(User.MONITOR, user, AUDIT__PATH=str(log)) as monitor:
        monitor.await_ready()
        sentence = f"User:{user} lacks the right Write on topic {stream.group}.control"
        monitor.await_that(lambda: sentence in monitor.process.output(), "it says nothing")
        n_before = n_lines(stream)
        stream.run(stream.add_user(*stream.rights(User.PRODUCE)), "produce --count 5")
        roles[User.MONITOR].await_that(lambda: n_lines(stream) >= n_before + 5, "events are not logged")
        monitor.await_that(
            lambda: log.read_bytes().count(b"\n") == n_lines(stream), "the two logs differ in length"
        )
        assert monitor.conditions() == {}
        assert monitor.process.output().count(sentence) == 1


def doctor_rights() -> list[Any]:
    """Return each right that `doctor` needs, one of each kind for `make test`."""
    seen: set[tuple[str, str]] = set()
    found = []
    for grant in placeholders(User.DOCTOR):
        kind = (grant.resource, grant.operation)
        marks = [pytest.mark.faults] if kind in seen else []
        seen.add(kind)
        right: Right = grant.resource, grant.name, grant.operation
        found.append(pytest.param(right, id=" ".join(right), marks=marks))
    return found


@pytest.mark.usefixtures("roles")
@pytest.mark.parametrize("missing", doctor_rights())
def test_doctor_names_a_right_that_it_lacks_and_checks_the_rest(stream: LockedStream, missing: Right) -> None:
    """Each check stands by itself."""
    kind, placeholder, operation = missing
    name = placeholder.replace(PLACEHOLDER, stream.group)
    rights = stream.rights(User.DOCTOR)
    rights.remove((kind, name, operation))
    user = stream.add_user(*rights)
    code, said = stream.run(user, "doctor")
    named = f"({operation}|Describe)" if operation == "Read" else operation
    if name == "__consumer_offsets":
        assert "allow Describe on __consumer_offsets" in said
    else:
        assert re.search(f"lacks the right {named} on {kind.replace('-', ' ')} {re.escape(name)} ", said), (
            said
        )
    assert code == (0 if name == "__consumer_offsets" or operation == "Delete" else 78)
    checks = {line[6:].split("  ")[0] for line in said.splitlines() if line[:4] in {"ok  ", "warn", "fail"}}
    assert checks >= {"broker", "topics", "rights", "transactions", "group", "audit log", "ports"}


@pytest.mark.usefixtures("roles")
def test_doctor_says_which_roles_its_user_can_run_and_where_a_scorer_resumes(stream: LockedStream) -> None:
    """The broker tells what this user may do; a group without offsets resumes behind the outputs."""
    group = stream.add_group()
    rights = {*stream.rights(User.DOCTOR, group), *stream.rights(User.SCORE, group)}
    code, said = stream.run(stream.add_user(*rights), "doctor", KAFKA__GROUP_ID=group)
    assert code == 0, said
    assert "rights           score: no right is missing" in said
    assert "cannot run serve: it lacks Write" not in said
    assert f"cannot run monitor: it lacks Read on topic {stream.group}.outcomes" in said
    assert re.search(rf"a scorer resumes behind the last outputs, {stream.group}\.events\[0\] at \d+", said)
