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

"""A dataset brings its sampler and is told its role, in verl's loaders.

Nothing here names the suite: `tests/patches` runs this file again on a verl with the patch and without the backport.
"""

import sys
from types import ModuleType, SimpleNamespace

import pytest
from omegaconf import OmegaConf
from torch.utils.data import Dataset, DistributedSampler
from verl.trainer import sft_trainer, sft_trainer_ray
from verl.trainer.ppo import ray_trainer, utils
from verl.trainer.ppo.v1 import trainer_base


class Own(Dataset):
    """A user's dataset; without `is_train` in its signature as well."""

    def __init__(self, data_files, tokenizer, processor, config, max_samples=-1):
        self.data_files = data_files

    def __len__(self):
        return 4


class Told(Own):
    def __init__(self, *args, is_train, **kwargs):
        super().__init__(*args, **kwargs)
        self.is_train = is_train

    def create_sampler(self, data_config):
        return Reversed(self)

    def create_distributed_sampler(self, num_replicas, rank):
        return Reversed(self, num_replicas, rank)


class Reversed:
    def __init__(self, dataset, *ranks):
        self.dataset, self.ranks = dataset, ranks

    def __iter__(self):
        return iter(range(len(self.dataset))[::-1])

    def __len__(self):
        return len(self.dataset)


@pytest.fixture
def data(monkeypatch):
    module = ModuleType("users_module")
    module.Own, module.Told = Own, Told
    monkeypatch.setitem(sys.modules, "users_module", module)

    def config(name: str, shuffle: bool = False):
        return OmegaConf.create({"custom_cls": {"path": "pkg://users_module", "name": name}, "shuffle": shuffle})

    return config


@pytest.mark.parametrize("trainer", [utils, trainer_base, ray_trainer])
@pytest.mark.parametrize("is_train", [True, False])
def test_a_dataset_that_asks_is_told_whether_it_trains(data, trainer, is_train):
    assert trainer.create_rl_dataset("f", data("Told"), None, None, is_train=is_train).is_train is is_train
    assert trainer.create_rl_dataset("f", data("Told"), None, None).is_train is True
    assert type(trainer.create_rl_dataset("f", data("Own"), None, None, is_train=is_train)) is Own


@pytest.mark.parametrize("trainer", [utils, trainer_base, ray_trainer])
def test_a_dataset_with_a_sampler_is_asked_for_it(data, trainer):
    dataset = trainer.create_rl_dataset("f", data("Told"), None, None)
    sampler = trainer.create_rl_sampler(data("Told"), dataset)
    assert type(sampler) is Reversed and sampler.dataset is dataset


@pytest.mark.parametrize("shuffle, kind", [(False, "SequentialSampler"), (True, "RandomSampler")])
def test_a_dataset_without_one_gets_verls(data, shuffle, kind):
    config = data("Own", shuffle)
    dataset = utils.create_rl_dataset("f", config, None, None)
    assert type(utils.create_rl_sampler(data_config=config, dataset=dataset)).__name__ == kind


def test_the_class_itself_is_what_others_get(data):
    from verl.utils.dataset.rl_dataset import get_dataset_class

    assert get_dataset_class(data("Told")) is Told


class Trainer(SimpleNamespace):
    """A supervised trainer, as far as it builds its loaders."""

    def __init__(self, dataset):
        data = {"train_batch_size": 2, "pad_mode": "no_padding", "num_workers": 0}
        trainer = {"total_training_steps": 1, "save_freq": -1, "test_freq": -1}
        config = OmegaConf.create({"data": data, "trainer": trainer})
        engine = SimpleNamespace(get_data_parallel_rank=lambda: 1, get_data_parallel_size=lambda: 2)
        super().__init__(config=config, engine=engine, train_dataset=dataset, val_dataset=dataset)
        self.optimizer_config = SimpleNamespace()


@pytest.mark.parametrize("module, ranks", [(sft_trainer, (2, 1)), (sft_trainer_ray, (1, 0))])
def test_the_supervised_trainers_ask_for_the_training_sampler_alone(module, ranks):
    trainer = Trainer(object.__new__(Told))
    module.SFTTrainer._build_dataloader(trainer)
    assert type(trainer.train_sampler) is Reversed and trainer.train_sampler.ranks == ranks
    assert type(trainer.val_sampler) is DistributedSampler


@pytest.mark.parametrize("module, ranks", [(sft_trainer, (2, 1)), (sft_trainer_ray, (1, 0))])
def test_the_supervised_trainers_shuffle_other_datasets_themselves(module, ranks):
    trainer = Trainer(object.__new__(Own))
    module.SFTTrainer._build_dataloader(trainer)
    sampler = trainer.train_sampler
    assert type(sampler) is DistributedSampler
    assert (sampler.num_replicas, sampler.rank, sampler.shuffle, sampler.drop_last) == (*ranks, True, True)
