"""Settings: their sources, which source wins, and the errors about wrong ones."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path

import pytest
from pydantic import ValidationError

from consumer.errors import StartupError
from consumer.settings import ENV_PREFIX, BatchSettings, LinkSettings, Settings, load, masked


@pytest.fixture(autouse=True)
def _nothing_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Work in an empty folder, without our environment variables."""
    monkeypatch.chdir(tmp_path)
    for name in list(os.environ):
        if name.upper().startswith(ENV_PREFIX):
            monkeypatch.delenv(name)


def _secrets(folder: Path, monkeypatch: pytest.MonkeyPatch, **files: str) -> None:
    folder.mkdir()
    for name, content in files.items():
        (folder / name).write_text(content)
    monkeypatch.setenv("PURCHASE_STREAM_SECRETS_DIR", str(folder))


def test_the_defaults_are_the_contracts() -> None:
    """Without any source, each setting has the default of the contract."""
    settings = load()
    assert settings.kafka.bootstrap_servers == "localhost:9092"
    assert settings.kafka.client == {}
    assert settings.kafka.group_id == "purchase-stream"
    assert settings.kafka.instance_id
    assert settings.kafka.delivery == "exactly_once"
    assert settings.topics.events == "engagement-events"
    assert settings.topics.predictions == "purchase-predictions"
    assert settings.topics.dead_letters == "engagement-events.dlq"
    assert settings.topics.outcomes == "purchase-outcomes"
    assert settings.schema_registry.url is None
    assert (settings.model_store.path, settings.model_store.model) == (Path("artifacts/models"), "purchase")
    assert settings.audit.path == Path("artifacts/prediction_log.jsonl")
    http = settings.http
    assert (http.host, http.score_port, http.monitor_port, http.serve_port) == ("127.0.0.1", 9101, 9100, 8000)


