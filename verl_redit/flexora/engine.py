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

"""Flexora in verl's FSDP engine: `FlexoraEngine` is the stock engine with a search beside its training.

It is registered under the vendor name ``flexora`` and chosen for models whose config has ``lora.flexora``, which the
Hydra groups ``+flexora=…`` fill in; every other model gets verl's own engine.
"""

import hashlib
from collections.abc import Iterable
from contextlib import nullcontext
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch
from omegaconf import OmegaConf
from torch.distributed import ReduceOp
from verl.utils.device import get_device_id
from verl.workers.engine.base import EngineRegistry
from verl.workers.engine.fsdp.transformer_impl import FSDPEngineWithLMHead

from verl_redit.flexora.adapter import Gates, begin_anew, lora_modules, lora_parameters, no_embedding_gradients
from verl_redit.flexora.batches import joined, parts_of
from verl_redit.flexora.choice import NoChoice
from verl_redit.flexora.config import FlexoraConfig
from verl_redit.flexora.export import write_settings
from verl_redit.flexora.folder import SearchFolder
from verl_redit.flexora.layers import units_of
from verl_redit.flexora.parts import TooFewGroups
from verl_redit.flexora.priors import prior, spectral
from verl_redit.flexora.record import Record, checkpointed
from verl_redit.flexora.registry import VENDOR
from verl_redit.flexora.scores import APPLIED, METHODS, alphas, softmax_gates
from verl_redit.flexora.search import Factors, Search
from verl_redit.flexora.selection import BadSelection, load
from verl_redit.flexora.startup import (
    adapter_problems,
    model_problems,
    noise_problems,
    offload_problems,
    precision_problems,
    resume_problems,
    selection_problems,
)
from verl_redit.flexora.switch import Switch
from verl_redit.plugin import install_early
from verl_redit.settings import parse


