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

"""(row, template) pairs through the loader that verl uses, stopped and resumed."""

import pytest
from torch.utils.data import Dataset
from torchdata.stateful_dataloader import StatefulDataLoader

from tests.paft.test_selection import templates
from verl_redit.paft.config import PaftConfig
from verl_redit.paft.pool import Pool
from verl_redit.paft.sampler import POLICIES, PoolChanged, pair_sampler

ROWS, BATCH = 23, 4
POOL = Pool("p", ("question",), tuple(templates(5, tiers="ab")), ("",) * 5)


class Pairs(Dataset):
    def __len__(self):
        return ROWS

    def __getitem__(self, pair):
        return pair


def loader(workers: int, policy: str = "cycle", batch: int = BATCH, **sampler) -> StatefulDataLoader:
    chosen = pair_sampler(POOL, PaftConfig(policy=policy), ROWS, True, **{"replicas": 1, "rank": 0, **sampler})
    return StatefulDataLoader(
        Pairs(), batch_size=batch, num_workers=workers, drop_last=True, collate_fn=list, sampler=chosen
    )


def epochs(count: int, *args, **kwargs) -> list[list]:
    made = loader(*args, **kwargs)
    return [list(made) for _ in range(count)]


@pytest.mark.parametrize("policy", POLICIES)
def test_worker_counts_change_nothing(policy):
    assert epochs(2, 0, policy) == epochs(2, 3, policy)


def test_a_row_gets_another_template_in_each_epoch_with_8_workers():
    first, second, third = ({row: t for batch in epoch for row, t in batch} for epoch in epochs(3, 8))
    for one, other in [(first, second), (second, third), (first, third)]:
        assert all(one[row] != other[row] for row in one.keys() & other.keys())


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("policy", ["cycle", "block", "uniform", "stratified"])
@pytest.mark.parametrize("stop", [1, 3, 5, 6, 10])
def test_a_resumed_loader_goes_on_with_the_same_pairs(workers, policy, stop):
    per_epoch = ROWS // BATCH
    whole = [batch for epoch in epochs(4, workers, policy) for batch in epoch]
    stopped = loader(workers, policy)
    source, seen = iter(stopped), []
    for _ in range(stop):
        try:
            seen.append(next(source))
        except StopIteration:
            source = iter(stopped)
            seen.append(next(source))
    resumed = loader(workers, policy)
    resumed.load_state_dict(stopped.state_dict())
    rest = [batch for _ in range(4) for batch in resumed]
    assert seen == whole[:stop]
    assert rest[: 2 * per_epoch] == whole[stop : stop + 2 * per_epoch]


@pytest.mark.parametrize("policy", POLICIES)
def test_a_single_prompt_at_a_time_draws_the_same_pairs(policy):
    alone = [pair for batch in epochs(1, 0, policy, batch=1)[0] for pair in batch]
    together = [pair for batch in epochs(1, 0, policy)[0] for pair in batch]
    assert alone[: len(together)] == together


@pytest.mark.parametrize("replicas", [2, 3])
def test_ranks_share_out_the_draws_of_one(replicas):
    alone = [pair for batch in epochs(1, 0, batch=1)[0] for pair in batch]
    ranks = [[pair for [pair] in epochs(1, 0, batch=1, replicas=replicas, rank=rank)[0]] for rank in range(replicas)]
    assert [pair for together in zip(*ranks, strict=True) for pair in together] == alone[: ROWS // replicas * replicas]


def test_a_trainer_may_choose_the_epoch():
    made = loader(0)
    second = epochs(2, 0)[1]
    made.sampler.set_epoch(1)
    assert list(made) == second


@pytest.mark.parametrize("workers", [0, 2])
def test_a_run_resumed_at_the_end_of_an_epoch_begins_the_one_that_the_trainer_chooses(workers):
    stopped = loader(workers)
    stopped.sampler.set_epoch(0)
    source = iter(stopped)
    for _ in range(ROWS // BATCH):
        next(source)
    resumed = loader(workers)
    resumed.load_state_dict(stopped.state_dict())
    resumed.sampler.set_epoch(1)
    assert list(resumed) == epochs(2, 0)[1]


def test_a_trainer_that_counts_other_batches_is_refused():
    stopped = loader(0)
    stopped.sampler.set_epoch(0)
    next(iter(stopped))
    resumed = loader(0)
    resumed.load_state_dict(stopped.state_dict())
    resumed.sampler.set_epoch(1)
    with pytest.raises(PoolChanged, match="4 draws into epoch 0, but the trainer goes on with epoch 1"):
        next(iter(resumed))


def test_another_pool_is_refused():
    stopped = loader(0)
    next(iter(stopped))
    resumed = loader(0)
    resumed.sampler.fingerprint["paft.pool content"] = "other"
    resumed.load_state_dict(stopped.state_dict())
    with pytest.raises(
        PoolChanged, match="the checkpoint was written with paft.pool content [0-9a-f]{16}, this run has"
    ):
        next(iter(resumed))
