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

"""verl's FSDP engine with LoRA on the layers of a selection file alone (``mode=selected``)."""

from contextlib import nullcontext
from pathlib import Path
from types import ModuleType

import torch
from verl.workers.engine.base import EngineRegistry
from verl.workers.engine.fsdp.transformer_impl import FSDPEngineWithLMHead

from verl_redit.flexora.adapter import lora_modules, no_embedding_gradients
from verl_redit.flexora.export import write_settings
from verl_redit.flexora.record import checkpointed
from verl_redit.flexora.registry import SELECTED, SERVED, settings_of
from verl_redit.flexora.selection import load
from verl_redit.flexora.startup import (
    adapter_problems,
    lora_problems,
    model_problems,
    noise_problems,
    offload_problems,
    refuse,
    resume_problems,
    selection_problems,
)
from verl_redit.plugin import install_early


class SelectedEngine(FSDPEngineWithLMHead):
    """The stock engine, which checks that the model's LoRA is what was selected, and keeps the selection."""

    def __init__(self, model_config, engine_config, optimizer_config, checkpoint_config):
        super().__init__(model_config, engine_config, optimizer_config, checkpoint_config)
        self.flexora = settings_of(model_config)
        self.selection = load(str(self.flexora.selection))

    def _build_lora_module(self, module):
        searched = {name for unit in self.selection.units for name in unit.modules}
        widths = {name: sum(part.weight.shape) for name, part in module.named_modules() if name in searched}
        # before PEFT says that it found nothing to adapt
        refuse(model_problems(self.selection, self.model_config.hf_config.model_type, widths))
        refuse(noise_problems(self.selection, self.flexora.accept_noise))
        searched_in, own = self.selection.model["path"], str(self.model_config.path)
        if self.rank == 0 and Path(searched_in).resolve() != Path(own).resolve():
            print(f"flexora: the layers were chosen in {searched_in}, and this model is {own}")
        if self.flexora.stop_backward:
            refuse(offload_problems(self.model_config))
        with no_embedding_gradients(module) if self.flexora.stop_backward else nullcontext():
            module = super()._build_lora_module(module)
        refuse(adapter_problems(module.peft_config["default"]))
        refuse(selection_problems(self.selection, lora_modules(module)))
        return module

    def initialize(self):
        super().initialize()
        refuse(lora_problems(self._is_lora))

    def _kept(self, checkpoint: str) -> Path:
        record = checkpointed(Path(checkpoint), torch.distributed.get_world_size(), self.rank)
        return record.with_suffix(".json")

    def save_checkpoint(self, local_path, *args, **kwargs):
        super().save_checkpoint(local_path, *args, **kwargs)
        self.selection.write(self._kept(local_path))
        if self.rank == 0:
            write_settings(next(iter(self.module.peft_config.values())), Path(local_path))

    def load_checkpoint(self, local_path, *args, **kwargs):
        # before torch lists all the tensors that do not fit
        refuse(resume_problems(self.selection, self._kept(local_path)))
        super().load_checkpoint(local_path, *args, **kwargs)


def register(transformer_impl: ModuleType) -> None:
    """Register the engine beside verl's."""
    EngineRegistry.register(**SERVED, vendor=SELECTED)(SelectedEngine)


install_early(__name__)
