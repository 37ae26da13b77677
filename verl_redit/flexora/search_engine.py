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

"""verl's FSDP engine with a search beside its training (``mode=search``), which may go on with what it has chosen
(``mode=one_run``)."""

from collections.abc import Iterable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch
from torch.distributed import ReduceOp
from verl.utils.device import get_device_id
from verl.workers.engine.base import EngineRegistry
from verl.workers.engine.fsdp.transformer_impl import FSDPEngineWithLMHead

from verl_redit.flexora.adapter import Gates, begin_anew, lora_modules, lora_parameters
from verl_redit.flexora.batches import joined, parts_of
from verl_redit.flexora.choice import NoChoice
from verl_redit.flexora.export import write_settings
from verl_redit.flexora.folder import SearchFolder
from verl_redit.flexora.layers import as_regex, units_of
from verl_redit.flexora.parts import TooFewGroups
from verl_redit.flexora.priors import prior, spectral
from verl_redit.flexora.record import Record
from verl_redit.flexora.registry import SEARCH, SERVED, settings_of
from verl_redit.flexora.scores import APPLIED, METHODS, alphas, softmax_gates
from verl_redit.flexora.search import Factors, Search
from verl_redit.flexora.selection import BadSelection
from verl_redit.flexora.startup import (
    adapter_problems,
    begun_problems,
    choice_problems,
    dropout_problems,
    gradient_problems,
    length_problems,
    lora_problems,
    noise_problems,
    refuse,
)
from verl_redit.flexora.switch import Switch
from verl_redit.plugin import install_early


class SearchEngine(FSDPEngineWithLMHead):
    """The stock engine, which scores layers as it trains."""

    def __init__(self, model_config, engine_config, optimizer_config, checkpoint_config):
        super().__init__(model_config, engine_config, optimizer_config, checkpoint_config)
        self.flexora = settings_of(model_config)
        self.method = (APPLIED if self.flexora.apply else METHODS)[self.flexora.method]
        self.search: Search | None = None
        self.switch = Switch(self.flexora.grain)

    def _build_lora_module(self, module):
        module = super()._build_lora_module(module)
        refuse(adapter_problems(module.peft_config["default"]))
        if self.flexora.method == "spectral" and not self.engine_config.forward_only:
            self.spectral = self._spectral(lora_modules(module))
        return module

    def _spectral(self, modules: dict[str, Any]) -> np.ndarray:
        scores = [np.empty(0)]
        if self.rank == 0:  # the other ranks have no weights before they are sharded
            weights = {name: part.base_layer.weight for name, part in modules.items()}
            scores = [spectral(units_of(modules, self.flexora.grain), weights, get_device_id())]
        torch.distributed.broadcast_object_list(scores, src=0)
        return scores[0]

    def initialize(self):
        super().initialize()
        refuse(lora_problems(self._is_lora))
        self.gates = Gates(self.module, self.flexora.grain)
        if self.engine_config.forward_only:
            return
        factors = self._factors()
        sizes, dtypes = self._sizes(factors.units), {self._autocast_dtype, *(p.dtype for p in factors.parameters)}
        refuse(
            [
                *gradient_problems(self.method, self.scaler is not None, dtypes, self.engine_config.offload_policy),
                *dropout_problems(self.method, self._dropout()),
                *choice_problems(self.flexora, factors.units, sizes),
                *begun_problems(self.flexora, self.model_config.lora_adapter_path),
            ]
        )
        self.search = Search(factors, self.method, self.flexora.inner_steps)
        model = {
            "path": str(self.model_config.path),
            "type": self.model_config.hf_config.model_type,
            # an adapter from lora_adapter_path has its own
            "lora_rank": next(iter(lora_modules(self.module).values())).r["default"],
            "exclude_modules": as_regex(self.model_config.exclude_modules),
        }
        self.record = Record(dict(vars(self.flexora)), factors.units, sizes, model)
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

    def _dropout(self) -> float:
        layers = [module.p for module in self.module.modules() if isinstance(module, torch.nn.Dropout)]
        return max([getattr(self.model_config.hf_config, "attention_dropout", None) or 0.0, *layers])

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
        if self.flexora.mode == "one_run" and "responses" not in data:  # V1 trainers are checked before they start
            refuse(length_problems(self.flexora, self.optimizer_config.total_training_steps))
        try:
            outputs, groups, statistics = self._measured(search, data, loss_function)
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

    def _measured(self, search: Search, data, loss_function) -> tuple[list, list[str], dict[str, np.ndarray]]:
        """Backpropagate a batch in parts; returns outputs of those that train, all groups, and the statistics."""
        backpropagate = super().forward_backward_batch
        parts = parts_of(
            data, loss_function, self.method.passes, self.flexora.held_out, self.flexora.seed, self._everyone
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
        self.folder.note(groups, statistics, skipped)
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
            refuse(f"{problem}. {kept}" for problem in noise_problems(selection, self.flexora.accept_noise))
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

    def save_checkpoint(self, local_path, *args, **kwargs):
        super().save_checkpoint(local_path, *args, **kwargs)
        self.folder.save(Path(local_path))
        if self.rank == 0:
            write_settings(next(iter(self.module.peft_config.values())), Path(local_path))

    def load_checkpoint(self, local_path, *args, **kwargs):
        # before torch lists all the tensors that do not fit
        followed = self.folder.resume(Path(local_path))
        super().load_checkpoint(local_path, *args, **kwargs)
        self.folder.replace()
        if self.method.passes == "none":
            return
        if len(self.record.steps) >= self.flexora.search_steps:
            self._conclude()
            if followed and self.switch.is_due:
                self.switch.done()
        elif self.flexora.apply:
            self._apply_gates()


def register(transformer_impl: ModuleType) -> None:
    """Register the engine beside verl's."""
    EngineRegistry.register(**SERVED, vendor=SEARCH)(SearchEngine)


install_early(__name__)
