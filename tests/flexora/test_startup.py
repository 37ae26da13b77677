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

"""Settings, parts of a batch and files that cannot be used: told at once, with the mend."""

import json
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from omegaconf import OmegaConf

from verl_redit.flexora.config import FlexoraConfig
from verl_redit.flexora.parts import TooFewGroups, group_of, other_part
from verl_redit.flexora.record import Record
from verl_redit.flexora.scores import METHODS
from verl_redit.flexora.selection import BadSelection, _digest, conclude, load
from verl_redit.flexora.startup import (
    adapter_problems,
    begun_problems,
    checkpoint_problems,
    choice_problems,
    dropout_problems,
    gradient_problems,
    problems,
    selection_problems,
)
from verl_redit.settings import parse

UNITS = {f"model.layers.{n}": [f"model.layers.{n}.self_attn.{m}_proj" for m in "qv"] for n in range(4)}
MODEL = {"path": "/model", "type": "qwen2", "lora_rank": 8, "exclude_modules": None}


@pytest.fixture
def selection(tmp_path):
    """A file that chooses two of four layers, from steps that agree or from noise."""

    def written(signal: float = 1.0):
        record = Record({}, UNITS, [16] * 4, MODEL)
        random = np.random.default_rng(0)
        for step in range(40):
            shared = random.normal(size=4) + signal * np.array([0, 9, 0, 9])
            record.add([str(step)], {"agreement": shared})
        conclude(record, FlexoraConfig(rule="top_k", k=2)).write(tmp_path / "selection.json")
        return tmp_path / "selection.json"

    return written


def selected(file) -> list[str]:
    return ["+flexora=selected", f"flexora.selection={file}", "actor_rollout_ref.model.lora_rank=8"]


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        (["flexora.method=aling"], "flexora.method: 'aling'; did you mean 'align'"),
        (["flexora.grain=head"], "flexora.grain"),
        (["flexora.search_steps=0"], "flexora.search_steps: 0"),
        (["flexora.held_out=1.0"], "flexora.held_out: 1.0"),
        (["flexora.budget=0"], "flexora.budget"),
        (["flexora.k=0"], "flexora.k: 0"),
        (["flexora.budget=0.25"], "flexora.budget: rule=top_k does not read it"),
        (["flexora.rule=budget", "flexora.k=3"], "flexora.k: rule=budget does not read it"),
        (["flexora.held_out=0.5"], "flexora.held_out: method=align does not read it"),
        (["flexora.method=first_order", "flexora.inner_steps=2"], "flexora.inner_steps: method=first_order does not"),
        (["flexora.switch=keep"], "flexora.switch: mode=search does not read it"),
        (["flexora.apply=true"], "flexora.apply: method=align has no gates; use unrolled or first_order"),
        (["flexora.rule=positive"], "flexora.rule: positive is the paper's"),
        (["flexora.selection=/file"], "flexora.selection"),
        (["flexora.restrict_rollouts=true"], "flexora.restrict_rollouts: in mode=search every layer has LoRA"),
        (["flexora.stop_backward=true"], "flexora.stop_backward: in mode=search every layer has LoRA"),
        (["+flexora.layers=2"], "flexora.layers: unknown key"),
        (["actor_rollout_ref.model.lora_rank=0"], "actor_rollout_ref.model.lora_rank=0"),
        (["actor_rollout_ref.actor.ppo_mini_batch_size=1"], "method=align divides mini-batches by prompt groups"),
        (["actor_rollout_ref.actor.strategy=megatron"], "strategy=megatron"),
        (["actor_rollout_ref.actor.loss_agg_mode=seq-mean-token-sum-norm"], "set actor_rollout_ref.actor.loss_scale_f"),
        (["actor_rollout_ref.actor.policy_loss.loss_mode=geo_mean"], "the parts of flexora.method=align would not add"),
    ],
)
def test_a_mistake_is_told_by_the_name_of_its_setting(verl_config, overrides, expected):
    config = verl_config("+flexora=search", "actor_rollout_ref.model.lora_rank=8", *overrides)
    assert any(expected in problem for problem in problems(config))


