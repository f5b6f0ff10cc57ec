"""With a public key, a store refuses every version that the key's owner has not signed."""

from __future__ import annotations

import json
import shutil
import subprocess
from typing import TYPE_CHECKING

import pytest

from consumer.cli import main
from model_store.errors import ModelStoreError
from model_store.store import ModelStore

if TYPE_CHECKING:
    from pathlib import Path

    from model_store.training import TrainedModel

serialization = pytest.importorskip("cryptography.hazmat.primitives.serialization")
ed25519 = pytest.importorskip("cryptography.hazmat.primitives.asymmetric.ed25519")
ec = pytest.importorskip("cryptography.hazmat.primitives.asymmetric.ec")


def _write_pair(folder: Path, name: str, passphrase: bytes | None = None) -> tuple[Path, Path]:
    """Write a private and a public key; return their files."""
    key = ed25519.Ed25519PrivateKey.generate()
    private, public = folder / f"{name}.pem", folder / f"{name}.pub"
    encryption = (
        serialization.BestAvailableEncryption(passphrase) if passphrase else serialization.NoEncryption()
    )
    pem = serialization.Encoding.PEM
    private.write_bytes(key.private_bytes(pem, serialization.PrivateFormat.PKCS8, encryption))
    public.write_bytes(key.public_key().public_bytes(pem, serialization.PublicFormat.SubjectPublicKeyInfo))
    return private, public


def _no_passphrase() -> str:
    raise AssertionError


@pytest.fixture
def keys(tmp_path: Path) -> tuple[Path, Path]:
    """A private and a public key."""
    return _write_pair(tmp_path, "key")


def test_only_a_signed_version_is_loaded(
    store: ModelStore, champion: str, keys: tuple[Path, Path], tmp_path: Path
) -> None:
    """Unsigned it is refused with what to do; signed it is loaded, promoted and exported."""
    private, public = keys
    strict = ModelStore(store.folder.parent, store.model, public)
    for read in (strict.load, strict.manifest, strict.verify, strict.evaluation):
        with pytest.raises(ModelStoreError, match=f"it is not signed.*models sign {champion} --key FILE"):
            read(champion)
    assert store.load(champion).version == champion  # without a key nothing is demanded
    assert store.sign("champion", private, _no_passphrase) == champion
    assert strict.load("champion").version == champion
    strict.export(champion, tmp_path / "out")
    exported = {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()}
    folder = store.folder / "versions" / champion
    assert exported == {path.name: path.read_bytes() for path in folder.iterdir()}
    assert len(exported["manifest.sig"]) == 64


def test_forged_versions_are_refused(
    store: ModelStore, champion: str, trained: TrainedModel, keys: tuple[Path, Path], tmp_path: Path
) -> None:
    """A changed manifest, another version's signature, and another key's are each refused."""
    private, public = keys
    strict = ModelStore(store.folder.parent, store.model, public)
    store.sign(champion, private, _no_passphrase)
    other = store.add(trained)
    signature = store.folder / "versions" / champion / "manifest.sig"
    shutil.copy(signature, store.folder / "versions" / other)
    with pytest.raises(ModelStoreError, match=r"manifest\.sig is not the signature of the key .*key\.pub"):
        strict.load(other)
    store.sign(other, _write_pair(tmp_path, "foreign")[0], _no_passphrase)
    with pytest.raises(ModelStoreError, match="is not the signature of the key"):
        strict.load(other)
    manifest = store.folder / "versions" / champion / "manifest.json"
    tree = json.loads(manifest.read_bytes())
    tree["threshold"]["value"] = 0.1
    manifest.chmod(0o644)
    manifest.write_text(json.dumps(tree))
    assert store.load(champion).threshold == 0.1  # only the signature notices
    with pytest.raises(ModelStoreError, match="is not the signature of the key"):
        strict.load(champion)


def test_unusable_keys_are_named(store: ModelStore, champion: str, tmp_path: Path) -> None:
    """A missing, a foreign and an encrypted key are each answered with one sentence."""
    private, public = _write_pair(tmp_path, "locked", b"secret")
    with pytest.raises(ModelStoreError, match=r"locked\.pem holds no private key in PEM, or the passphrase"):
        store.sign(champion, private, lambda: "wrong")
    assert store.sign(champion, private, lambda: "secret") == champion
    with pytest.raises(ModelStoreError, match=r"the key .*nowhere\.pem cannot be read: No such file"):
        store.sign(champion, tmp_path / "nowhere.pem", _no_passphrase)
    curve = ec.generate_private_key(ec.SECP256R1())
    (tmp_path / "curve.pem").write_bytes(
        curve.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
    )
    with pytest.raises(ModelStoreError, match=r"curve\.pem is no Ed25519 key; make one: openssl genpkey"):
        store.sign(champion, tmp_path / "curve.pem", _no_passphrase)
    public.write_text("nonsense")
    with pytest.raises(ModelStoreError, match=r"is refused: .*locked\.pub holds no public key in PEM"):
        ModelStore(store.folder.parent, store.model, public).load(champion)


@pytest.mark.skipif(shutil.which("openssl") is None, reason="needs openssl")
def test_openssl_verifies_the_signature(store: ModelStore, champion: str, keys: tuple[Path, Path]) -> None:
    """The signature is plain Ed25519 over the manifest's bytes."""
    store.sign(champion, keys[0], _no_passphrase)
    folder = store.folder / "versions" / champion
    command = ["openssl", "pkeyutl", "-verify", "-pubin", "-inkey", str(keys[1]), "-rawin"]
    files = ["-in", str(folder / "manifest.json"), "-sigfile", str(folder / "manifest.sig")]
    subprocess.run([*command, *files], check=True, capture_output=True)  # noqa: S603


def test_the_setting_demands_signatures(
    store: ModelStore, champion: str, keys: tuple[Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    """`models verify` refuses, `models sign` signs, and then it is good."""
    private, public = keys
    where = ["--set", f"model_store.path={store.folder.parent}", "--set"]
    arguments = [*where, f"model_store.public_key_file={public}", "models"]
    with pytest.raises(SystemExit) as stopped:
        main([*arguments, "verify", "champion"])
    assert stopped.value.code == 78
    assert "it is not signed" in capsys.readouterr().err
    main([*arguments, "sign", "champion", "--key", str(private)])
    main([*arguments, "verify", "champion"])
    assert capsys.readouterr().out == f"signed {champion}\n{champion} is good\n"
