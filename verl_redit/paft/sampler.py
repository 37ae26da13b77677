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

"""The sampler of (row, template) pairs: what a run draws, and where a resumed run goes on."""

from collections.abc import Iterator
from typing import Any

import numpy as np
from torch.utils.data import Sampler

from verl_redit.paft.adaptive import AdaptivePolicy
from verl_redit.paft.config import PaftConfig
from verl_redit.paft.pool import Pool
from verl_redit.paft.selection import Block, Cycle, Draw, Fixed, Policy, Static, Stratified, Uniform

POLICIES: dict[str, type[Policy]] = {
    "fixed": Fixed,
    "static": Static,
    "uniform": Uniform,
    "block": Block,
    "cycle": Cycle,
    "stratified": Stratified,
    "adaptive": AdaptivePolicy,
}


class PoolChanged(ValueError):
    """A checkpoint that was written with another pool, data set or drawing; the message says which."""


class PairSampler(Sampler[tuple[int, int]]):
    """Yields (row, number of the train template), an epoch at a time; torchdata's loaders save and restore it.

    With several replicas (data-parallel ranks of supervised training) each gets every nth draw, as with torch's
    ``DistributedSampler``: a batch over all ranks holds the same draws for any number of them, and the rows that would
    make ranks uneven are left out at the end of the epoch.

    Args:
        policy: chooses the template and the order of rows.
        fingerprint: what must be the same in a resumed run, by name.
        replicas: ranks that share the draws.
        rank: this one's number, from 0.
    """

    def __init__(self, policy: Policy, fingerprint: dict[str, Any], replicas: int = 1, rank: int = 0):
        self.policy = policy
        self.fingerprint = fingerprint
        self.replicas = replicas
        self.rank = rank
        self.next_epoch = 0
        self.chosen_epoch: int | None = None

    def __len__(self) -> int:
        return self.policy.rows // self.replicas

    def __iter__(self) -> "PairIterator":
        return PairIterator(self)

    def set_epoch(self, epoch: int) -> None:
        """Begin the next pass at this epoch, as verl's supervised trainers say."""
        self.chosen_epoch = self.next_epoch = epoch


class PairIterator(Iterator[tuple[int, int]]):
    """One pass over the rows. Its epoch is fixed by its first draw, because loaders make iterators that they drop."""

    def __init__(self, sampler: PairSampler):
        self.sampler = sampler
        self.order: np.ndarray | None = None
        self.epoch = self.yielded = 0

    def __next__(self) -> tuple[int, int]:
        sampler, policy = self.sampler, self.sampler.policy
        if self.order is None:
            self.order = self._begin(sampler.next_epoch, 0)
        if self.yielded == len(sampler):
            raise StopIteration
        position = self.yielded * sampler.replicas + sampler.rank
        self.yielded += 1
        row = int(self.order[position])
        return row, policy.next(Draw(row, self.epoch, position, self.epoch * policy.rows + position))

    def _begin(self, epoch: int, yielded: int) -> np.ndarray:
        self.epoch, self.yielded = epoch, yielded
        self.sampler.next_epoch = epoch + 1
        return self.sampler.policy.order(epoch)

    def state_dict(self) -> dict[str, Any]:
        """Place in the run, and the fingerprint."""
        epoch = self.sampler.next_epoch if self.order is None else self.epoch
        return {"epoch": epoch, "yielded": self.yielded, **self.sampler.fingerprint}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from there, or from the start of another epoch that the trainer has chosen.

        Raises:
            PoolChanged: the fingerprint is not this run's.
        """
        for name, here in self.sampler.fingerprint.items():
            if state.get(name) != here:
                raise PoolChanged(
                    f"the checkpoint was written with {name} {state.get(name)}, this run has {here}; set it back, or "
                    "begin a new run (trainer.resume_mode=disable, and another trainer.default_local_dir)"
                )
        if self.sampler.chosen_epoch in (None, state["epoch"]):
            self.order = self._begin(state["epoch"], state["yielded"])
        elif self.sampler.chosen_epoch != state["epoch"] + 1 or 2 * state["yielded"] <= len(self.sampler):
            # at an epoch's end less than one batch is left, so a trainer that goes on elsewhere counts other batches
            raise PoolChanged(
                f"the checkpoint is {state['yielded']} draws into epoch {state['epoch']}, but the trainer goes on with "
                f"epoch {self.sampler.chosen_epoch}; set data.train_batch_size back"
            )


def pair_sampler(
    pool: Pool, settings: PaftConfig, rows: int, shuffle: bool, replicas: int, rank: int, content: str = ""
) -> PairSampler:
    """The sampler for a pool's train templates and ``rows`` rows, as the settings say.

    Args:
        content: a digest of the rows.
    """
    policy = POLICIES[settings.policy](pool.of_split("train"), settings, rows, shuffle)
    fingerprint = {
        "paft.pool content": pool.content_hash,
        "paft.policy": settings.policy,
        "paft.template": settings.template,
        "paft.block": settings.block,
        "paft.seed": settings.seed,
        "paft.fields": settings.fields,
        "data.shuffle": shuffle,
        "data.train_files rows": rows,
        "data.train_files content": content,
        "data-parallel ranks": replicas,
    }
    return PairSampler(policy, fingerprint, replicas, rank)
