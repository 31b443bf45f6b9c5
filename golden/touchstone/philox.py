"""How can random inputs be the same everywhere? By counting: block n is a fixed scramble of the number n.

Philox-4x32-10 (Salmon, Moraes, Dror, Shaw: "Parallel random numbers: as easy as 1, 2, 3", SC 2011, section 3.3),
on whole arrays of counters at once. docs/case-format.md, "Fills", says what is counted.
"""

import numpy as np

MULTIPLIERS = np.uint64(0xD2511F53), np.uint64(0xCD9E8D57)
KEY_STEPS = 0x9E3779B9, 0xBB67AE85  # the golden ratio and sqrt(3) - 1, as fractions of 2^32
WORD = 0xFFFFFFFF


def philox(counter, key: int):
    """Four arrays of words for four arrays of words.

    counter: four arrays (or numbers) of 32-bit words, of shapes that broadcast.
    key: a whole number below 2^64.
    -> four uint32 arrays
    """
    # Words are kept in uint64, so that a product of two of them is whole.
    c0, c1, c2, c3 = (np.asarray(word, dtype=np.uint64) for word in counter)
    key_low, key_high = key & WORD, key >> 32
    low, up = np.uint64(WORD), np.uint64(32)
    for _ in range(10):
        a, b = MULTIPLIERS[0] * c0, MULTIPLIERS[1] * c2
        c0, c1, c2, c3 = (b >> up) ^ c1 ^ np.uint64(key_low), b & low, (a >> up) ^ c3 ^ np.uint64(key_high), a & low
        key_low, key_high = (key_low + KEY_STEPS[0]) & WORD, (key_high + KEY_STEPS[1]) & WORD
    return tuple(word.astype(np.uint32) for word in (c0, c1, c2, c3))


def tensor_id(name: str) -> int:
    """The 32-bit FNV-1a hash of the name's UTF-8 bytes (Fowler, Noll, Vo; draft-eastlake-fnv, section 2)."""
    hash_ = 2166136261
    for byte in name.encode():
        hash_ = (hash_ ^ byte) * 16777619 & WORD
    return hash_


class RandomTensor:
    """The random numbers of one tensor of one case."""

    def __init__(self, seed: int, name: str):
        self.seed = seed
        self.id = tensor_id(name)

    def words(self, elements, stream: int = 0):
        """The four words w0..w3 of each element. elements: whole numbers of any shape -> four uint32 arrays"""
        i = np.asarray(elements, dtype=np.uint64)
        return philox((i & np.uint64(WORD), i >> np.uint64(32), self.id, stream), self.seed)

    def bell(self, elements):
        """The sum of eight 16-bit halves less its mean: bell-shaped whole numbers within +-262140. -> int64"""
        return sum((w & np.uint32(0xFFFF)).astype(np.int64) + (w >> np.uint32(16)) for w in self.words(elements)) - 262140

    def below(self, count: int, elements, stream: int = 0):
        """Whole numbers from 0 to count - 1; count is at most 2^32. -> int64"""
        w0 = self.words(elements, stream)[0].astype(np.uint64)
        return ((w0 * np.uint64(count)) >> np.uint64(32)).astype(np.int64)
