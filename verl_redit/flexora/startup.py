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

"""What can be told about a run with Flexora before it trains: its settings, its selection and its adapter."""

import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig

from verl_redit.data_files import found, listed, reads_files, row_count
from verl_redit.flexora.config import FlexoraConfig
from verl_redit.flexora.layers import stacks_of
from verl_redit.flexora.record import BEGIN_ANEW, not_kept
from verl_redit.flexora.scores import METHODS, Method
from verl_redit.flexora.selection import BadSelection, Selection, load
from verl_redit.settings import parse


def problems(config: DictConfig) -> Iterator[str]:
    """One line for each reason why a V1 trainer cannot run with these settings, with the mend."""
    try:
        settings = parse(FlexoraConfig, config.flexora, "flexora")
    except ValueError as error:
        yield str(error)
        return
    actor, model = config.actor_rollout_ref.actor, config.actor_rollout_ref.model
    if actor.strategy not in ("fsdp", "fsdp2"):
        yield f"actor_rollout_ref.actor.strategy={actor.strategy}: flexora needs verl's FSDP engine; set fsdp or fsdp2"
    if model.lora_rank < 1:
        yield "actor_rollout_ref.model.lora_rank=0: there is no LoRA to choose layers for; set it to 8, say"
    if settings.stop_backward:
        yield from offload_problems(model)
    if settings.restrict_rollouts and config.actor_rollout_ref.rollout.get("name") != "vllm":
        yield "flexora.restrict_rollouts: it is a setting of vLLM; drop it, or set actor_rollout_ref.rollout.name=vllm"
    if settings.mode != "selected" and METHODS[settings.method].measures:
        yield from _search_problems(config, settings)
    if settings.mode == "selected":
        try:
            yield from noise_problems(load(str(settings.selection)), settings.accept_noise)
        except BadSelection as error:
            yield f"flexora.selection: {error}"