def test_a_search_that_can_run_has_no_problem(verl_config):
    assert not list(problems(verl_config("+flexora=search", "actor_rollout_ref.model.lora_rank=8")))


def test_defaults_of_the_group_are_those_of_the_code(verl_config):
    config = verl_config("+flexora=search")
    assert parse(FlexoraConfig, config.flexora, "flexora") == replace(FlexoraConfig(), output=config.flexora.output)


def test_a_selected_run_takes_its_layers_from_the_file(verl_config, selection):
    config = verl_config(*selected(selection()))
    assert not list(problems(config))
    assert config.actor_rollout_ref.model.exclude_modules == r"model\.layers\.(?:0|2)\..*"


def test_the_backward_pass_does_not_stop_where_activations_are_offloaded(verl_config, selection):
    settings = ["flexora.stop_backward=true", "actor_rollout_ref.model.enable_activation_offload=true"]
    [problem] = problems(verl_config(*selected(selection()), *settings))
    assert "enable_activation_offload=false" in problem


def test_a_checkpoint_of_another_kind_is_told_before_the_start(verl_config, selection, tmp_path):
    search, run = verl_config("+flexora=search"), verl_config(*selected(selection()))
    assert not [*checkpoint_problems(search, tmp_path), *checkpoint_problems(run, tmp_path)]  # files are elsewhere
    (tmp_path / "actor").mkdir()
    assert "no checkpoint of a search" in list(checkpoint_problems(search, tmp_path))[0]
    assert "no checkpoint of a run on a selection" in list(checkpoint_problems(run, tmp_path))[0]
    kept = tmp_path / "actor" / "flexora_world_size_1_rank_0.json"
    load(selection()).write(kept)
    assert not list(checkpoint_problems(run, tmp_path))
    replace(load(kept), units=load(kept).units[:2]).write(kept)
    assert "a run on another selection" in list(checkpoint_problems(run, tmp_path))[0]


@pytest.mark.parametrize("switch", ["reset", "keep"])
def test_an_adapter_is_not_made_anew_under_stale_rollouts(verl_config, switch):
    arguments = ["+flexora=one_run", f"flexora.switch={switch}", "actor_rollout_ref.model.lora_rank=8"]
    separate = verl_config(*arguments, "trainer.v1.trainer_mode=separate_async")
    fully = verl_config(*arguments)
    OmegaConf.update(fully, "async_training", {}, force_add=True)
    for config in (separate, fully):
        assert any("set flexora.switch=keep" in problem for problem in problems(config)) == (switch == "reset")


def test_an_adapter_that_is_there_is_not_thrown_away(verl_config):
    arguments = ["+flexora=one_run", "actor_rollout_ref.model.lora_rank=8", "flexora.search_steps=1"]
    there = "actor_rollout_ref.model.lora_adapter_path=/adapter"
    [problem] = problems(verl_config(*arguments, there))
    assert "/adapter (model.lora_adapter_path) would be lost; set flexora.switch=keep" in problem
    assert not list(problems(verl_config(*arguments, there, "flexora.switch=keep")))
    for method, told in (("align", 1), ("last", 0)):  # which chooses before anything is trained
        settings = FlexoraConfig(mode="one_run", method=method)
        assert len(list(begun_problems(settings, "/adapter"))) == told


@pytest.mark.parametrize(("epochs", "told"), [(2, True), (3, False)])
def test_a_search_longer_than_the_rows_last_is_told(verl_config, tmp_path, epochs, told):
    file = tmp_path / "train.parquet"
    pq.write_table(pa.table({"row": range(50)}), file)
    config = verl_config(
        "+flexora=one_run", "actor_rollout_ref.model.lora_rank=8", f"data.train_files={file}",
        "data.train_batch_size=8", "actor_rollout_ref.actor.ppo_mini_batch_size=4", "flexora.search_steps=30",
        f"trainer.total_epochs={epochs}",
    )  # fmt: skip
    expected = ["flexora.search_steps=30: this run has at most 24 updates, so the search would not end"] if told else []
    assert [problem.partition(";")[0] for problem in problems(config)] == expected
    config.trainer.total_training_steps = 1000  # verl ends with the rows all the same
    assert len(list(problems(config))) == told
    config.data.train_files = [str(tmp_path / "*.parquet"), "rows.jsonl"]  # of which nobody knows how many there are
    assert not list(problems(config))


