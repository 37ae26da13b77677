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
"""

import hashlib
import json
import math
from collections.abc import Iterable
from statistics import NormalDist
from typing import Any, NamedTuple

_STANDARD_NORMAL = NormalDist()


class Key(NamedTuple):
    """What one draw depends on.

    Args:
        seed: the run's dithering seed.
        data_source: the row's data source.
        row: the row's index in its data source, or a hash of its prompt (`prompt_digest`).
        step: the row's ``global_steps``.
        session: number of the rollout in its group, from 0.
    """

    seed: int
    data_source: str
    row: int | str
    step: int
    session: int


def prompt_digest(messages: Iterable[dict[str, Any]]) -> str:
    """A stable index for a row that has none: 128 bits of its chat messages' text, as hexadecimal text.

    Media in the messages count by type alone, as their objects have no stable text.
    """
    text = json.dumps(list(messages), sort_keys=True, default=lambda media: type(media).__name__, ensure_ascii=False)
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


def uniform_variate(key: Key) -> float:
    """A number in the open interval (0, 1), with 53 random bits, that depends on the key alone."""
    digest = hashlib.blake2b(json.dumps(key).encode(), digest_size=8).digest()
    return ((int.from_bytes(digest, "big") >> 11) + 0.5) * 2.0**-53


def unit_noise(distribution: str, key: Key) -> float:
    """One draw with mean 0 and variance 1: standard normal, or uniform on [-√3, √3]."""
    variate = uniform_variate(key)
    return _STANDARD_NORMAL.inv_cdf(variate) if distribution == "gaussian" else math.sqrt(3) * (2 * variate - 1)
