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

"""Which layer a parameter belongs to in the model families that verl trains, and the regex that leaves layers out."""

import re

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from peft import LoraConfig, get_peft_model
from transformers import (
    AutoModelForCausalLM,
    GemmaConfig,
    GPT2Config,
    LlamaConfig,
    MistralConfig,
    Qwen2Config,
    Qwen3Config,
    Qwen3MoeConfig,
)

from verl_redit.flexora.layers import NoLayers, as_regex, exclude_regex, layer_of, lora_factor, unit_of, units_of
from verl_redit.flexora.startup import adapter_problems

SHAPE = dict(
    vocab_size=64, hidden_size=32, intermediate_size=48, num_hidden_layers=4, num_attention_heads=4,
    num_key_value_heads=2, head_dim=8, tie_word_embeddings=False,
)  # fmt: skip
FAMILIES = {
    "qwen2": Qwen2Config(**SHAPE),
    "qwen3": Qwen3Config(**SHAPE),
    "llama": LlamaConfig(**SHAPE),
    "mistral": MistralConfig(**SHAPE),
    "gemma": GemmaConfig(**SHAPE),
    "moe": Qwen3MoeConfig(**SHAPE, num_experts=4, num_experts_per_tok=2, moe_intermediate_size=16, mlp_only_layers=[1]),
    "gpt2": GPT2Config(vocab_size=64, n_embd=32, n_layer=4, n_head=4),
}


def with_lora(family: str, exclude: str | None = None):
    """A random model with LoRA, as verl adds it."""
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(FAMILIES[family])
    # PEFT puts LoRA on fused experts as parameters, which cannot be excluded (`startup.adapter_problems`)
    targets = ["q_proj", "k_proj", "v_proj", "o_proj"] if family == "moe" else "all-linear"
    return get_peft_model(model, LoraConfig(r=2, target_modules=targets, exclude_modules=exclude, bias="none"))


def lora_modules(model) -> set[str]:
    return {factor[0] for name, _ in model.named_parameters() if (factor := lora_factor(name))}


@pytest.mark.parametrize(
    ("parameter", "expected"),
    [
        ("base_model.model.model.layers.3.mlp.up_proj.lora_A.default.weight", ("model.layers.3.mlp.up_proj", "A")),
        ("model.layers.3.mlp.up_proj.base_layer.weight", None),
        (
            "_fsdp_wrapped_module.base_model.model.model.layers.0._fsdp_wrapped_module.self_attn.q_proj.lora_B.default."
            "_fsdp_wrapped_module._flat_param",
            ("model.layers.0.self_attn.q_proj", "B"),
        ),
        ("base_model.model.model.layers.1.mlp.experts.7.up_proj.lora_B.weight",
         ("model.layers.1.mlp.experts.7.up_proj", "B")),
    ],
)  # fmt: skip
def test_parameters_are_known_in_every_wrapper(parameter, expected):
    assert lora_factor(parameter) == expected


def test_experts_are_not_layers():
    assert layer_of("model.layers.3.mlp.experts.7.up_proj") == "model.layers.3"
    assert unit_of("model.layers.3.mlp.experts.7.up_proj", "module") == "model.layers.3.mlp.experts.7.up_proj"
    assert layer_of("model.visual.blocks.2.attn.qkv") == "model.visual.blocks.2"


def test_layers_are_in_order_of_depth():
    modules = [f"model.layers.{number}.mlp.up_proj" for number in (10, 9, 0, 2)]
    assert list(units_of(modules, "layer")) == [f"model.layers.{number}" for number in (0, 2, 9, 10)]


def test_a_model_without_layers_is_refused():
    with pytest.raises(NoLayers, match="target_modules meets no module"):
        units_of([], "layer")


def test_modules_in_no_layer_are_named_with_the_setting_that_leaves_them_out():
    inside = ["model.visual.blocks.0.attn.qkv", "model.language_model.layers.3.mlp.up_proj"]
    outside = ["model.visual.merger.mlp.0", "model.visual.merger.mlp.2"]  # as in Qwen2.5-VL under all-linear
    with pytest.raises(NoLayers, match="2 LoRA modules are in no numbered layer") as error:
        units_of([*outside, *inside], "layer")
    pattern = re.search("model.exclude_modules='(.*)'", str(error.value))[1]
    assert [module for module in [*outside, *inside] if not re.fullmatch(pattern, module)] == inside


def test_a_list_of_excluded_modules_means_the_same_as_a_pattern():
    for listed in (["q_proj", "down_proj"], ["layers.1.mlp.up_proj"]):
        assert lora_modules(with_lora("qwen2", as_regex(listed))) == lora_modules(with_lora("qwen2", listed))
    assert as_regex(None) is None and as_regex("a|b") == "a|b"


@pytest.mark.parametrize("grain", ["layer", "module"])
@pytest.mark.parametrize("family", FAMILIES)
def test_exactly_the_chosen_modules_carry_lora(family, grain):
    whole = with_lora(family)
    units = units_of(lora_modules(whole), grain)
    assert len({layer_of(modules[0]) for modules in units.values()}) == 4
    chosen = list(units)[1::3]
    part = with_lora(family, exclude_regex(units, chosen))
    wanted = {module for unit in chosen for module in units[unit]}
    assert lora_modules(part) == wanted
    sizes = {name: value.numel() for name, value in whole.named_parameters() if value.requires_grad}
    expected = sum(size for name, size in sizes.items() if lora_factor(name)[0] in wanted)
    assert sum(value.numel() for value in part.parameters() if value.requires_grad) == expected


def test_lora_on_fused_experts_is_refused():
    model = AutoModelForCausalLM.from_config(FAMILIES["moe"])
    adapter = get_peft_model(model, LoraConfig(r=2, target_modules="all-linear")).peft_config["default"]
    assert [problem for problem in adapter_problems(adapter) if "target_modules=[q_proj" in problem]
    assert not list(adapter_problems(with_lora("moe").peft_config["default"]))


@given(st.sets(st.integers(0, 40), min_size=1), st.data())
def test_the_regex_matches_the_other_layers_and_nothing_else(numbers, data):
    modules = [f"model.layers.{n}.{path}" for n in numbers for path in ("mlp.up_proj", "self_attn.q_proj")]
    units = units_of(modules, data.draw(st.sampled_from(["layer", "module"])))
    chosen = data.draw(st.sets(st.sampled_from(list(units))))
    pattern = exclude_regex(units, chosen)
    kept = {module for unit in chosen for module in units[unit]}
    assert {module for module in modules if re.fullmatch(pattern, module)} == set(modules) - kept
    assert not re.fullmatch(pattern, "model.layers.1000.mlp.up_proj")
    assert not re.fullmatch(pattern, "visual.blocks.1.mlp.up_proj")
