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

"""What a search measures on parameters that FSDP1 shards, with verl's wrapping, against the model in one piece.

verl's FSDP1 engine itself does not start without a GPU: it broadcasts the weights when it wraps (`sync_module_states`),
which FSDP1 does on accelerators alone.
"""

from pathlib import Path

import numpy as np
import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch.distributed.fsdp import FullyShardedDataParallel
from transformers import AutoModelForCausalLM
from verl.utils.fsdp_utils import get_fsdp_wrap_policy

from tests.flexora.engines import join
from verl_redit.flexora.search import Factors

RANKS = 2


def adapted(folder: Path) -> torch.nn.Module:
    """The model with LoRA whose B is not zero."""
    torch.manual_seed(0)
    lora = LoraConfig(r=4, lora_alpha=8, target_modules="all-linear")
    model = get_peft_model(AutoModelForCausalLM.from_pretrained(folder), lora)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.1)
    return model


def measured(module: torch.nn.Module, total) -> dict[str, np.ndarray]:
    """Statistics of one backward pass, before and after gradients are taken and given back."""
    rows = torch.arange(5, 29).view(2, 12)
    factors = Factors(module.named_parameters(), "layer", total)
    module(input_ids=rows, labels=rows).loss.backward()
    factors.give(factors.take())
    gradients = factors.take()
    return {
        "sizes": factors.sizes,
        "gate_gradient": factors.gate_gradient(gradients),
        "dots": factors.dots(gradients, factors.values),
    }


def _sharded(rank: int, model: Path, use_orig_params: bool, folder: Path) -> None:
    torch.set_num_threads(1)
    join(rank, RANKS, folder / "store")
    module = adapted(model)
    policy = get_fsdp_wrap_policy(module, is_lora=True)
    module = FullyShardedDataParallel(
        module, auto_wrap_policy=policy, use_orig_params=use_orig_params, device_id=torch.device("cpu")
    )

    def total(summed: torch.Tensor) -> torch.Tensor:
        torch.distributed.all_reduce(summed)
        return summed

    found = measured(module, total)
    if rank == 0:
        np.savez(folder / "found.npz", **found)
    torch.distributed.destroy_process_group()


@pytest.mark.parametrize("use_orig_params", [False, True])
def test_statistics_are_those_of_the_model_in_one_piece(model, tmp_path, use_orig_params):
    torch.multiprocessing.spawn(_sharded, (model, use_orig_params, tmp_path), nprocs=RANKS)
    found = np.load(tmp_path / "found.npz")
    for name, value in measured(adapted(model), lambda summed: summed).items():
        assert np.abs(value).min() > 0
        np.testing.assert_allclose(found[name], value, rtol=1e-6, atol=1e-6 * np.abs(value).max(), err_msg=name)
