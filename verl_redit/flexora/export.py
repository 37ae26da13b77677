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

"""A checkpoint of verl's FSDP engine as a plain PEFT adapter, on exactly the layers that were trained.

verl's own merger names target modules by their last part (``q_proj``), so PEFT puts the adapter on every layer again.
"""

import json
import pickle
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig
from peft.utils import CONFIG_NAME, SAFETENSORS_WEIGHTS_NAME
from safetensors.torch import save_file
from torch.distributed.tensor import DTensor  # its import also lets torch.load take sharded tensors as weights

from verl_redit.flexora.layers import depth_order, lora_factor
from verl_redit.flexora.record import BadRecord, checkpointed, read

PREFIX = "base_model.model"
SETTINGS = "flexora_adapter.json"


class ExportError(ValueError):
    """A checkpoint that cannot be exported; the message names the file and the mend."""


@dataclass(frozen=True)
class Exported:
    """What an adapter consists of.

    Args:
        modules: those it is on, by their names in the model, from the lowest layer to the highest.
        left_out: modules of the checkpoint whose B is all zeros, as ``one_run`` leaves layers that it dropped.
    """

    modules: list[str]
    left_out: list[str]


def export(checkpoint: Path, out: Path, base_model: str | None = None) -> Exported:
    """Write ``adapter_config.json`` and ``adapter_model.safetensors``, in the dtype of the checkpoint.

    The shards are read as weights only, so nothing in them is run. What verl saves of an adapter's settings is its
    config's rank and α, which an adapter from ``lora_adapter_path`` need not have; the suite's engine saves the
    adapter's own. Without it, ``use_rslora`` has to be set by hand in adapter_config.json.

    Args:
        checkpoint: ``global_step_K/actor`` of an RL run, ``global_step_K`` of a supervised one.
        out: a new or empty folder.
        base_model: name or path for adapter_config.json; the checkpoint does not know it.

    Raises:
        ExportError: ``out`` is not empty, files are missing or damaged, not LoRA, or LoRA that does nothing yet.
    """
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ExportError(f"{out} is there and not an empty folder; name another one")
    (ranks,) = _settings(checkpoint / "fsdp_config.json", "world_size")
    file = checkpoint / SETTINGS
    if not file.is_file():
        file = checkpoint / "lora_train_meta.json"
    rank, alpha, task = _settings(file, "r", "lora_alpha", "task_type")
    (stabilised,) = _settings(file, "use_rslora") if file.name == SETTINGS else (False,)
    _refuse_gates(checkpointed(checkpoint, ranks, 0))
    factors: dict[str, dict[str, torch.Tensor]] = defaultdict(dict)  # module -> A and B
    for name, shards in _shards(checkpoint, ranks).items():
        module, factor = _place(name)
        factors[module][factor] = _whole(name, shards)
    if not factors:
        raise ExportError(f"{checkpoint} holds no LoRA tensors; name the checkpoint of a run with lora_rank above 0")
    for module, pair in factors.items():
        if len(pair["A"]) != rank:
            raise ExportError(
                f"lora_A of {module} has {len(pair['A'])} rows where {file.name} says r={rank}; only adapters "
                "of one rank on linear modules can be exported (no rank_pattern, no target_parameters)"
            )
    modules = sorted(factors, key=depth_order)
    trained = [module for module in modules if factors[module]["B"].any()]
    if not trained:
        raise ExportError(f"{checkpoint}: every lora_B is zero, so the adapter does nothing yet; name a later step")
    config = LoraConfig(r=rank, lora_alpha=alpha, use_rslora=stabilised, task_type=task, inference_mode=True)
    config.base_model_name_or_path = base_model
    config.target_modules = trained  # not above, where it becomes a set and the file's order chance
    tensors = {
        f"{PREFIX}.{module}.lora_{factor}.weight": tensor
        for module in trained
        for factor, tensor in factors[module].items()
    }
    out.mkdir(parents=True, exist_ok=True)
    save_file(tensors, out / SAFETENSORS_WEIGHTS_NAME, metadata={"format": "pt"})
    (out / CONFIG_NAME).write_text(json.dumps(config.to_dict(), indent=2, sort_keys=True) + "\n")
    return Exported(trained, [module for module in modules if module not in trained])


