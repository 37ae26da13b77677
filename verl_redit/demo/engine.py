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

"""verl's own FSDP engine without Ray, in processes of one's own: for studies, benchmarks and tests of the engine."""

import os
from functools import partial
from pathlib import Path
from typing import Any

import torch
from tensordict import TensorDict
from verl.trainer.config import CheckpointConfig
from verl.utils import tensordict_utils as tu
from verl.workers.config import FSDPEngineConfig, FSDPOptimizerConfig, HFModelConfig
from verl.workers.engine import EngineRegistry
from verl.workers.utils.losses import sft_loss

FLOAT32 = {"param_dtype": "fp32", "reduce_dtype": "fp32", "buffer_dtype": "fp32"}


def join(rank: int, ranks: int, store: Path) -> None:
    """Enter a process group of this many processes, which meet at a file."""
    os.environ.update(RANK=str(rank), WORLD_SIZE=str(ranks), LOCAL_RANK=str(rank))
    torch.distributed.init_process_group(
        "gloo", store=torch.distributed.FileStore(str(store), ranks), rank=rank, world_size=ranks
    )


def build(
    model: Path,
    flexora: dict[str, Any] | None = None,
    lora_rank: int = 4,
    lr: float = 1e-3,
    seed: int = 0,
    optimizer: dict[str, Any] | None = None,
    **settings: Any,
):
    """An engine in float32 with LoRA of α = 2 r on all linear modules, ready to train.

    Args:
        flexora: its config node, for an engine that searches or trains a selection; None for verl's own.
        seed: of the adapter.
        optimizer: other settings of verl's optimizer config; without any, AdamW without decay.
        settings: others of verl's model config.
    """
    model_config = HFModelConfig(
        path=str(model), lora_rank=lora_rank, lora_alpha=2 * lora_rank, target_modules="all-linear",
        use_remove_padding=False, override_config={"attn_implementation": "sdpa"},
        lora={} if flexora is None else {"flexora": flexora}, **settings,
    )  # fmt: skip
    model_config.model_type = "language_model"
    engine_config = FSDPEngineConfig(
        strategy="fsdp2", mixed_precision=FLOAT32, use_torch_compile=False, use_remove_padding=False
    )
    torch.manual_seed(seed)
    optimizer_config = {"lr": lr, "weight_decay": 0.0, "total_training_steps": 1000, **(optimizer or {})}
    engine = EngineRegistry.new(
        model_type="language_model", backend="fsdp2", model_config=model_config, engine_config=engine_config,
        optimizer_config=FSDPOptimizerConfig(**optimizer_config),
        checkpoint_config=CheckpointConfig(),
    )  # fmt: skip
    torch.manual_seed(seed)
    engine.initialize()
    return engine


def supervised_batch(ids: list[torch.Tensor], masks: list[torch.Tensor], micro_batch: int, total: int) -> TensorDict:
    """Rows as verl's supervised trainer hands them to its engine.

    Args:
        ids: token ids of each of this rank's rows, int64.
        masks: 1 where the row's token is trained, of the same shapes.
        micro_batch: rows of a forward pass.
        total: rows of the batch over all ranks.
    """
    nested = partial(torch.nested.as_nested_tensor, layout=torch.jagged)
    positions = [torch.arange(len(row)) for row in ids]
    return tu.get_tensordict(
        {"input_ids": nested(ids), "loss_mask": nested(masks), "position_ids": nested(positions)},
        non_tensor_dict={
            "use_remove_padding": False, "use_dynamic_bsz": False, "micro_batch_size_per_gpu": micro_batch,
            "temperature": 1.0, "global_batch_size": total, "pad_mode": "no_padding", "pad_token_id": 0,
        },
    )  # fmt: skip


# as verl's supervised trainer calls it
_LOSS = partial(sft_loss, config=None)  # type: ignore[arg-type]


def update(engine, data: TensorDict) -> dict:
    """One step down the supervised loss; returns what the engine tells of it."""
    with engine.train_mode():
        output = engine.train_batch(data, _LOSS)
        engine.lr_scheduler_step()
    return output


def loss(engine, data: TensorDict) -> float:
    """Mean negative log-likelihood of the trained tokens, in nats."""
    with engine.eval_mode():
        return sum(engine.infer_batch(data, _LOSS)["loss"])
