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

"""Which rows of a batch are one prompt group, and which groups of a batch are set aside or make up its other half.

Rows of a prompt may lie on several ranks, so a group is known by its prompt's tokens and chosen by a keyed hash of
them: every rank comes to the same answer, for any number of ranks and any order of rows.
"""

import hashlib
from collections.abc import Iterable, Sequence


class TooFewGroups(ValueError):
    """A batch that cannot be divided by prompt groups."""


def group_of(prompt: Sequence[int]) -> str:
    """Name of a row's group: 64 bits of its prompt's token ids, as hexadecimal text."""
    return digest_of(map(str, prompt))


def digest_of(words: Iterable[str]) -> str:
    """64 bits of words in their order, as hexadecimal text."""
    return hashlib.blake2b(" ".join(words).encode(), digest_size=8).hexdigest()


def other_part(groups: Iterable[str], share: float, seed: int) -> set[str]:
    """The groups of the other half, or those that are held out: ``share`` of all, at least one and not all.

    Args:
        groups: of the whole batch over all ranks. Which of them it is goes by all of them, so that a group's turn
            comes with other batches, and PPO epochs over a batch train on none that they have set aside.
        share: above 0 and below 1.

    Raises:
        TooFewGroups: fewer than two.
    """
    distinct = sorted(set(groups))
    if len(distinct) < 2:
        raise TooFewGroups(
            f"flexora: a mini-batch has {len(distinct)} prompt group; a search compares groups, so make "
            "actor.ppo_mini_batch_size (RL) or data.train_batch_size (supervised) 2 or more, and rows differ in their "
            "prompts"
        )
    count = min(max(round(share * len(distinct)), 1), len(distinct) - 1)
    batch = digest_of(distinct)
    return set(sorted(distinct, key=lambda group: digest_of([str(seed), batch, group]))[:count])
