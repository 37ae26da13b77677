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

"""The validation grid: held-out templates times items, chosen by keys, so that runs and resumed runs share it."""

import hashlib
import json
from collections import Counter

from verl_redit.paft.config import Grid
from verl_redit.paft.pool import Pool, PoolError, Template


def grid_templates(pool: Pool, grid: Grid) -> list[Template]:
    """The held-out templates of a grid, in the pool's order: all, or ``grid.templates`` of them, evenly over the tiers.

    Raises:
        PoolError: the pool has none.
    """
    held_out = pool.of_split("held_out")
    if not held_out:
        raise PoolError(
            f"{pool.name}: no held-out template, so there is no grid to validate on; add some with split: held_out, "
            "or set paft.validation=stock"
        )
    turn: dict[str, int] = {}
    of_tier = Counter[str | None]()
    for template in sorted(held_out, key=lambda template: _hash(grid.seed, template.id)):
        turn[template.id] = of_tier[template.tier]
        of_tier[template.tier] += 1
    chosen = sorted(turn, key=lambda id: turn[id])[: grid.templates]
    return [template for template in held_out if template.id in chosen]


def grid_items(items: list[str], grid: Grid) -> list[int]:
    """Numbers of the grid's items, in ascending order; the choice depends on the items' names, not on their order."""
    chosen = sorted(range(len(items)), key=lambda number: _hash(grid.seed, items[number]))[: grid.items]
    return sorted(chosen)


def _hash(seed: int, name: str) -> bytes:
    return hashlib.blake2b(json.dumps([seed, name]).encode(), digest_size=8).digest()
