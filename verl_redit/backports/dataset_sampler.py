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

"""A dataset may bring its own sampler, and is told whether it holds the training files.

The same as ``patches/0001-dataset-provided-sampler.patch``: verl's `create_rl_dataset` passes ``is_train`` to a
custom dataset class that takes it, and `create_rl_sampler` asks a dataset that has ``create_sampler(data_config)`` for
the sampler. And as ``patches/0011-sft-dataset-provided-sampler.patch``: the supervised trainers ask one that has
``create_distributed_sampler(num_replicas, rank)``.

Two differences from the patches. Three trainers (the legacy, the fully-async and the one-step-off one) do not say which
files they validate on, so that is told by ``data.val_files``; with the same files for both, the dataset hears
``is_train=True`` both times.
And a supervised trainer that runs as a script (``torchrun -m``) is extended by the dataset that wants it, with
`extend_running_trainer`: no import hook sees it.
"""

import inspect
import sys
from contextvars import ContextVar
from functools import partial
from types import ModuleType

import wrapt

from verl_redit.backports import is_needed

SFT_TRAINERS = ("verl.trainer.sft_trainer", "verl.trainer.sft_trainer_ray")
_is_train: ContextVar[bool | None] = ContextVar("is_train", default=None)


def extend_rl_loaders(utils: ModuleType) -> None:
    """Extend ``verl.trainer.ppo.utils``, before the trainers take the two functions from it by name."""
    if is_needed(utils.create_rl_dataset, "is_train", {"data_paths", "data_config", "get_dataset_class"}):
        wrapt.wrap_function_wrapper(utils, "create_rl_dataset", _create_rl_dataset)
        # verl's function takes it from there at each call
        wrapt.register_post_import_hook(_extend_dataset_class, "verl.utils.dataset.rl_dataset")
    stock = {"data_config", "dataset", "RandomSampler", "SequentialSampler"}
    if is_needed(utils.create_rl_sampler, "create_sampler", stock):
        wrapt.wrap_function_wrapper(utils, "create_rl_sampler", _create_rl_sampler)


def _extend_dataset_class(rl_dataset: ModuleType) -> None:
    wrapt.wrap_function_wrapper(rl_dataset, "get_dataset_class", _get_dataset_class)


def extend_sft_trainer(trainer: ModuleType) -> None:
    """Extend a module of verl's supervised trainers."""
    if is_needed(trainer.SFTTrainer._build_dataloader, "create_sft_sampler", {"DistributedSampler"}):
        wrapt.wrap_function_wrapper(trainer, "DistributedSampler", _sft_sampler)


def extend_running_trainer() -> None:
    """`extend_sft_trainer` for one that runs as a script, which no import hook sees."""
    main = sys.modules["__main__"]
    started_as = getattr(main.__spec__, "name", None)
    if started_as in SFT_TRAINERS and not isinstance(main.DistributedSampler, wrapt.FunctionWrapper):
        extend_sft_trainer(main)


def _create_rl_dataset(wrapped, instance, args, kwargs):
    arguments = inspect.signature(wrapped).bind(*args, **kwargs).arguments
    # three trainers do not say so of their validation files
    files, data = arguments["data_paths"], arguments["data_config"]
    is_validation = files == data.get("val_files") and files != data.get("train_files")
    token = _is_train.set(arguments.get("is_train", not is_validation))
    try:
        return wrapped(*args, **kwargs)
    finally:
        _is_train.reset(token)


def _get_dataset_class(wrapped, instance, args, kwargs):
    dataset_class, is_train = wrapped(*args, **kwargs), _is_train.get()
    takes_it = "is_train" in inspect.signature(dataset_class.__init__).parameters
    return dataset_class if is_train is None or not takes_it else partial(dataset_class, is_train=is_train)


def _create_rl_sampler(wrapped, instance, args, kwargs):
    arguments = inspect.signature(wrapped).bind(*args, **kwargs).arguments
    if create_sampler := getattr(arguments["dataset"], "create_sampler", None):
        return create_sampler(arguments["data_config"])
    return wrapped(*args, **kwargs)


def _sft_sampler(wrapped, instance, args, kwargs):
    arguments = inspect.signature(wrapped).bind(*args, **kwargs).arguments
    create_sampler = getattr(arguments["dataset"], "create_distributed_sampler", None)
    if create_sampler and arguments.get("shuffle", True):  # verl shuffles the training files alone
        return create_sampler(arguments["num_replicas"], arguments["rank"])
    return wrapped(*args, **kwargs)
