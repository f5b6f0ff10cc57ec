"""Hash ids with a secret key (HMAC-SHA-256), so that the monitor's files name no student."""

from __future__ import annotations

import hmac
from typing import TYPE_CHECKING, Final

import numpy as np

from consumer.errors import StartupError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from consumer.columnar.arrays import IntArray
    from consumer.settings import AuditSettings

MIN_KEY_BYTES: Final = 16
"""A shorter key could be guessed from known ids and their hashes."""

_KEY_ID_DIGITS: Final = 8
_HASH_BYTES: Final = 8
_MARKER: Final = "hmac-"


class IdHasher:
    """Hashes ids with a key.

    A hashed id names its key, so that ids hashed with another key are recognised as such:
    ``hmac-<8 hexadecimal digits that name the key>-<64 hexadecimal digits>``.

    Args:
        key: The secret key.

    Attributes:
        prefix: The start of every id hashed with this key.
    """

    def __init__(self, key: bytes) -> None:
        self._key = key
        key_id = hmac.digest(key, b"purchase-stream key id", "sha256").hex()[:_KEY_ID_DIGITS]
        self.prefix = f"{_MARKER}{key_id}-"

    def hashed(self, id_: bytes) -> str:
        """Return the hashed form of an id in UTF-8."""
        return self.prefix + hmac.digest(self._key, id_, "sha256").hex()

    def column(self, data: bytes, starts: IntArray, stops: IntArray) -> list[str]:
        """Return the hashed form of each id ``data[starts[i]:stops[i]]``."""
        return [
            self.hashed(data[start:stop]) for start, stop in zip(starts.tolist(), stops.tolist(), strict=True)
        ]

    def numbers(self, data: bytes, starts: IntArray, stops: IntArray) -> NDArray[np.uint64]:
        """Return the first 8 bytes of each id's hash as a number, uint64 (m,)."""
        digests = [
            hmac.digest(self._key, data[start:stop], "sha256")[:_HASH_BYTES]
            for start, stop in zip(starts.tolist(), stops.tolist(), strict=True)
        ]
        return np.frombuffer(b"".join(digests), "<u8").astype(np.uint64)


def is_hashed(id_: str) -> bool:
    """Return whether an id of the audit log is hashed, with whichever key."""
    return id_.startswith(_MARKER) and len(id_) == len(_MARKER) + _KEY_ID_DIGITS + 1 + 64


def id_hasher(settings: AuditSettings) -> IdHasher | None:
    """Return the hasher that the settings ask for, or ``None`` if ids stay as they are.

    Raises:
        StartupError: The key cannot be read, or is too short.
    """
    path = settings.hash_ids_key_file
    if path is None:
        return None
    try:
        key = path.read_bytes().strip()
    except OSError as error:
        raise StartupError(
            f"the key {path} cannot be read: {error.strerror}; see audit.hash_ids_key_file"
        ) from error
    if len(key) < MIN_KEY_BYTES:
        raise StartupError(
            f"the key in {path} has {len(key)} bytes, at least {MIN_KEY_BYTES} are needed;"
            " make one with: openssl rand -hex 32"
        )
    return IdHasher(key)
