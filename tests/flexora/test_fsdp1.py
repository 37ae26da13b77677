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

"""What a search measures and changes on parameters that FSDP1 shards, with verl's wrapping, against one piece.

verl's FSDP1 engine itself does not start without a GPU: it broadcasts the weights when it wraps (`sync_module_states`),
which FSDP1 does on accelerators alone.
"""

from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch.distributed.fsdp import FullyShardedDataParallel
from transformers import AutoModelForCausalLM
from verl.utils.fsdp_utils import get_fsdp_wrap_policy

from tests.flexora.engines import join
from verl_redit.flexora.adapter import Gates, begin_anew, lora_modules
from verl_redit.flexora.scores import METHODS
from verl_redit.flexora.search import Factors, Search, local
from verl_redit.flexora.switch import Switch

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
    """Statistics of one backward pass, after gradients were taken and given back, and of an unrolled step."""
    train, held_out = torch.arange(5, 53).view(2, 2, 12)
    factors = Factors(module.named_parameters(), "layer", total)

    def backpropagate(rows: torch.Tensor) -> None:
        module(input_ids=rows, labels=rows).loss.backward()

    backpropagate(train)
    factors.give(factors.take())
    gradients = factors.take()
    search = Search(factors, METHODS["unrolled"], inner_steps=2)
    through = search.measure(partial(backpropagate, train), partial(backpropagate, held_out), rate=0.5)
    return {
        "sizes": factors.sizes,
        "gate_gradient": factors.gate_gradient(gradients),
        "dots": factors.dots(gradients, factors.values),
        "unrolled": through["gate_gradient"],
    }


def changed(module: torch.nn.Module, total) -> dict[str, np.ndarray]:
    """Loss with gates, after they were folded into B, and with the adapter made anew; the moments of the gradients once
    they were folded; and how long A is at last."""
    rows = torch.arange(5, 29).view(2, 12)
    factors = Factors(module.named_parameters(), "layer", total)
    gates = Gates(module, "layer")

    @torch.no_grad()
    def loss() -> np.ndarray:
        return module(input_ids=rows, labels=rows).loss.numpy()

    gates.act({unit: 0.25 * (1 + at) for at, unit in enumerate(factors.units)})
    found = {"gated": loss()}
    optimizer = torch.optim.AdamW(factors.parameters, lr=0.0, weight_decay=0.0)
    module(input_ids=rows, labels=rows).loss.backward()
    optimizer.step()
    optimizer.zero_grad()
    gates.fold(factors, optimizer)
    found["folded"] = loss()
    moments = [local(optimizer.state[parameter]["exp_avg"]) for parameter in factors.parameters]
    found["moments"] = factors.dots(moments, moments)
    inputs = {name: part.in_features for name, part in lora_modules(module).items()}
    begin_anew(factors, inputs, seed=0, shard=torch.distributed.get_rank() if torch.distributed.is_initialized() else 0)
    found["anew"] = loss()
    return found | {"size of A": factors.sums(value.double().abs().sum() for value in factors.values)}


def frozen(module: torch.nn.Module, total) -> dict[str, np.ndarray]:
    """How far two updates move each layer after the lowest layers were dropped, from an optimizer with momentum."""
    rows = torch.arange(5, 29).view(2, 12)
    factors = Factors(module.named_parameters(), "layer", total)
    optimizer = torch.optim.AdamW(factors.parameters, lr=0.1, weight_decay=0.1)
    switch = Switch("layer")

    def update() -> None:
        module(input_ids=rows, labels=rows).loss.backward()
        switch.freeze(module.named_parameters())
        optimizer.step()
        optimizer.zero_grad()

    update()
    switch.drop(list(factors.units)[:4], anew=False, empty=False)
    before = [value.clone() for value in factors.values]
    update()
    update()
    return {"moved": factors.sums((a - b).double().abs().sum() for a, b in zip(factors.values, before, strict=True))}


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

    found = measured(module, total) | frozen(module, total) | changed(module, total)
    if rank == 0:
        np.savez(folder / "found.npz", **found)
    torch.distributed.destroy_process_group()


@pytest.mark.parametrize("use_orig_params", [False, True])
def test_a_search_and_a_switch_do_what_they_do_to_a_model_in_one_piece(model, tmp_path, use_orig_params):
    torch.multiprocessing.spawn(_sharded, (model, use_orig_params, tmp_path), nprocs=RANKS)
    found = np.load(tmp_path / "found.npz")
    whole = adapted(model)
    expected = {}
    for outcome in (measured, frozen, changed):
        expected |= outcome(whole, lambda summed: summed)
    moved = expected["moved"] != 0
    assert moved.tolist() == [False] * 4 + [True] * 2 == (found["moved"] != 0).tolist()
    assert expected["gated"] == pytest.approx(expected["folded"], rel=1e-6) != expected["anew"]
    # products with differences in float32; other draws in A
    tolerances = {"unrolled": 1e-3, "size of A": 0.1}
    for name, value in expected.items():
        rtol = tolerances.get(name, 1e-6)
        assert np.abs(value[moved] if name == "moved" else value).min() > 0
        np.testing.assert_allclose(found[name], value, rtol, rtol * np.abs(value).max(), err_msg=name)
