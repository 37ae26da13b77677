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

"""A dataset brings its sampler and is told its role, in verl's loaders."""

import sys
from types import ModuleType, SimpleNamespace

import pytest
import torch.utils.data
from omegaconf import OmegaConf
from torch.utils.data import Dataset, DistributedSampler
from verl.trainer import sft_trainer, sft_trainer_ray
from verl.trainer.ppo import ray_trainer, utils
from verl.trainer.ppo.v1 import trainer_base

from verl_redit.backports import dataset_sampler


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
        return "own sampler", data_config

    def create_distributed_sampler(self, num_replicas, rank):
        return "own sampler", num_replicas, rank


@pytest.fixture
def data(monkeypatch):
    module = ModuleType("users_module")
    module.Own, module.Told = Own, Told
    monkeypatch.setitem(sys.modules, "users_module", module)

    def config(name: str):
        return OmegaConf.create({"custom_cls": {"path": "pkg://users_module", "name": name}, "shuffle": False})

    return config


@pytest.mark.parametrize("trainer", [utils, trainer_base, ray_trainer])
@pytest.mark.parametrize("is_train", [True, False])
def test_a_dataset_that_asks_is_told_whether_it_trains(data, trainer, is_train):
    assert trainer.create_rl_dataset("f", data("Told"), None, None, is_train=is_train).is_train is is_train
    assert trainer.create_rl_dataset("f", data("Told"), None, None).is_train is True
    assert type(trainer.create_rl_dataset("f", data("Own"), None, None, is_train=is_train)) is Own


def test_trainers_that_do_not_tell_validate_on_the_validation_files(data):
    """The fully-async and the one-step-off trainer."""
    config = data("Told")
    config.train_files, config.val_files = "t", "v"
    assert utils.create_rl_dataset("t", config, None, None).is_train is True
    assert utils.create_rl_dataset("v", config, None, None).is_train is False


@pytest.mark.parametrize("trainer", [utils, trainer_base, ray_trainer])
def test_a_dataset_with_a_sampler_is_asked_for_it(data, trainer):
    config = data("Told")
    dataset = trainer.create_rl_dataset("f", config, None, None)
    assert trainer.create_rl_sampler(config, dataset) == ("own sampler", config)
    stock = trainer.create_rl_sampler(
        data_config=config, dataset=trainer.create_rl_dataset("f", data("Own"), None, None)
    )
    assert type(stock) is torch.utils.data.SequentialSampler


def test_the_class_itself_is_what_others_get(data):
    from verl.utils.dataset.rl_dataset import get_dataset_class

    assert get_dataset_class(data("Told")) is Told


@pytest.mark.parametrize("trainer", [sft_trainer, sft_trainer_ray])
def test_the_supervised_trainers_ask_for_the_training_sampler_alone(trainer):
    told, own = object.__new__(Told), object.__new__(Own)
    ranks = dict(num_replicas=2, rank=1, drop_last=True)
    assert trainer.DistributedSampler(told, shuffle=True, **ranks) == ("own sampler", 2, 1)
    assert type(trainer.DistributedSampler(told, shuffle=False, **ranks)) is DistributedSampler
    assert type(trainer.DistributedSampler(own, shuffle=True, **ranks)) is DistributedSampler


def test_a_trainer_that_runs_as_a_script_is_extended_once(monkeypatch):
    script = ModuleType("__main__")
    script.__spec__ = SimpleNamespace(name="verl.trainer.sft_trainer")
    script.DistributedSampler = DistributedSampler
    monkeypatch.setitem(sys.modules, "__main__", script)
    for _ in range(2):
        dataset_sampler.extend_running_trainer()
    assert script.DistributedSampler(object.__new__(Told), shuffle=True, num_replicas=2, rank=0)[0] == "own sampler"
    assert script.DistributedSampler.__wrapped__ is DistributedSampler


def test_other_scripts_are_left_alone(monkeypatch):
    script = ModuleType("__main__")
    script.__spec__ = None
    monkeypatch.setitem(sys.modules, "__main__", script)
    dataset_sampler.extend_running_trainer()
    assert not hasattr(script, "DistributedSampler")
