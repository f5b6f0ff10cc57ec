"""Sign a version's manifest, and verify the signature: Ed25519 (RFC 8032) over the bytes of the file.

The manifest holds the digest of every other file, so the signature covers the whole version. Digests
alone detect damage; a signature detects whoever can write the store but has no key. The signature is
64 bytes in ``manifest.sig`` beside the manifest, so OpenSSL can verify it too:
``openssl pkeyutl -verify -pubin -inkey public.pem -rawin -in manifest.json -sigfile manifest.sig``.

This needs the extra ``signing``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from model_store.errors import ModelStoreError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

SIGNATURE_FILE: Final = "manifest.sig"
_NEEDS_EXTRA: Final = "signatures need: pip install 'purchase-stream[signing]'"


def sign(content: bytes, key_file: Path, ask_passphrase: Callable[[], str]) -> bytes:
    """Return the signature of a manifest's bytes.

    Args:
        content: The manifest.
        key_file: The private key, PEM (PKCS #8).
        ask_passphrase: Returns the passphrase; called if the key is encrypted.

    Raises:
        ModelStoreError: The key cannot be read or is no Ed25519 key.
    """
    try:
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey  # noqa: PLC0415
        from cryptography.hazmat.primitives.serialization import load_pem_private_key  # noqa: PLC0415
    except ImportError as error:
        raise ModelStoreError(_NEEDS_EXTRA) from error
    pem = _read(key_file)
    try:
        try:
            key = load_pem_private_key(pem, None)
        except TypeError:  # it is encrypted
            key = load_pem_private_key(pem, ask_passphrase().encode())
    except ValueError as error:
        raise ModelStoreError(
            f"{key_file} holds no private key in PEM, or the passphrase is wrong"
        ) from error
    if not isinstance(key, Ed25519PrivateKey):
        raise ModelStoreError(f"{key_file} is no Ed25519 key; make one: openssl genpkey -algorithm ed25519")
    return key.sign(content)


def is_signed(content: bytes, signature: bytes, public_key_file: Path) -> bool:
    """Return whether the signature of a manifest's bytes is that of the key.

    Args:
        content: The manifest.
        signature: The content of its signature file.
        public_key_file: The public key, PEM.

    Raises:
        ModelStoreError: The key cannot be read or is no Ed25519 key.
    """
    try:
        from cryptography.exceptions import InvalidSignature  # noqa: PLC0415
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey  # noqa: PLC0415
        from cryptography.hazmat.primitives.serialization import load_pem_public_key  # noqa: PLC0415
    except ImportError as error:
        raise ModelStoreError(_NEEDS_EXTRA) from error
    try:
        key = load_pem_public_key(_read(public_key_file))
    except ValueError as error:
        raise ModelStoreError(f"{public_key_file} holds no public key in PEM") from error
    if not isinstance(key, Ed25519PublicKey):
        raise ModelStoreError(f"{public_key_file} is no Ed25519 key")
    try:
        key.verify(signature, content)
    except InvalidSignature:
        return False
    return True


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise ModelStoreError(f"the key {path} cannot be read: {error.strerror or error}") from error