def write_settings(adapter: LoraConfig, checkpoint: Path) -> None:
    """Keep an adapter's own settings in a checkpoint of verl's."""
    task = getattr(adapter.task_type, "value", adapter.task_type)
    settings = {"r": adapter.r, "lora_alpha": adapter.lora_alpha, "use_rslora": adapter.use_rslora, "task_type": task}
    (checkpoint / SETTINGS).write_text(json.dumps(settings))


def _settings(file: Path, *keys: str) -> list[Any]:
    _require(file)
    try:
        content = json.loads(file.read_text())
        return [content[key] for key in keys]
    except (ValueError, LookupError, TypeError) as error:
        raise ExportError(f"{file} is damaged ({error!r}); copy it again, or name another checkpoint") from error


def _require(file: Path) -> None:
    if not file.is_file():
        raise ExportError(
            f"there is no file {file}; name a folder that verl's FSDP engine saved with LoRA, whole: "
            "global_step_K/actor of an RL run, global_step_K of a supervised one"
        )


def _refuse_gates(file: Path) -> None:
    """Until a search with ``apply`` ends, its gates are in the forward pass and not in B."""
    if not file.is_file():
        return
    try:
        record = read(file)
    except BadRecord as error:
        raise ExportError(str(error)) from error
    steps = record.settings["search_steps"]
    if record.settings["apply"] and len(record.steps) < steps:
        raise ExportError(
            f"{file}: {len(record.steps)} of {steps} search steps are done, and until then the layers' gates are not "
            "part of the adapter (flexora.apply=true); name a later checkpoint"
        )


def _shards(checkpoint: Path, ranks: int) -> dict[str, list[torch.Tensor]]:
    """Name of each LoRA tensor -> what each rank holds of it."""
    files = [checkpoint / f"model_world_size_{ranks}_rank_{rank}.pt" for rank in range(ranks)]
    shards: dict[str, list[torch.Tensor]] = defaultdict(list)
    for file in files:
        _require(file)
        try:
            # mapped, because all but the few LoRA tensors stay unread
            state = torch.load(file, map_location="cpu", mmap=True, weights_only=True)
        except (pickle.UnpicklingError, RuntimeError) as error:
            # without torch's message, which advises to load it as code
            raise ExportError(
                f"{file} is damaged, or holds more than tensors and is not loaded; copy it again, or name another "
                "checkpoint"
            ) from error
        for name, tensor in state.items():
            if "lora_" in name or "modules_to_save" in name:
                shards[name].append(tensor)
    return shards


def _place(name: str) -> tuple[str, str]:
    """Module and factor of a tensor."""
    place = lora_factor(name)
    if place is None or not name.endswith(".weight"):
        raise ExportError(f"{name} is no lora_A or lora_B weight; only plain LoRA on linear modules can be exported")
    return place


def _whole(name: str, shards: list[torch.Tensor]) -> torch.Tensor:
    """One tensor of what the ranks hold, copied out of their files."""
    first = shards[0]
    if not isinstance(first, DTensor):  # FSDP 1 on one rank
        return first.clone()
    *replicated, split = first.placements
    if not (split.is_shard(0) and all(placement.is_replicate() for placement in replicated)):
        raise ExportError(
            f"{name} is placed as {first.placements}; only FSDP's split along the first dimension can be exported"
        )
    mesh = first.device_mesh.mesh
    replica = mesh.flatten()[: mesh.shape[-1]].tolist()
    return torch.cat([shards[rank].to_local() for rank in replica])
