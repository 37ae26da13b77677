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

"""When a backport extends verl, and what it does that its patch does in verl's callers."""

import importlib
import logging
import sys
from collections.abc import Callable
from functools import partial
from types import ModuleType, SimpleNamespace

import pytest
import ray
import wrapt
from omegaconf import OmegaConf
from torch.utils.data import Dataset, DistributedSampler
from verl.trainer import sft_trainer
from verl.trainer.ppo import utils

from verl_redit import plugin
from verl_redit.backports import dataset_sampler, weight_transfer


class Told(Dataset):
    def __init__(self, data_files, tokenizer, processor, config, max_samples, is_train):
        self.is_train = is_train

    def create_distributed_sampler(self, num_replicas, rank):
        return "own sampler"


def test_trainers_that_do_not_tell_validate_on_the_validation_files(monkeypatch):
    """The fully-async and the one-step-off trainer."""
    module = ModuleType("users_module")
    module.Told = Told
    monkeypatch.setitem(sys.modules, "users_module", module)
    files = {"train_files": "t", "val_files": "v"}
    config = OmegaConf.create({"custom_cls": {"path": "pkg://users_module", "name": "Told"}, **files})
    assert utils.create_rl_dataset("t", config, None, None).is_train is True
    assert utils.create_rl_dataset("v", config, None, None).is_train is False


def test_a_trainer_that_runs_as_a_script_is_extended_once(monkeypatch):
    script = ModuleType("__main__")
    script.__spec__ = SimpleNamespace(name="verl.trainer.sft_trainer")
    script.DistributedSampler, script.SFTTrainer = DistributedSampler, sft_trainer.SFTTrainer
    monkeypatch.setitem(sys.modules, "__main__", script)
    for _ in range(2):
        dataset_sampler.extend_running_trainer()
    assert script.DistributedSampler(object.__new__(Told), shuffle=True, num_replicas=2, rank=0) == "own sampler"
    assert script.DistributedSampler.__wrapped__ is DistributedSampler


def test_other_scripts_are_left_alone(monkeypatch):
    script = ModuleType("__main__")
    script.__spec__ = None
    monkeypatch.setitem(sys.modules, "__main__", script)
    dataset_sampler.extend_running_trainer()
    assert not hasattr(script, "DistributedSampler")


def verls(body: str) -> ModuleType:
    """A module in the place of ``verl.trainer.ppo.utils``."""
    module = ModuleType("verl.trainer.ppo.utils")
    exec(body, module.__dict__)
    return module


CHANGED = """
def create_rl_dataset(data_paths, data_config, tokenizer, processor, is_train=True, max_samples=-1):
    return get_dataset_class(data_config)(data_paths, **{"is_train": is_train})

def create_rl_sampler(data_config, dataset):
    return dataset.create_sampler(data_config)
"""


def test_what_verl_has_itself_is_left_alone_and_said_at_debug(caplog):
    utils = verls(CHANGED)
    with caplog.at_level(logging.DEBUG, "verl_redit.backports"):
        dataset_sampler.extend_rl_loaders(utils)
    assert not isinstance(utils.create_rl_dataset, wrapt.ObjectProxy)
    assert not isinstance(utils.create_rl_sampler, wrapt.ObjectProxy)
    assert [record.levelname for record in caplog.records] == ["DEBUG", "DEBUG"]
    assert "create_rl_sampler has what a backport would add" in caplog.text


STOCK = """
def create_rl_dataset(data_paths, data_config, tokenizer, processor, is_train=True, max_samples=-1):
    return get_dataset_class(data_config)(data_paths, is_train)

def create_rl_sampler(data_config, dataset):
    return RandomSampler(dataset) if dataset.shuffle else SequentialSampler(dataset)
"""


@pytest.mark.parametrize(
    "before, after, missing",
    [
        ("(data_config, dataset)", "(config, dataset)", "create_rl_sampler.*no data_config"),
        ("RandomSampler(dataset)", "load(data_config.sampler)", "create_rl_sampler.*no RandomSampler"),
        ("get_dataset_class(data_config)", "find(data_config)", "create_rl_dataset.*no get_dataset_class"),
    ],
)
def test_what_is_neither_as_known_nor_changed_is_refused(before, after, missing):
    assert before in STOCK
    with pytest.raises(ImportError, match=missing):
        dataset_sampler.extend_rl_loaders(verls(STOCK.replace(before, after)))


methods = pytest.mark.parametrize(
    "extend, method, changed, missing",
    [
        (
            dataset_sampler.extend_sft_trainer,
            "SFTTrainer._build_dataloader",
            "create_sft_sampler",
            "DistributedSampler",
        ),
        (weight_transfer.name_sender, "ServerAdapter.__init__", "get_job_id_on_node", "get_job_id, zmq_handle"),
        (weight_transfer.name_receiver, "vLLMHttpServer.__init__", "get_job_id_on_node", "environ, get_job_id"),
    ],
    ids=lambda value: getattr(value, "__name__", None),
)


def with_method(method: str, body: str) -> tuple[ModuleType, Callable]:
    """A module of verl's that has it, and the method."""
    owner, name = method.split(".")
    module = verls(f"class {owner}:\n    def {name}(self):\n        {body}")
    return module, getattr(getattr(module, owner), name)


@methods
def test_a_method_that_is_changed_already_is_left_alone(extend, method, changed, missing, caplog):
    module, before = with_method(method, f"{changed}()")
    with caplog.at_level(logging.DEBUG, "verl_redit.backports"):
        extend(module)
    owner, name = method.split(".")
    assert getattr(getattr(module, owner), name) is before and "DistributedSampler" not in vars(module)
    assert f"{method} has what a backport would add" in caplog.text


@methods
def test_a_method_of_another_verl_is_refused(extend, method, changed, missing):
    module, _ = with_method(method, "rewritten()")
    with pytest.raises(ImportError, match=f"{method} is not the function .* it has no {missing}"):
        extend(module)


def test_a_socket_without_the_jobs_id_is_refused(monkeypatch):
    module, _ = with_method("ServerAdapter.__init__", "self.zmq_handle = str(get_job_id)")
    module.get_job_id = "ipc:///tmp/of-nobody.sock"
    monkeypatch.setattr(ray, "get_runtime_context", lambda: SimpleNamespace(get_job_id=lambda: "01000000"))
    weight_transfer.name_sender(module)
    with pytest.raises(RuntimeError, match="of-nobody.sock does not name Ray's job 01000000"):
        module.ServerAdapter()


HOST = "verl_redit_test_host"


def test_a_refused_module_is_refused_at_every_import(tmp_path, monkeypatch, caplog):
    (tmp_path / f"{HOST}.py").write_text("")
    monkeypatch.syspath_prepend(str(tmp_path))
    # an adapter of the plugin's that does not know this host
    adapter = "verl_redit.backports.dataset_sampler:extend_rl_loaders"
    wrapt.register_post_import_hook(partial(plugin._install, adapter), HOST)
    monkeypatch.setattr(plugin, "refused", {})
    with pytest.raises(AttributeError, match="create_rl_dataset"):
        importlib.import_module(HOST)
    for _ in range(2):
        with pytest.raises(ImportError, match=f"could not extend {HOST}: .*create_rl_dataset"):
            importlib.import_module(HOST)
    assert f"verl-redit could not extend {HOST}" in caplog.text
