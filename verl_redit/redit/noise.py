# Copyright 2026 verl-redit contributors
#
# Licensed under the Apache License, Version 2.0 (the "License");
# you may not use this file except in compliance with the License.
# You may obtain a copy of the License at
#
#     http://www.apache.org/licenses/LICENSE-2.0
#
# Unless required by applicable law or agreed to in writing, software
# distributed under the License is distributed on an "AS IS" BASIS,
# WITHOUT WARRANTIES OR CONDITIONS OF ANY KIND, either express or implied.
# See the License for the specific language governing permissions and
# limitations under the License.

"""Keyed draws: the noise of a sample is a function of its key, so worker count, order, retry and resume change nothing.

The authors draw from one global random stream (read in a public copy of their TRL scripts, 2506.18631); here each draw
has its own key and no generator is advanced. Shapes are those of section 3 of the paper: Gaussian, or uniform with the
same variance.

The generator is Philox-4x32-10 (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC11). Seed and names
make its key; row, step and session make its counter. A draw uses 53 of its 128 bits, so two of n keys share one with a
chance of about n² / 2⁵⁴.
"""

import hashlib
import json
import math
from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import Any, NamedTuple, TypeVar

import numpy as np
from scipy.special import ndtri

_WORD = 0xFFFFFFFF
_ROUNDS = 10
_OUTSIDE = f"steps and sessions must lie between 0 and {_WORD}"
_CHUNK = 2**14  # rows whose intermediate arrays stay in the processor's cache

# one 64-bit unsigned number, or an array of them
U64 = TypeVar("U64", int, np.ndarray)


class Key(NamedTuple):
    """What one draw depends on.

    Args:
        seed: the run's dithering seed.
        data_source: the row's data source.
        row: the row's index in its data source, or a hash of its prompt (`prompt_digest`).
        step: the row's ``global_steps``, from 0 to 2³²-1.
        session: number of the rollout in its group, from 0 to 2³²-1.
        component: name of the reward component; empty for the whole reward.
    """

    seed: int
    data_source: str
    row: int | str
    step: int
    session: int
    component: str = ""

    @property
    def block(self) -> tuple[int, int, int, int]:
        """The same key as Philox takes it: key and row of 64 bits, step and session of 32.

        Raises:
            ValueError: step or session outside 32 bits.
        """
        if not (0 <= self.step <= _WORD and 0 <= self.session <= _WORD):
            raise ValueError(_OUTSIDE)
        key, row = _key_and_row(self.seed, self.data_source, self.row, self.component)
        return key, row, self.step, self.session


class Keys(NamedTuple):
    """The keys of a batch, by column; each but ``seed`` has one value for each sample."""

    seed: int
    data_source: Sequence[str]
    row: Sequence[int | str]
    step: Sequence[int]
    session: Sequence[int]

    def blocks(self, component: str = "") -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """`Key.block` of each key: four uint64 arrays of shape (keys,).

        Raises:
            ValueError: a step or session outside 32 bits.
        """
        step, session = np.array(self.step, dtype=np.int64), np.array(self.session, dtype=np.int64)
        if ((step | session) >> 32).any():
            raise ValueError(_OUTSIDE)
        pairs = [
            _key_and_row(self.seed, source, row, component)
            for source, row in zip(self.data_source, self.row, strict=True)
        ]
        key, row = np.array(pairs, dtype=np.uint64).reshape(-1, 2).T
        return key, row, step.astype(np.uint64), session.astype(np.uint64)


def _key_and_row(seed: int, data_source: str, row: int | str, component: str) -> tuple[int, int]:
    if isinstance(row, str):
        return _hash(seed, data_source, component, True), _hash(row)
    return _hash(seed, data_source, component, False), row % 2**64


def prompt_digest(messages: Iterable[dict[str, Any]]) -> str:
    """A stable index for a row that has none: 128 bits of its chat messages' text, as hexadecimal text.

    Media in the messages count by type alone, as their objects have no stable text.
    """
    text = json.dumps(list(messages), sort_keys=True, default=lambda media: type(media).__name__, ensure_ascii=False)
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


@lru_cache(maxsize=2**16)
def _hash(*parts: int | str) -> int:
    return int.from_bytes(hashlib.blake2b(json.dumps(parts).encode(), digest_size=8).digest(), "big")


def philox(key: U64, row: U64, step: U64, session: U64) -> U64:
    """64 of the 128 random bits of Philox-4x32-10.

    Args:
        key, row: 64-bit unsigned numbers, or arrays of them (uint64) that broadcast against each other.
        step, session: the same with 32 bits.
    """
    k0, k1 = key & _WORD, key >> 32
    a, b, c, d = row & _WORD, row >> 32, step, session
    for _ in range(_ROUNDS):
        p, q = a * 0xD2511F53, c * 0xCD9E8D57
        a, b, c, d = (q >> 32) ^ b ^ k0, q & _WORD, (p >> 32) ^ d ^ k1, p & _WORD
        k0, k1 = (k0 + 0x9E3779B9) & _WORD, (k1 + 0xBB67AE85) & _WORD
    return a | (b << 32)


def unit_noise(distribution: str, key: Key) -> float:
    """One draw with mean 0 and variance 1: standard normal, or uniform on [-√3, √3]."""
    return float(_shaped(distribution, philox(*key.block)))


def unit_noises(distribution: str, keys: Keys, component: str = "") -> np.ndarray:
    """`unit_noise` of each key: float64 of shape (keys,), bit for bit the same draws."""
    return unit_noises_of_blocks(distribution, *keys.blocks(component))


def unit_noises_of_blocks(
    distribution: str, key: np.ndarray, row: np.ndarray, step: np.ndarray, session: np.ndarray
) -> np.ndarray:
    """`unit_noises` of `Keys.blocks`: float64 of shape (keys,)."""
    chunks = (slice(start, start + _CHUNK) for start in range(0, len(row), _CHUNK))
    drawn = [_shaped(distribution, philox(key[rows], row[rows], step[rows], session[rows])) for rows in chunks]
    return np.concatenate(drawn) if drawn else np.empty(0)


def _shaped(distribution: str, bits):
    variate = ((bits >> 11) + 0.5) * 2.0**-53  # in the open interval (0, 1)
    return ndtri(variate) if distribution == "gaussian" else math.sqrt(3) * (2 * variate - 1)