@pytest.mark.parametrize(
    ("settings", "sizes", "expected"),
    [
        ({"k": 3}, [4, 4, 4], "flexora.k: 3 of 3 units is no choice"),
        ({"rule": "budget", "budget": 0.2}, [4, 4, 4], "give 0.334 or more"),
        ({}, [4], "one unit, and nothing to choose"),
        ({"rule": "budget", "budget": 0.4}, [4, 4, 4], None),
    ],
)
def test_what_no_scores_can_choose_is_told(settings, sizes, expected):
    found = list(choice_problems(FlexoraConfig(**settings), {}, sizes))
    assert [expected in problem for problem in found] == ([] if expected is None else [True])


@pytest.mark.parametrize("method", ["first", "middle", "last", "random"])
def test_layers_of_two_stacks_have_no_order(method):
    units = {**UNITS, "model.visual.blocks.0": ["model.visual.blocks.0.attn.qkv"]}
    found = list(choice_problems(FlexoraConfig(method=method, k=2), units, [16] * 5))
    if method == "random":
        assert not found
    else:
        assert "none between those of model.layers and model.visual.blocks" in found[0]
        assert r"'model\.visual\.blocks.*'" in found[0]
    assert not list(choice_problems(FlexoraConfig(method=method, k=2), UNITS, [16] * 4))


@pytest.mark.parametrize(
    ("method", "dropout", "told"), [("unrolled", 0.1, True), ("unrolled", 0.0, False), ("first_order", 0.1, False)]
)
def test_differences_of_gradients_are_not_taken_under_dropout(method, dropout, told):
    found = list(dropout_problems(METHODS[method], dropout))
    assert ["dropout (0.1) falls anew" in problem for problem in found] == [True] * told


@pytest.mark.parametrize(
    ("method", "scales", "dtypes", "offloaded", "expected"),
    [
        ("align", True, {torch.float16}, False, "float16 scales"),
        ("align", False, {torch.bfloat16}, True, "set param_offload and optimizer_offload instead"),
        ("unrolled", False, {torch.float32, torch.bfloat16}, False, "model_dtype=fp32"),
        ("unrolled", False, {torch.float32}, False, None),
        ("random", False, {torch.bfloat16}, True, None),
        ("align", False, {torch.bfloat16}, False, None),
    ],
)
def test_gradients_that_are_no_measure_are_told(method, scales, dtypes, offloaded, expected):
    found = list(gradient_problems(METHODS[method], scales, dtypes, offloaded))
    assert [expected in problem for problem in found] == ([] if expected is None else [True])


def test_a_file_of_another_version_names_what_is_wrong(selection):
    file = selection()
    content = json.loads(file.read_text())
    del content["digest"], content["units"][2]["score"]
    file.write_text(json.dumps({**content, "digest": _digest(content)}))
    with pytest.raises(BadSelection, match=r"units.2.score: Field required"):
        load(file)


def test_vllm_wraps_every_module_unless_it_is_restricted(verl_config, selection):
    arguments = selected(selection())
    vllm = verl_config(*arguments).actor_rollout_ref.rollout.engine_kwargs.vllm
    assert vllm.lora_target_modules is None
    config = verl_config(*arguments, "flexora.restrict_rollouts=true", "actor_rollout_ref.rollout.name=vllm")
    assert not list(problems(config))
    other = verl_config(*arguments, "flexora.restrict_rollouts=true", "actor_rollout_ref.rollout.name=sglang")
    assert "a setting of vLLM" in list(problems(other))[0]
    node = config.actor_rollout_ref
    OmegaConf.resolve(node.rollout)  # as verl does before a run
    assert list(node.rollout.engine_kwargs.vllm.lora_target_modules) == [
        f"model.layers.{layer}.self_attn.{name}" for layer in (1, 3) for name in ("q_proj", "qkv_proj", "v_proj")
    ]