def test_each_source_overrides_the_weaker_ones(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Default < TOML < secrets folder < environment < flag, value by value."""
    names = ("max_events", "max_wait_ms")
    seen = []

    def look(flags: dict[str, dict[str, int]] | None = None) -> None:
        batch = load(None, flags).batch
        seen.append(tuple(getattr(batch, name) for name in names))

    look()
    Path("purchase-stream.toml").write_text("[batch]\nmax_events = 11\nmax_wait_ms = 1\n")
    look()
    _secrets(tmp_path / "secrets", monkeypatch, batch__max_events="12")
    look()
    monkeypatch.setenv("PURCHASE_STREAM_BATCH__MAX_EVENTS", "13")
    look()
    look({"batch": {"max_events": 14}})
    defaults = BatchSettings()
    assert seen == [(defaults.max_events, defaults.max_wait_ms), (11, 1), (12, 1), (13, 1), (14, 1)]


def test_a_named_file_is_read_instead_of_the_one_in_the_folder(tmp_path: Path) -> None:
    """``--config FILE`` replaces the default file."""
    Path("purchase-stream.toml").write_text("[kafka]\ngroup_id = 'here'\n")
    other = tmp_path / "other.toml"
    other.write_text("[kafka]\nbootstrap_servers = 'there:1'\n")
    kafka = load(other).kafka
    assert (kafka.group_id, kafka.bootstrap_servers) == ("purchase-stream", "there:1")


def test_any_client_property_passes_through(monkeypatch: pytest.MonkeyPatch) -> None:
    """One variable holds a JSON object, and its values keep their types."""
    client = {"security.protocol": "SASL_SSL", "sasl.password": "p=1,}", "socket.keepalive.enable": True}
    monkeypatch.setenv("PURCHASE_STREAM_KAFKA__CLIENT", json.dumps(client))
    assert load().kafka.client == client


def test_a_secret_may_be_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Container platforms mount secrets as files."""
    _secrets(tmp_path / "secrets", monkeypatch, kafka__client='{"sasl.password": "hidden"}')
    assert load().kafka.client == {"sasl.password": "hidden"}


def test_a_secrets_folder_that_is_missing_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """The service must not start without its secrets and fail later."""
    monkeypatch.setenv("PURCHASE_STREAM_SECRETS_DIR", "nowhere")
    with pytest.raises(StartupError, match="nowhere"):
        load()


@pytest.mark.parametrize(
    ("toml", "unknown", "meant"),
    [
        ("[kafka]\nbootstrap_server = 'x'", "kafka.bootstrap_server", "kafka.bootstrap_servers"),
        ("[topics]\nprediction = 'x'", "topics.prediction", "topics.predictions"),
        ("[kafak]\ngroup_id = 'x'", "kafak", "kafka?"),
    ],
)
def test_an_unknown_key_is_an_error_that_names_the_nearest(toml: str, unknown: str, meant: str) -> None:
    """A misspelt setting is never ignored."""
    Path("purchase-stream.toml").write_text(toml)
    with pytest.raises(StartupError) as caught:
        load()
    assert str(caught.value).startswith(f"unknown setting {unknown}")
    assert f"did you mean {meant}" in str(caught.value)


@pytest.mark.parametrize(
    ("variable", "meant"),
    [
        ("PURCHASE_STREAM_KAFKA__BOOTSTRAP_SERVER", "PURCHASE_STREAM_KAFKA__BOOTSTRAP_SERVERS"),
        ("PURCHASE_STREAM_TOPIC__EVENTS", "PURCHASE_STREAM_TOPICS__EVENTS"),
        ("PURCHASE_STREAM_GROUP_ID", "PURCHASE_STREAM_KAFKA__GROUP_ID"),
    ],
)
def test_an_unknown_variable_is_an_error_that_names_the_nearest(
    monkeypatch: pytest.MonkeyPatch, variable: str, meant: str
) -> None:
    """This includes misspelt sections, which the library ignores."""
    monkeypatch.setenv(variable, "x")
    with pytest.raises(StartupError) as caught:
        load()
    assert variable in str(caught.value)
    assert str(caught.value).endswith(f"did you mean {meant}?")


@pytest.mark.parametrize(
    ("name", "value", "setting"),
    [
        ("BATCH__MAX_EVENTS", "0", "batch.max_events"),
        ("BATCH__MAX_EVENTS", "many", "batch.max_events"),
        ("HTTP__SCORE_PORT", "65536", "http.score_port"),
        ("KAFKA__DELIVERY", "maybe", "kafka.delivery"),
        ("MODEL_STORE__POLL_S", "0", "model_store.poll_s"),
        ("KAFKA__CLIENT", "[1]", "kafka.client"),
        ("KAFKA__BOOTSTRAP_SERVERS", "", "kafka.bootstrap_servers: is empty; write host:port"),
        ("KAFKA__BOOTSTRAP_SERVERS", "me:S3CRET@broker:9092", "kafka.bootstrap_servers: must not contain"),
        ("MODEL_STORE__PATH", "s3://bucket/models", "model_store.path: URLs are not supported"),
        ("AUDIT__PATH", "https://host/log", "audit.path: URLs are not supported"),
    ],
)
def test_a_wrong_value_is_an_error_that_names_the_setting(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str, setting: str
) -> None:
    """The error is one line without the value, with exit code 78."""
    monkeypatch.setenv(ENV_PREFIX + name, value)
    with pytest.raises(StartupError, match=setting) as caught:
        load()
    assert caught.value.exit_code == 78
    assert "\n" not in str(caught.value)
    assert "S3CRET" not in str(caught.value)


def test_every_wrong_setting_is_named_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """One run shows everything that must be corrected."""
    monkeypatch.setenv("PURCHASE_STREAM_BATCH__MAX_EVENTS", "-1")
    monkeypatch.setenv("PURCHASE_STREAM_KAFKA__DELIVERY", "maybe")
    with pytest.raises(StartupError, match=r"kafka\.delivery.*; .*batch\.max_events"):
        load()


def test_malformed_json_is_a_startup_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """The error names the setting and the variable."""
    monkeypatch.setenv("PURCHASE_STREAM_KAFKA__CLIENT", "{'sasl.password': 1}")
    with pytest.raises(StartupError) as caught:
        load()
    assert str(caught.value).startswith("setting kafka.client (PURCHASE_STREAM_KAFKA__CLIENT): not JSON: ")


@pytest.mark.parametrize("content", ["{'sasl.password': 'S3CRET'}", "S3CRET", '["S3CRET"]'])
def test_a_wrong_secret_file_is_named_but_not_shown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: str
) -> None:
    """The operator learns which file to correct."""
    _secrets(tmp_path / "secrets", monkeypatch, kafka__client=content)
    with pytest.raises(StartupError) as caught:
        load()
    assert str(tmp_path / "secrets" / "kafka__client") in str(caught.value)
    assert "S3CRET" not in str(caught.value)


