"""Many texts of one buffer at once: which of them are equal, without making each a string."""

from __future__ import annotations

from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from consumer.columnar.arrays import IntArray

_PAIR_BYTES: Final = 2
_WORD_BYTES: Final = 8
_ODD: Final = np.uint64(0x9E3779B97F4A7C15)
_MIX_1: Final = np.uint64(0xBF58476D1CE4E5B9)
_MIX_2: Final = np.uint64(0x94D049BB133111EB)
_HALF: Final = np.uint64(32)
_ALL: Final = np.uint64(0xFFFFFFFFFFFFFFFF)


def hash_strings(data: bytes, begins: IntArray, ends: IntArray) -> NDArray[np.uint64]:
    """Return a 64-bit hash of each text ``data[begins[i]:ends[i]]``, uint64 (m,).

    Equal texts have equal hashes on every machine and in every run. Two of a million different texts
    share one with a probability of 3e-8. Not meant to withstand someone who looks for collisions:
    whoever finds one makes two students count as one.

    The words of 8 bytes are folded in one after the other, each with a multiplication and a shift,
    and the whole is mixed by the finaliser of SplitMix64 (Steele, Lea and Flood, OOPSLA 2014).

    Args:
        data: the buffer.
        begins: int64 (m,).
        ends: int64 (m,), none below its begin.
    """
    words, lengths = _words(data, ends), ends - begins
    hashes = (lengths.astype(np.uint64) + np.uint64(1)) * _ODD
    longest = int(lengths.max(initial=0))
    shortest = int(lengths.min(initial=longest))
    for at in range(0, longest, _WORD_BYTES):
        if shortest >= at + _WORD_BYTES:
            _fold(hashes, words[begins + at])
        elif shortest == longest:
            _fold(hashes, words[begins + at] & _mask(np.uint64(longest - at)))
        else:
            some = np.flatnonzero(lengths > at)
            left = np.minimum(lengths[some] - at, _WORD_BYTES).astype(np.uint64)
            folded = hashes[some]
            _fold(folded, words[begins[some] + at] & _mask(left))
            hashes[some] = folded
    hashes ^= hashes >> np.uint64(30)
    hashes *= _MIX_1
    hashes ^= hashes >> np.uint64(27)
    hashes *= _MIX_2
    hashes ^= hashes >> np.uint64(31)
    return hashes


def _fold(hashes: NDArray[np.uint64], word: NDArray[np.uint64]) -> None:
    """Fold one more word into each hash, in place."""
    hashes ^= word
    hashes *= _MIX_1
    hashes ^= hashes >> _HALF


def all_equal(data: bytes, begins: IntArray, ends: IntArray) -> bool:
    """Tell whether all texts ``data[begins[i]:ends[i]]`` are the same; cheaper than their hashes."""
    lengths = ends - begins
    if not len(lengths):
        return True
    length = int(lengths[0])
    first, last = data[begins[0] : ends[0]], data[begins[-1] : ends[-1]]
    if first != last or (lengths != length).any():  # texts that differ nearly always differ there already
        return False
    words = _words(data, ends)
    for at in range(0, length, _WORD_BYTES):
        word = words[begins + at]
        if length < at + _WORD_BYTES:
            word &= _mask(np.uint64(length - at))
        if (word != word[0]).any():
            return False
    return True


def encode_two_byte_strings(
    data: bytes, begins: IntArray, ends: IntArray
) -> tuple[list[bytes], IntArray] | None:
    """Return the different texts, and which of them each is, if all have two bytes: codes of countries.

    Args:
        data: the buffer.
        begins: int64 (m,).
        ends: int64 (m,).

    Returns:
        k texts, and int64 (m,) indexes into them; ``None`` if a text is longer or shorter.
    """
    if (ends - begins != _PAIR_BYTES).any():
        return None
    found = unaligned_view(data, "<u2")[begins]
    occurs = np.zeros(2 ** (8 * _PAIR_BYTES), np.bool_)  # a third of the time that sorting takes
    occurs[found] = True
    distinct = np.flatnonzero(occurs)
    numbers_of = np.empty(len(occurs), np.int64)  # of those that occur; the others are never looked at
    numbers_of[distinct] = np.arange(len(distinct))
    return [pair.tobytes() for pair in distinct.astype("<u2")], numbers_of[found]


def starts_with(prefix: bytes, data: bytes, begins: IntArray) -> NDArray[np.bool_]:
    """Tell at which positions, int64 (m,), these 1, 2, 4 or 8 bytes stand: bool (m,)."""
    dtype = f"<u{len(prefix)}"
    found: NDArray[np.bool_] = unaligned_view(data, dtype)[begins] == np.frombuffer(prefix, dtype)[0]
    return found


def unaligned_view(data: bytes, dtype: str) -> NDArray[Any]:
    """Return what stands at each position of a buffer, read as this type; nothing is copied."""
    return np.ndarray((len(data) - np.dtype(dtype).itemsize + 1,), dtype, data, 0, (1,))


def _words(data: bytes, ends: IntArray) -> NDArray[np.uint64]:
    """Return the word of 8 bytes at each position that a text can begin or go on at."""
    if int(ends.max(initial=0)) + _WORD_BYTES > len(data):
        data += b"\0" * _WORD_BYTES
    return unaligned_view(data, "<u8")


def _mask(n_bytes: NDArray[np.uint64] | np.uint64) -> NDArray[np.uint64] | np.uint64:
    """Return the mask of a word's first bytes, 1 to 8 of them; more count as 8."""
    return _ALL >> (np.uint64(8) * (np.uint64(_WORD_BYTES) - np.minimum(n_bytes, np.uint64(_WORD_BYTES))))