class FlexoraEngine(FSDPEngineWithLMHead):
    """verl's FSDP engine, with layers scored as it trains, or only chosen layers trained."""

    def __init__(self, model_config, engine_config, optimizer_config, checkpoint_config):
        super().__init__(model_config, engine_config, optimizer_config, checkpoint_config)
        node = OmegaConf.to_container(OmegaConf.create(model_config.lora["flexora"]), resolve=True)
        self.flexora = parse(FlexoraConfig, node, "flexora")
        self.method = (APPLIED if self.flexora.apply else METHODS)[self.flexora.method]
        self.search: Search | None = None
        self.switch = Switch(self.flexora.grain)

    def _build_lora_module(self, module):
        if self.flexora.mode == "selected":
            self.selection = load(str(self.flexora.selection))
            searched = {name for unit in self.selection.units for name in unit.modules}
            widths = {name: sum(part.weight.shape) for name, part in module.named_modules() if name in searched}
            # before PEFT says that it found nothing to adapt
            _refuse(model_problems(self.selection, self.model_config.hf_config.model_type, widths))
            _refuse(noise_problems(self.selection, self.flexora.accept_noise))
        if self.flexora.stop_backward:
            _refuse(offload_problems(self.model_config))
        with no_embedding_gradients(module) if self.flexora.stop_backward else nullcontext():
            module = super()._build_lora_module(module)
        _refuse(adapter_problems(module.peft_config["default"]))
        modules = lora_modules(module)
        if self.flexora.mode == "selected":
            _refuse(selection_problems(self.selection, modules))
        elif self.flexora.method == "spectral" and not self.engine_config.forward_only:
            self.spectral = self._spectral(modules)
        return module

    def _spectral(self, modules: dict[str, Any]) -> np.ndarray:
        weights = {name: part.base_layer.weight for name, part in modules.items()}
        # the other ranks have no weights before they are sharded
        own = spectral(units_of(modules, self.flexora.grain), weights) if self.rank == 0 else np.empty(0)
        scores = [own]
        torch.distributed.broadcast_object_list(scores, src=0)
        return scores[0]

    def initialize(self):
        super().initialize()
        if not self._is_lora:
            raise ValueError("flexora: lora_rank is 0, so there is no LoRA to choose layers for; set model.lora_rank")
        self.gates = Gates(self.module, self.flexora.grain)
        if self.engine_config.forward_only or self.flexora.mode == "selected":
            return
        _refuse(precision_problems(self.method, self.scaler is not None, self._autocast_dtype))
        factors = self._factors()
        if self.flexora.rule == "top_k" and (self.flexora.k or 0) >= len(factors.units):
            raise ValueError(f"flexora.k: {self.flexora.k} of {len(factors.units)} units is no choice; lower it")
        self.search = Search(factors, self.method, self.flexora.inner_steps)
        model = {
            "path": str(self.model_config.path),
            "type": self.model_config.hf_config.model_type,
            # an adapter from lora_adapter_path has its own
            "lora_rank": next(iter(lora_modules(self.module).values())).r["default"],
            "exclude_modules": self.model_config.exclude_modules,
        }
        self.record = Record(dict(vars(self.flexora)), factors.units, self._sizes(factors.units), model)
        self.folder = SearchFolder(self.record, self.flexora)
        self.folder.refuse_others()
        if self.method.passes == "none":
            by_place = self.flexora.method != "spectral"
            scores = prior(self.flexora.method, factors.units, self.flexora.seed) if by_place else self.spectral
            self._note([], {"prior": scores})
            self._conclude()

    def _sizes(self, units: dict[str, list[str]]) -> list[int]:
        parts = lora_modules(self.module)
        return [sum(lora_parameters(parts[module]) for module in modules) for modules in units.values()]

    def _over_shards(self, summed: torch.Tensor) -> torch.Tensor:
        """Add up over the ranks that share one copy of the parameters."""
        replicas = self.device_mesh.size(0) if self.device_mesh.ndim == 2 else 1
        summed = summed.to(get_device_id())
        torch.distributed.all_reduce(summed, op=ReduceOp.SUM)
        return summed.cpu() / replicas

    def _everyone(self, own: list) -> list[list]:
        group = self.get_data_parallel_group()
        gathered: list = [None] * torch.distributed.get_world_size(group)
        torch.distributed.all_gather_object(gathered, own, group)
        return gathered

    def forward_backward_batch(self, data, loss_function, forward_only=False):
        search = self.search
        if forward_only or search is None:
            return super().forward_backward_batch(data, loss_function, forward_only)
        step = len(self.record.steps) + 1
        try:
            outputs, groups, statistics = self._measured(search, data, loss_function, step)
            skipped = None
        except TooFewGroups as error:  # raised before anything is backpropagated
            if step == 1:
                raise
            outputs = [super().forward_backward_batch(data, loss_function)]
            groups, statistics, skipped = [], {}, str(error)
        self._note(groups, statistics, skipped)
        if step == self.flexora.search_steps:
            self._conclude()
        output = joined(outputs)
        if "responses" in data:
            output["metrics"] |= {"flexora/step": [step], "flexora/skipped_steps": [self.record.skipped]}
        return output

    def _measured(
        self, search: Search, data, loss_function, step: int
    ) -> tuple[list, list[str], dict[str, np.ndarray]]:
        """Backpropagate a batch in parts; returns outputs of those that train, all groups, and the statistics."""
        backpropagate = super().forward_backward_batch
        parts = parts_of(
            data, loss_function, self.method.passes, self.flexora.held_out, self.flexora.seed, step, self._everyone
        )
        train: list = []
        other: list = []
        statistics = search.measure(
            lambda: train.append(backpropagate(parts.train, parts.loss)),
            lambda: other.append(backpropagate(parts.other, parts.loss)),
            self.optimizer_config.lr,
        )
        # inner steps after the first train nothing, nor does what is held out
        return train[:1] + (other if self.method.passes == "halves" else []), parts.groups, statistics

    def _note(self, groups: Iterable[str], statistics: dict[str, np.ndarray], skipped: str | None = None) -> None:
        digest = hashlib.blake2b("".join(sorted(set(groups))).encode(), digest_size=8).hexdigest()
        self.folder.note(digest, statistics, skipped)
        if self.flexora.apply:
            self._apply_gates()

    def _apply_gates(self) -> None:
        history = self.record.history()
        if self.search and history:
            gates = softmax_gates(alphas(history["gate_gradient"], applied=True)[-1])
            self.search.gates = gates
            self.gates.act(dict(zip(self.record.units, gates.tolist(), strict=True)))

    def _conclude(self) -> None:
        """End the search, and train on as the mode says."""
        try:
            selection = self.folder.conclude()
        except (BadSelection, NoChoice) as error:
            if self.flexora.mode == "one_run":
                raise
            # the record is there, and `verl-redit flexora select` can choose from it
            print(f"flexora: nothing is chosen: {error}")
            self.search = None
            return
        self.search = None
        if self.flexora.mode == "one_run":
            kept = f"This choice is in {self.folder.selection_file}: +flexora=selected trains on it, if it is accepted"
            _refuse(f"{problem}. {kept}" for problem in noise_problems(selection, self.flexora.accept_noise))
            searched = self.method.passes != "none"
            self.switch.drop(
                (unit.name for unit in selection.units if not unit.chosen),
                anew=searched and self.flexora.switch == "reset",
                empty=not searched and self.model_config.lora_adapter_path is None,
            )

    def optimizer_step(self):
        self.switch.freeze(self.module.named_parameters())
        grad_norm = super().optimizer_step()
        if self.gates.of_unit and self.search is None:  # the gradients were those of B without the gates
            self.gates.fold(self._factors(), self.optimizer)
        return grad_norm

    def _factors(self) -> Factors:
        return Factors(self.module.named_parameters(), self.flexora.grain, self._over_shards)

    def lr_scheduler_step(self):
        rate = super().lr_scheduler_step()
        if self.switch.is_due:  # between two batches, because log-probs of the old adapter belong to the rest of one
            self._begin_anew()
            self.switch.done()
        is_over = self.lr_scheduler.last_epoch == self.optimizer_config.total_training_steps
        if self.search and is_over and self.rank == 0:
            print(
                f"flexora: the run is over before the search: {len(self.record.steps)} updates of "
                f"{self.flexora.search_steps}. Nothing is chosen; `verl-redit flexora select` can choose from "
                f"{self.folder.record_file}"
            )
        return rate

    def _begin_anew(self) -> None:
        factors = self._factors()
        inputs = {name: part.in_features for name, part in lora_modules(self.module).items()}
        begin_anew(factors, inputs, self.flexora.seed, self.device_mesh.get_local_rank(self.device_mesh.ndim - 1))
        for parameter in factors.parameters:
            self.optimizer.state.pop(parameter, None)

    def get_per_tensor_param(self, layered_summon=False, base_sync_done=False, **kwargs):
        tensors, peft_config = super().get_per_tensor_param(layered_summon, base_sync_done, **kwargs)
        if peft_config is None or not base_sync_done:
            return tensors, peft_config
        # vLLM knows no gates, so B carries them
        return self.gates.in_b(self.switch.synced(tensors)), peft_config

    def _kept(self, checkpoint: str) -> Path:
        record = checkpointed(Path(checkpoint), torch.distributed.get_world_size(), self.rank)
        return record.with_suffix(".json")

    def save_checkpoint(self, local_path, *args, **kwargs):
        super().save_checkpoint(local_path, *args, **kwargs)
        if self.flexora.mode == "selected":
            self.selection.write(self._kept(local_path))
        else:
            self.folder.save(Path(local_path))
        if self.rank == 0:
            write_settings(next(iter(self.module.peft_config.values())), Path(local_path))

    def load_checkpoint(self, local_path, *args, **kwargs):
        # before torch lists all the tensors that do not fit
        followed = False
        if self.flexora.mode == "selected":
            _refuse(resume_problems(self.selection, self._kept(local_path)))
        else:
            followed = self.folder.resume(Path(local_path))
        super().load_checkpoint(local_path, *args, **kwargs)
        if self.flexora.mode == "selected":
            return
        self.folder.replace()
        if self.method.passes == "none":
            return
        if len(self.record.steps) >= self.flexora.search_steps:
            self._conclude()
            if followed and self.switch.is_due:
                self.switch.done()
        elif self.flexora.apply:
            self._apply_gates()


def _refuse(problems: Iterable[str]) -> None:
    if problems := list(problems):
        raise ValueError("\n".join(problems))


def register(transformer_impl: ModuleType) -> None:
    """Register the engine beside verl's."""
    EngineRegistry.register(
        model_type="language_model", backend=["fsdp", "fsdp2"], device=["cuda", "npu", "cpu"], vendor=VENDOR
    )(FlexoraEngine)


install_early(__name__)