def test_an_unknown_secret_file_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A misspelt section would otherwise be ignored. Hidden files of a Kubernetes volume are not read."""
    _secrets(tmp_path / "secrets", monkeypatch, kafak__client="{}")
    (tmp_path / "secrets" / "..data").mkdir()
    with pytest.raises(StartupError, match=r"secrets/kafak__client; did you mean kafka__client\?"):
        load()
    (tmp_path / "secrets" / "kafak__client").rename(tmp_path / "secrets" / "kafka__client")
    assert load().kafka.client == {}


KUBERNETES_VARIABLES = {
    "PURCHASE_STREAM_SERVICE_HOST": "10.96.0.12",
    "PURCHASE_STREAM_SERVICE_PORT": "8000",
    "PURCHASE_STREAM_SERVICE_PORT_HTTP": "8000",
    "PURCHASE_STREAM_PORT": "tcp://10.96.0.12:8000",
    "PURCHASE_STREAM_PORT_8000_TCP": "tcp://10.96.0.12:8000",
    "PURCHASE_STREAM_PORT_8000_TCP_PROTO": "tcp",
    "PURCHASE_STREAM_PORT_8000_TCP_PORT": "8000",
    "PURCHASE_STREAM_PORT_8000_TCP_ADDR": "10.96.0.12",
    "PURCHASE_STREAM_KAFKA_SERVICE_HOST": "10.96.0.13",
    "PURCHASE_STREAM_KAFKA_PORT": "tcp://10.96.0.13:9092",
    "PURCHASE_STREAM_KAFKA_BOOTSTRAP_PORT_9092_TCP_ADDR": "10.96.0.13",
}


def test_the_variables_of_a_kubernetes_service_are_ignored(monkeypatch: pytest.MonkeyPatch) -> None:
    """A Service named ``purchase-stream`` or ``purchase-stream-kafka`` does not stop every role."""
    before = load().model_dump()
    for name, value in KUBERNETES_VARIABLES.items():
        monkeypatch.setenv(name, value)
    assert load().model_dump() == before


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("PURCHASE_STREAM_HTTP_SERVE_PORT", "8000"),
        ("PURCHASE_STREAM_SERVE_PORT", "8000"),
        ("PURCHASE_STREAM_KAFKA_PORT", "9092"),
        ("PURCHASE_STREAM_HTTP__PORT", "tcp://10.96.0.12:8000"),
        ("PURCHASE_STREAM_SERVICE_NAME", "x"),
    ],
)
def test_a_misspelt_setting_is_not_taken_for_kubernetes_own(
    monkeypatch: pytest.MonkeyPatch, variable: str, value: str
) -> None:
    """Only Kubernetes' names and values are ignored."""
    monkeypatch.setenv(variable, value)
    with pytest.raises(StartupError, match=f"unknown environment variable {variable}"):
        load()


def test_malformed_toml_is_a_startup_error_that_names_the_file() -> None:
    """The error has the line number from the parser."""
    Path("purchase-stream.toml").write_text("[kafka\n")
    with pytest.raises(StartupError, match=r"purchase-stream\.toml: .*line 1"):
        load()


def test_a_named_file_must_exist() -> None:
    """A misspelt ``--config`` is an error."""
    with pytest.raises(StartupError, match=r"missing\.toml does not exist"):
        load(Path("missing.toml"))