def test_noise_is_refused_unless_accepted(verl_config, selection):
    arguments = selected(selection(0.0))
    assert any("no more than chance" in problem for problem in problems(verl_config(*arguments)))
    assert not list(problems(verl_config(*arguments, "flexora.accept_noise=true")))


@pytest.mark.parametrize("setting", ["flexora.selection=null", "flexora.selection=/nowhere.json"])
def test_a_selected_run_without_its_file_is_refused(verl_config, setting):
    config = verl_config("+flexora=selected", setting, "actor_rollout_ref.model.lora_rank=8")
    assert any("selection" in problem for problem in problems(config))


def test_prompts_that_come_again_are_told():
    random, told = np.random.default_rng(0), []
    for rows in (80, 20):  # the second ends in its fourth epoch, each of which has other pairs
        record = Record({}, UNITS, [16] * 4, MODEL)
        for row in range(0, 80, 2):
            pair = [str(row % rows), str((row + 1 + row // rows * 2) % rows)]
            record.add([*pair, ""], {"agreement": random.normal(size=4)})
            record.add(pair, {"agreement": random.normal(size=4)})  # another PPO epoch
        selection = conclude(record, FlexoraConfig(k=2))
        assert selection.rounds == record.rounds
        told.append(selection.summary.partition("seen ")[2])
    assert told == ["", "4.00 times, so both share its noise"]


def test_modules_that_differ_from_the_selection_are_named(selection):
    chosen = load(selection())
    wanted = [*UNITS["model.layers.1"], *UNITS["model.layers.3"]]
    assert not list(selection_problems(chosen, wanted))
    assert "model.layers.3.self_attn.q_proj" in list(selection_problems(chosen, wanted[:2]))[0]
    assert "carry LoRA, but are not chosen" in list(selection_problems(chosen, [*wanted, "model.layers.0.q"]))[0]


def test_what_was_excluded_before_stays_excluded():
    record = Record({}, UNITS, [16] * 4, MODEL | {"exclude_modules": ".*k_proj"})
    record.add([], {"prior": np.arange(4.0)})
    chosen = conclude(record, FlexoraConfig(method="last", k=3))
    assert chosen.exclude_modules == r"(?:.*k_proj)|model\.layers\.(?:0)\..*"


class Adapter:
    """An adapter's config with one setting."""

    def __init__(self, **settings):
        vars(self).update(settings)


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"use_dora": True}, "DoRA"),
        ({"rank_pattern": {"q_proj": 4}}, "rank_pattern"),
        ({"alpha_pattern": {"q_proj": 4}}, "alpha_pattern"),
        ({"target_parameters": ["down_proj"]}, "target_modules"),
    ],
)
def test_adapters_that_vllm_would_scale_wrongly_are_refused(settings, told):
    assert told in next(adapter_problems(Adapter(**settings)))


def test_a_plain_adapter_is_taken():
    assert not list(
        adapter_problems(Adapter(use_dora=False, rank_pattern={}, alpha_pattern={}, target_parameters=None))
    )


groups = st.sets(st.integers(0, 1000).map(lambda number: group_of([number])), min_size=2, max_size=40)


@given(groups, st.floats(0.01, 0.99), st.integers(0, 5))
def test_the_other_part_is_neither_empty_nor_everything(names, share, seed):
    other = other_part(names, share, seed)
    assert 0 < len(other) < len(names) and other < names
    # rows in any order, and as often as there are rollouts
    assert other == other_part([*sorted(names, reverse=True), *names], share, seed)
    assert abs(len(other) - share * len(names)) <= 1


def test_the_other_part_rotates_with_batches_and_seeds():
    names = {group_of([number]) for number in range(8)}
    with_others = [names | {group_of([100 + batch])} for batch in range(60)]
    for drawn in (
        [other_part(batch, 0.25, 0) for batch in with_others],
        [other_part(names, 0.25, s) for s in range(60)],
    ):
        counts = [sum(name in other for other in drawn) for name in names]
        assert 5 <= min(counts) and max(counts) <= 28


def test_one_group_cannot_be_divided():
    with pytest.raises(TooFewGroups, match="a mini-batch has 1 prompt group"):
        other_part(["a", "a"], 0.5, 0)