def _search_problems(config: DictConfig, settings: FlexoraConfig) -> Iterator[str]:
    actor, model = config.actor_rollout_ref.actor, config.actor_rollout_ref.model
    if known := [steps for steps in (config.trainer.total_training_steps, _most_steps(config)) if steps is not None]:
        of_step = max(config.data.train_batch_size // actor.ppo_mini_batch_size, 1) * actor.ppo_epochs
        yield from length_problems(settings, min(known) * of_step)
    yield from begun_problems(settings, model.get("lora_adapter_path"))
    if METHODS[settings.method].passes != "whole" and actor.ppo_mini_batch_size < 2:
        yield (
            f"actor_rollout_ref.actor.ppo_mini_batch_size=1: flexora.method={settings.method} divides mini-batches by "
            "prompt groups; set it to 2 or more"
        )
    norm = actor.loss_agg_mode == "seq-mean-token-sum-norm" and actor.loss_scale_factor is None
    if norm and METHODS[settings.method].passes == "halves":
        yield (
            "actor_rollout_ref.actor.loss_agg_mode=seq-mean-token-sum-norm: it divides by the width of each part of a "
            "batch; set actor_rollout_ref.actor.loss_scale_factor"
        )
    if actor.policy_loss.loss_mode == "geo_mean" and METHODS[settings.method].passes != "whole":
        yield (
            "actor_rollout_ref.actor.policy_loss.loss_mode=geo_mean: it is a mean over the rows of a micro-batch, so "
            f"the parts of flexora.method={settings.method} would not add up to the batch; use flexora.method=sign"
        )
    mode = str(config.trainer.v1.trainer_mode)
    if "async_training" in config:
        mode = "fully_async"
    if settings.mode == "one_run" and settings.switch == "reset" and mode.endswith("async"):
        yield (
            f"trainer mode {mode}: rollouts of the old adapter would be trained on after it was made anew; "
            "set flexora.switch=keep"
        )


def _most_steps(config: DictConfig) -> int | None:
    """Steps of a run that goes through all rows of its files; None where that cannot be told. A filter leaves fewer."""
    files = [path for file in listed(config.data.train_files) for path in found(file) or [Path(file)]]
    known = bool(files) and all(path.suffix == ".parquet" and path.is_file() for path in files)
    if "async_training" in config or not reads_files(config) or not known:
        return None
    rows, most = sum(map(row_count, files)), config.data.get("train_max_samples", -1)
    rows = min(rows, most) if most > 0 else rows
    return rows // config.data.train_batch_size * config.trainer.total_epochs


def gradient_problems(method: Method, scales: bool, dtypes: set[torch.dtype], offloaded: bool) -> Iterator[str]:
    """Why gradients are no measure in an engine.

    Args:
        scales: whether losses are scaled, as float16 needs it.
        dtypes: of the forward pass and of the adapter.
        offloaded: whether FSDP2 keeps parameters and gradients in another memory than that of the device.
    """
    if scales:
        yield "flexora: a search compares gradients, which float16 scales; use mixed_precision bfloat16"
    if offloaded and method.passes != "none":
        yield (
            "flexora: a search reads gradients on the device, and fsdp_config.offload_policy keeps them elsewhere; set "
            "param_offload and optimizer_offload instead"
        )
    if method.passes == "unrolled" and dtypes != {torch.float32}:
        yield (
            "flexora.method=unrolled takes differences of gradients, which bfloat16 is too coarse for; set model_dtype="
            "fp32 and +mixed_precision={param_dtype:float32,reduce_dtype:float32,buffer_dtype:float32} in the actor's "
            "fsdp_config (in engine for supervised training), with +model.override_config.attn_implementation=sdpa and "
            "model.use_remove_padding=false, as flash attention takes no float32; or use align or first_order"
        )


def dropout_problems(method: Method, dropout: float) -> Iterator[str]:
    """Why differences of gradients would be those of dropout.

    Args:
        dropout: the largest probability in the model or its adapter.
    """
    if method.passes == "unrolled" and dropout > 0:
        yield (
            f"flexora.method=unrolled takes differences of gradients, and dropout ({dropout}) falls anew for each; set "
            "it to 0 (model.override_config.attention_dropout=0, or as the model names its own; an adapter of "
            "model.lora_adapter_path has it as lora_dropout in its adapter_config.json), or use align or first_order"
        )


def begun_problems(settings: FlexoraConfig, adapter: str | None) -> Iterator[str]:
    """Why a run should not begin from an adapter that is there."""
    searches = METHODS[settings.method].passes != "none"  # else the layers are chosen before anything is trained
    if adapter and searches and settings.mode == "one_run" and settings.switch == "reset":
        yield (
            f"flexora.switch=reset makes the adapter anew after the search, and {adapter} (model.lora_adapter_path) "
            "would be lost; set flexora.switch=keep, or merge it into the model"
        )


def choice_problems(settings: FlexoraConfig, units: Mapping[str, Sequence[str]], sizes: Sequence[int]) -> Iterator[str]:
    """Why no scores give a choice.

    Args:
        units: unit -> its modules.
        sizes: LoRA parameters of each unit.
    """
    if settings.method in ("first", "middle", "last") and len(stacks := stacks_of(units)) > 1:
        yield (
            f"flexora.method={settings.method} goes by the order of layers, and there is none between those of "
            f"{' and '.join(stacks)}; keep LoRA off all but one by model.exclude_modules, for example "
            f"'{re.escape(stacks[-1])}.*'"
        )
    if len(sizes) < 2:
        yield "flexora: there is one unit, and nothing to choose; set flexora.grain=module, or drop +flexora"
    elif settings.rule == "top_k" and (settings.k or 0) >= len(sizes):
        yield f"flexora.k: {settings.k} of {len(sizes)} units is no choice; lower it"
    elif settings.rule == "budget" and min(sizes) > settings.budget * sum(sizes):
        yield (
            f"flexora.budget: {settings.budget} of {sum(sizes)} LoRA parameters is less than any unit has; give "
            f"{math.ceil(1000 * min(sizes) / sum(sizes)) / 1000} or more"
        )


def length_problems(settings: FlexoraConfig, updates: int) -> Iterator[str]:
    """Why a search would not end in a run of so many updates."""
    if updates < settings.search_steps:
        yield (
            f"flexora.search_steps={settings.search_steps}: this run has at most {updates} updates, so the search "
            "would not end; lower it, or raise trainer.total_training_steps"
        )


def offload_problems(model_config: Any) -> Iterator[str]:
    """Why the backward pass of a model cannot end early."""
    if model_config.enable_activation_offload:
        yield (
            "flexora.stop_backward: verl's activation offloading counts on a backward pass through every layer; set "
            "model.enable_activation_offload=false, or drop stop_backward"
        )


def lora_problems(is_lora: bool) -> Iterator[str]:
    """Why there is nothing to choose."""
    if not is_lora:
        yield "flexora: lora_rank is 0, so there is no LoRA to choose layers for; set model.lora_rank"


def adapter_problems(peft_config: Any) -> Iterator[str]:
    """Why an adapter's layers cannot be searched or dropped one by one."""
    if getattr(peft_config, "use_dora", False):
        yield "flexora: the adapter uses DoRA, whose layers vLLM does not take; use an adapter without use_dora"
    if getattr(peft_config, "target_parameters", None):
        yield (
            "flexora: the adapter has LoRA on parameters that are no modules (PEFT does this to fused experts under "
            "all-linear), and exclude_modules does not reach them; list modules instead, for example "
            "target_modules=[q_proj,k_proj,v_proj,o_proj]"
        )
        return
    if getattr(peft_config, "modules_to_save", None) or getattr(peft_config, "bias", "none") != "none":
        yield "flexora: the adapter trains more than LoRA (modules_to_save or bias); use one that does not"
    for pattern in ("rank_pattern", "alpha_pattern"):
        if getattr(peft_config, pattern, None):
            yield (
                f"flexora: the adapter has a {pattern}, which vLLM does not read: it would scale every layer alike; "
                "use one rank and one alpha"
            )


def noise_problems(selection: Selection, accept_noise: bool) -> Iterator[str]:
    """Why a selection should not be trained on."""
    if selection.beats_chance is False and not accept_noise:
        yield (
            f"flexora: {selection.summary}. Such a choice is no better than a random one; search for more steps "
            "(flexora.search_steps), use all layers, or set flexora.accept_noise=true"
        )


def checkpoint_problems(config: DictConfig, checkpoint: Path) -> Iterator[str]:
    """Why a V1 trainer cannot go on from a checkpoint, as far as this machine has the actor's files. The engine refuses
    that too, when all is loaded."""
    settings, actor = parse(FlexoraConfig, config.flexora, "flexora"), checkpoint / "actor"
    selected = settings.mode == "selected"
    kept = sorted(actor.glob(f"flexora_world_size_*_rank_*.{'json' if selected else 'jsonl'}"))
    if actor.is_dir() and not kept:
        yield f"flexora: {actor} is no checkpoint of {'a run on a selection' if selected else 'a search'}; {BEGIN_ANEW}"
    elif kept and selected:
        yield from resume_problems(load(str(settings.selection)), kept[0])


def resume_problems(selection: Selection, kept: Path) -> Iterator[str]:
    """Why a run on a selection cannot go on from a checkpoint.

    Args:
        kept: where such a run keeps its selection in a checkpoint.
    """
    if not kept.is_file():
        told = not_kept(kept) or f"is no checkpoint of a run on a selection; {BEGIN_ANEW}"
        yield f"flexora: {kept.parent} {told}"
    elif [unit.modules for unit in load(kept).chosen] != [unit.modules for unit in selection.chosen]:
        yield f"flexora: {kept.parent} is of a run on another selection; set flexora.selection back, or {BEGIN_ANEW}"


def model_problems(selection: Selection, model_type: str, widths: Mapping[str, int]) -> Iterator[str]:
    """Why a selection is of another model, though its modules have the same names.

    Args:
        model_type: of the model, as Hugging Face calls it.
        widths: module -> its inputs and outputs together, which are its LoRA parameters for each unit of rank; of all
            modules of the selection that the model has.
    """
    of = f"The selection is of {selection.model['path']}; run the search on this model"
    if model_type != selection.model["type"]:
        yield f"flexora: the model is a {model_type}, and layers were chosen in a {selection.model['type']}. {of}"
        return
    if missing := [module for unit in selection.units for module in unit.modules if module not in widths]:
        yield f"flexora: the model has no {missing[0]}, nor {len(missing) - 1} others that were searched. {of}"
        return
    for unit in selection.units:
        expected = unit.parameters // selection.model["lora_rank"]
        if (found := sum(widths[module] for module in unit.modules)) != expected:
            yield f"flexora: {unit.name} has {found} inputs and outputs, and had {expected} in the search. {of}"
            return


def selection_problems(selection: Selection, modules: Iterable[str]) -> Iterator[str]:
    """Where the LoRA modules of a model are not those that were chosen."""
    wanted = {module for unit in selection.chosen for module in unit.modules}
    found = set(modules)
    if found == wanted:
        return
    for names, told in (
        (wanted - found, "are chosen, but carry no LoRA"),
        (found - wanted, "carry LoRA, but are not chosen"),
    ):
        if names:
            examples = ", ".join(sorted(names)[:3])
            yield (
                f"flexora: {len(names)} modules {told} ({examples}, …). The selection is of {selection.model['path']} "
                f"({selection.model['type']}, {len(selection.units)} units); use it with this model and its "
                "target_modules, and leave exclude_modules to it"
            )


def refuse(problems: Iterable[str]) -> None:
    """Raise ValueError with the problems, if there are any."""
    if found := list(problems):
        raise ValueError("\n".join(found))
