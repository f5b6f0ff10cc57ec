"""The command line: help, version, completion, and failures in one line."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator

import pytest
from typer.core import TyperCommand, TyperGroup
from typer.testing import CliRunner

from consumer.cli import VERBS, app, load_verb, main


def commands(name: str) -> Iterator[tuple[str, TyperCommand | TyperGroup]]:
    """Yield a verb, and the verbs of a group."""
    command = load_verb(name)
    yield name, command
    if isinstance(command, TyperGroup):
        for inner, verb in command.commands.items():
            assert isinstance(verb, TyperCommand)
            yield f"{name} {inner}", verb


@pytest.mark.parametrize("name", VERBS)
def test_the_help_of_every_verb_has_an_example(name: str) -> None:
    """And a description; flags have no type."""
    assert load_verb(name).help
    for words, command in commands(name):
        assert (command.epilog or "").startswith("Example: purchase-stream ")
        assert f" {words}" in (command.epilog or "")
        shown = CliRunner().invoke(app, [*words.split(), "--help"], prog_name="purchase-stream")
        assert shown.exit_code == 0
        assert "Example: purchase-stream" in shown.stdout
        assert "<bool>" not in shown.stdout


def test_help_and_version_import_no_verb() -> None:
    """They answer without librdkafka, NumPy and scikit-learn."""
    script = (
        "import sys; from consumer.cli import main\n"
        "try: main(['--help'])\n"
        "finally: print(sorted({'numpy', 'sklearn', 'confluent_kafka', 'starlette'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)  # noqa: S603
    assert done.stdout.splitlines()[-1] == "[]"
    assert all(name in done.stdout for name in VERBS)


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    """Name and version, as the contract says."""
    main(["--version"])
    assert capsys.readouterr().out == "purchase-stream 0.1.0\n"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["modls"], "purchase-stream: No such command 'modls'. Did you mean 'models'? (--help shows how)\n"),
        (["dlq", "shw"], "purchase-stream: No such command 'shw'. Did you mean 'show'? (--help shows how)\n"),
    ],
)
def test_a_misspelt_verb_is_named_with_the_nearest(
    arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """In one line, with the exit code of a wrong usage."""
    with pytest.raises(SystemExit) as end:
        main(arguments)
    assert (end.value.code, capsys.readouterr().err) == (64, said)


@pytest.mark.parametrize("arguments", [[], ["dlq"]])
def test_a_group_alone_shows_its_help(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """On standard error, as nothing was done."""
    with pytest.raises(SystemExit) as end:
        main(arguments)
    assert end.value.code == 64
    assert "Commands:\n" in capsys.readouterr().err


def test_a_shell_completes_verbs() -> None:
    """Top-level verbs, and those of a group."""
    for line, word, expected in (
        ("purchase-stream d", "1", {"demo", "doctor", "dlq"}),
        ("purchase-stream dlq sh", "2", {"show"}),
    ):
        done = subprocess.run(
            [sys.executable, "-m", "consumer"],
            env=os.environ
            | {"_PURCHASE_STREAM_COMPLETE": "complete_bash", "COMP_WORDS": line, "COMP_CWORD": word},
            capture_output=True,
            text=True,
            check=False,
        )
        assert set(done.stdout.split()) == expected, done.stderr