SECRETS = {
    "sasl.password": "S3CRET",
    "ssl.key.password": "S3CRET",
    "ssl.keystore.password": "S3CRET",
    "ssl.key.pem": "S3CRET",
    "sasl.oauthbearer.client.secret": "S3CRET",
    "SASL.PASSWORD": "S3CRET",
    "sasl.jaas.config": "S3CRET",
}


def test_secrets_are_masked_and_nothing_else_is() -> None:
    """The output of ``check`` can be shared."""
    registry = {"url": "https://user:S3CRET@registry:8081/x", "client": {"basic.auth.user.info": "u:S3CRET"}}
    kafka = {"client": {**SECRETS, "security.protocol": "SASL_SSL", "sasl.username": "me"}}
    tree = masked(load(flags={"kafka": kafka, "schema_registry": registry}))
    assert "S3CRET" not in json.dumps(tree)
    assert tree["kafka"]["client"] == dict.fromkeys(SECRETS, "***") | {
        "security.protocol": "SASL_SSL",
        "sasl.username": "me",
    }
    assert tree["schema_registry"]["url"] == "https://***@registry:8081/x"
    assert tree["kafka"]["group_id"] == "purchase-stream"


@pytest.mark.parametrize("key", ["sasl.pasword", "ssl.key.pasword", "my.plugin.option", "PASSPHRASE"])
def test_an_unknown_client_property_is_masked(key: str) -> None:
    """Its name may be a misspelt secret's."""
    assert masked(load(flags={"kafka": {"client": {key: "S3CRET"}}}))["kafka"]["client"] == {key: "***"}


def test_credentials_in_any_url_are_masked() -> None:
    """Also in a property that holds no secret by its name."""
    flags = {"kafka": {"client": {"ssl.ca.location": "https://me:S3CRET@host/ca.pem"}}}
    assert "S3CRET" not in json.dumps(masked(load(flags=flags)))


def test_settings_do_not_change() -> None:
    """The settings cannot change after they were validated."""
    settings = load()
    with pytest.raises(ValueError, match="frozen"):
        settings.kafka.group_id = "other"  # type: ignore[misc]


@pytest.mark.parametrize(
    "url", ["https://u:secret@host/", "https://u:sec@ret@host", "https://u:sec/ret@host"]
)
def test_everything_before_the_host_of_a_url_is_masked(url: str) -> None:
    """This holds even if the password contains URL separators."""
    tree = masked(load(flags={"schema_registry": {"url": url}}))
    assert "ret" not in str(tree["schema_registry"])
    assert "host" in tree["schema_registry"]["url"]


def test_the_readme_shows_the_defaults() -> None:
    """Every row of the settings table names settings that exist, with their defaults."""
    readme = Path(__file__).parents[2] / "README.md"
    table = readme.read_text().split("| setting | variable")[1].split("\n\n")[0].splitlines()[2:]
    units = {"KiB": 1024, "MiB": 1024**2}
    checked = 0
    for row in table:
        _, variables, defaults = (cell.strip() for cell in row.strip("|").split(" | "))
        names = re.findall(r"`([A-Z_]*__[A-Z_]+)`", variables)
        section = names[0].split("__")[0]
        keys = [f"{section}__{name.split('__')[1]}".lower().split("__") for name in names]
        values = [getattr(getattr(Settings(), section), key) for section, key in keys]
        if defaults.startswith(("none", "host name")):
            continue
        shown = [text.split(" (")[0].strip("` ") for text in re.split(r", (?![^(]*\))", defaults)]
        for value, text in zip(values, shown, strict=True):
            amount, _, unit = text.partition(" ")
            expected = str(int(amount) * units[unit]) if unit else text
            assert str(value) == expected, row
            checked += 1
    assert checked > 15


@pytest.mark.parametrize(
    "address",
    ["javascript:alert(1)", "grafana:3000", "//grafana", "https://", "https://admin:secret@grafana"],
)
def test_the_dashboard_links_to_web_addresses_only(address: str) -> None:
    """A link is an http or https address, without credentials that every reader would see."""
    with pytest.raises(ValidationError):
        LinkSettings(grafana=address)
    assert LinkSettings(grafana="https://grafana.example/d/1").grafana == "https://grafana.example/d/1"
