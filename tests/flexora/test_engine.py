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

"""verl's FSDP2 engine with a search beside its training: what is measured, and what stays as it was."""

import copy
import json
import shutil
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from peft import LoraConfig, get_peft_model, set_peft_model_state_dict
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM, Qwen2Config, Qwen2ForCausalLM
from verl.utils.metric import Metric
from verl.workers.engine.fsdp.transformer_impl import FSDPEngineWithLMHead
from verl.workers.utils.losses import sft_loss

from tests.flexora import engines
from tests.flexora.engines import LAYERS, batch, build, histories_on, parameters, train
from verl_redit.flexora.adapter import lora_modules
from verl_redit.flexora.batches import Parts
from verl_redit.flexora.layers import lora_factor, unit_of
from verl_redit.flexora.parts import TooFewGroups
from verl_redit.flexora.record import BadRecord, read
from verl_redit.flexora.scores import APPLIED, METHODS
from verl_redit.flexora.search import Factors
from verl_redit.flexora.selection import load

pytestmark = pytest.mark.usefixtures("alone")
STEPS = 4


@pytest.fixture
def search(model, tmp_path):
    """Builds an engine that searches."""

    def built(method: str, optimizer: dict | None = None, **settings):
        node = {"method": method, "search_steps": 100, "output": str(tmp_path / "out"), **settings}
        return build(model, node, optimizer=optimizer)

    return built


@pytest.fixture(scope="module")
def stock(alone, model):
    """What verl's own engine does in a few steps."""
    engine = build(model, None)
    return train(engine, STEPS), parameters(engine)


def test_models_without_flexora_get_verls_engine(model):
    assert type(build(model, None)) is FSDPEngineWithLMHead


@pytest.mark.parametrize(
    "method", ["align", "sign", "sensitivity", "grad_norm", "l1_gate", "spectral", "random", "all"]
)
def test_training_is_that_of_the_stock_engine(search, stock, method):
    engine = search(method)
    outputs = train(engine, STEPS)
    for found, expected in zip(outputs, stock[0], strict=True):
        assert sum(found["loss"]) == pytest.approx(sum(expected["loss"]), rel=1e-6)
        assert found["metrics"]["grad_norm"] == pytest.approx(expected["metrics"]["grad_norm"], rel=1e-5)
    for name, value in parameters(engine).items():
        torch.testing.assert_close(value, stock[1][name], rtol=1e-4, atol=1e-5)


def test_metrics_of_both_halves_are_those_of_the_batch(search, model):
    def told(model_output, data, dp_group=None):
        loss, _ = sft_loss(None, model_output, data, dp_group)
        return loss, {"loss": Metric("sum", loss), "rows": [len(data)]}

    found = []
    for engine in (build(model, None), search("align")):
        with engine.train_mode():
            found.append(engine.train_batch(batch(0), told)["metrics"])
    stock, ours = found
    assert ours["loss"].aggregate() == pytest.approx(stock["loss"].aggregate())
    assert ours["rows"] == stock["rows"]


@pytest.fixture
def parts(monkeypatch) -> list[Parts]:
    """Parts of the batches that a search divides."""
    from verl_redit.flexora import search_engine as module

    seen: list[Parts] = []
    parts_of = module.parts_of
    monkeypatch.setattr(module, "parts_of", lambda *args: seen.append(parts_of(*args)) or seen[-1])
    return seen


@pytest.mark.parametrize("method", ["first_order", "unrolled"])
def test_held_out_groups_do_not_train(search, parts, method):
    engine = search(method, held_out=0.5)
    before = parameters(engine)
    train(engine, 1)
    moved = parameters(engine)
    # the same update from the other part alone
    alone = build(engine.model_config.path, None)
    assert all(torch.equal(before[name], value) for name, value in parameters(alone).items())
    with alone.train_mode():
        alone.train_batch(parts[0].train, partial(sft_loss, config=None))
    for name, value in parameters(alone).items():
        torch.testing.assert_close(moved[name], value)


@pytest.mark.parametrize("apply", [False, True], ids=["gates of 1", "applied gates"])
@pytest.mark.parametrize("inner_steps", [1, 2])
def test_the_outer_gradient_is_that_of_exact_unrolling(search, parts, inner_steps, apply):
    rate = 0.05
    engine = search("unrolled", {"lr": rate, "optimizer": "SGD"}, inner_steps=inner_steps, apply=apply, held_out=0.5)
    train(engine, 3)  # so that B is not zero
    gates = torch.tensor(engine.search.gates, dtype=torch.float32, requires_grad=True)
    assert bool(gates.std() > 0) == apply
    plain = with_gates(engine, gates)
    train(engine, 1, first=3)

    values = {name: value for name, value in plain.named_parameters() if "lora_" in name}
    for _ in range(inner_steps):
        slopes = torch.autograd.grad(mean_loss(plain, values, parts[3].train), list(values.values()), create_graph=True)
        values = {name: value - rate * slope for (name, value), slope in zip(values.items(), slopes, strict=True)}
    [expected] = torch.autograd.grad(mean_loss(plain, values, parts[3].other), gates)
    found = engine.record.history()["gate_gradient"][-1]
    assert np.linalg.norm(found - expected.numpy()) < 1e-3 * np.linalg.norm(expected.numpy())


def with_gates(engine, gates: torch.Tensor) -> torch.nn.Module:
    """The engine's model as it is now, in plain PEFT, with a factor on each layer's update."""
    # attention that torch differentiates twice
    base = AutoModelForCausalLM.from_pretrained(engine.model_config.path, attn_implementation="eager")
    plain = get_peft_model(base, LoraConfig(r=4, lora_alpha=8, target_modules="all-linear"))
    for name, value in parameters(engine).items():
        plain.get_parameter(name).data.copy_(value)
    for name, part in lora_modules(plain).items():
        part.scaling["default"] = 2.0 * gates[int(name.split(".")[2])]
    return plain


def mean_loss(plain: torch.nn.Module, values: dict[str, torch.Tensor], data) -> torch.Tensor:
    """Negative log-likelihood of a batch's trained tokens, row by row, mean over them."""
    total, count = 0.0, 0
    for ids, mask in zip(data["input_ids"].unbind(), data["loss_mask"].unbind(), strict=True):
        log_probs = torch.func.functional_call(plain, values, (ids[None],)).logits[0, :-1].log_softmax(-1)
        of_tokens = log_probs.gather(1, ids[1:, None])[:, 0]
        total = total - (of_tokens * mask[1:]).sum()
        count += int(mask[1:].sum())
    return total / count


SEARCHES = [
    {"method": "align"}, {"method": "align", "grain": "module"}, {"method": "first_order"}, {"method": "sign"},
    {"method": "sensitivity"}, {"method": "grad_norm"}, {"method": "l1_gate"},
    {"method": "unrolled", "inner_steps": 2}, {"method": "unrolled", "apply": True},
]  # fmt: skip


@pytest.fixture(scope="module")
def by_ranks(model, tmp_path_factory):
    folder = tmp_path_factory.mktemp("ranks")
    return [histories_on(ranks, model, SEARCHES, 3, folder / str(ranks)) for ranks in (1, 2)]


@pytest.mark.parametrize("number", range(len(SEARCHES)), ids=[str(search) for search in SEARCHES])
def test_scores_do_not_depend_on_the_number_of_ranks(by_ranks, number):
    (one, after_one), (two, after_two) = (histories[number] for histories in by_ranks)
    method = (APPLIED if SEARCHES[number].get("apply") else METHODS)[SEARCHES[number]["method"]]
    for statistic, values in one.items():
        rtol = 2e-3 if method.passes == "unrolled" else 1e-4
        np.testing.assert_allclose(two[statistic], values, rtol=rtol, atol=1e-6 * np.abs(values).max())
    one, two = method.read(one), method.read(two)
    score = method.score(one)
    # differences of float32 gradients, over a small distance
    tolerance = 1e-5 if method.passes == "unrolled" else 1e-6
    np.testing.assert_allclose(method.score(two), score, rtol=0, atol=min(1e-6, tolerance * np.abs(score).max()))
    for name, value in after_one.items():
        torch.testing.assert_close(after_two[name], value)


def test_both_factors_give_the_same_gate_gradient(search):
    engine = search("grad_norm")
    train(engine, 3)
    with engine.train_mode():
        engine.optimizer_zero_grad()
        FSDPEngineWithLMHead.forward_backward_batch(engine, batch(9), partial(sft_loss, config=None))
        factors = Factors(engine.module.named_parameters(), "layer", lambda summed: summed)
        gradients = factors.take()
    by_b = factors.gate_gradient(gradients)
    factors.is_b = [not is_b for is_b in factors.is_b]
    np.testing.assert_allclose(factors.gate_gradient(gradients), by_b, rtol=1e-4, atol=1e-8)
    assert np.abs(by_b).min() > 0


def test_gate_gradients_are_those_of_scaled_layers(search):
    engine = search("first_order", held_out=0.5)
    train(engine, 3)

    def loss(gate: float) -> float:
        engine.gates.act(dict.fromkeys(engine.record.units, 1.0) | {"model.layers.2": gate})
        with engine.eval_mode():
            return sum(engine.infer_batch(batch(9), partial(sft_loss, config=None))["loss"])

    # near enough for a straight line, and far enough that the losses differ by more than float32 rounds them
    slope = (loss(1.1) - loss(0.9)) / 0.2
    loss(1.0)
    with engine.train_mode():
        engine.optimizer_zero_grad()
        FSDPEngineWithLMHead.forward_backward_batch(engine, batch(9), partial(sft_loss, config=None))
        gradient = engine.search.factors.gate_gradient(engine.search.factors.take())
    assert gradient[2] == pytest.approx(slope, rel=0.02)


def test_a_search_ends_with_a_selection(search, tmp_path):
    engine = search("align", search_steps=6, k=2)
    train(engine, 8)
    selection = load(tmp_path / "out" / "selection.json")
    assert len(selection.chosen) == 2 and len(selection.units) == LAYERS and selection.scored_steps == 6
    assert {unit.parameters for unit in selection.units} == {sum(
        value.numel() for name, value in parameters(engine).items() if ".layers.0." in name
    )}  # fmt: skip
    record = read(tmp_path / "out" / "record.jsonl")
    assert len(record.steps) == 6
    np.testing.assert_array_equal(record.history()["agreement"], engine.record.history()["agreement"])


def test_a_record_is_not_written_over(search, tmp_path):
    train(search("align"), 2)
    before = (tmp_path / "out" / "record.jsonl").read_text()
    with pytest.raises(FileExistsError, match=r"other settings \(seed\); set flexora.output"):
        search("align", seed=1)
    for number in (1, 2):  # begun again, without a checkpoint
        train(search("align", accept_noise=True), 2)
        assert (tmp_path / "out" / f"record.{number}.jsonl").read_text() == before
        before = (tmp_path / "out" / "record.jsonl").read_text()
    (tmp_path / "out" / "record.jsonl").write_text("notes")
    with pytest.raises(FileExistsError, match=r"is not this search's \(.*is no record"):
        search("align")


@pytest.mark.parametrize("number", [float("nan"), float("inf")], ids=str)
@pytest.mark.parametrize("method", ["align", "unrolled", "first_order", "sign", "sensitivity", "grad_norm", "l1_gate"])
def test_steps_without_finite_gradients_are_named_and_counted(search, tmp_path, method, number):
    engine = search(method, search_steps=5)

    def poisoned(model_output, data, dp_group=None):
        loss, metrics = sft_loss(None, model_output, data, dp_group)
        return loss * number, metrics

    train(engine, 2)
    with engine.train_mode():
        engine.train_batch(batch(7), poisoned)
    train(engine, 2, first=2)
    # sign has none to compare the first with
    skipped = 2 if method == "sign" else 1
    assert engine.record.skipped == skipped
    lines = [json.loads(line) for line in (tmp_path / "out" / "record.jsonl").read_text().splitlines()]
    assert lines[3]["step"] == 3 and lines[3]["skipped"].endswith("of model.layers.0 is not finite")
    selection = load(tmp_path / "out" / "selection.json")
    assert (selection.scored_steps, selection.skipped_steps) == (5 - skipped, skipped)
    assert np.isfinite([unit.score for unit in selection.units]).all()


def test_a_batch_of_one_group_is_refused(search):
    engine = search("align")
    with engine.train_mode(), pytest.raises(TooFewGroups, match="ppo_mini_batch_size"):
        engine.train_batch(batch(0, rows=1), partial(sft_loss, config=None))


@pytest.mark.parametrize("method", ["align", "first_order", "unrolled"])
def test_a_later_batch_of_one_group_trains_and_is_not_scored(search, model, method):
    engine, stock = search(method), build(model, None)
    train(engine, 1)
    for name, value in stock.module.named_parameters():
        value.data.copy_(dict(engine.module.named_parameters())[name].data)
    stock.optimizer.load_state_dict(copy.deepcopy(engine.optimizer.state_dict()))
    for one in (engine, stock):
        with one.train_mode():
            one.train_batch(batch(1, rows=1), partial(sft_loss, config=None))
    for name, value in parameters(engine).items():
        torch.testing.assert_close(value, parameters(stock)[name])
    assert engine.record.skipped == 1 and "1 prompt group" in engine.record.steps[-1]["skipped"]


def test_rank_zero_is_refused(model, tmp_path):
    with pytest.raises(ValueError, match="lora_rank"):
        build(model, {"output": str(tmp_path)}, lora_rank=0)


def of_unit(values: dict[str, torch.Tensor], units: set[str]) -> dict[str, torch.Tensor]:
    return {name: value for name, value in values.items() if unit_of(lora_factor(name)[0], "layer") in units}


@pytest.mark.parametrize("switch", ["reset", "keep"])
def test_one_run_goes_on_with_the_chosen_layers(search, tmp_path, switch):
    decay = {"weight_decay": 0.1}
    engine = search("align", decay, mode="one_run", search_steps=3, k=2, accept_noise=True, switch=switch)
    train(engine, 3)
    selection = load(tmp_path / "out" / "selection.json")
    chosen = {unit.name for unit in selection.chosen}
    rest = {unit.name for unit in selection.units} - chosen
    before = parameters(engine)
    zeros = [not value.any() for name, value in before.items() if ".lora_B." in name]
    assert all(zeros) if switch == "reset" else not any(zeros)
    train(engine, 3, first=3)
    after = parameters(engine)
    assert all(torch.equal(before[name], value) for name, value in of_unit(after, rest).items())
    assert all(not torch.equal(before[name], value) for name, value in of_unit(after, chosen).items())
    assert sent_layers(engine) == (chosen if switch == "reset" else chosen | rest)


def sent_layers(engine) -> set[str]:
    """Those whose adapter vLLM gets."""
    tensors, config = engine.get_per_tensor_param(base_sync_done=True)
    assert config["r"] == 4
    return {unit_of(lora_factor(name)[0], "layer") for name, _ in tensors}


def test_one_run_refuses_a_choice_that_is_no_more_than_chance(search):
    engine = search("first_order", mode="one_run", search_steps=4)
    with pytest.raises(ValueError, match=r"accept_noise.*out/selection.json: \+flexora=selected trains on it"):
        train(engine, 4)


@pytest.mark.parametrize("switch", ["reset", "keep"])
@pytest.mark.parametrize("stop", [2, 5], ids=["before the switch", "after it"])
def test_one_run_resumes_on_either_side_of_the_switch(search, tmp_path, stop, switch):
    settings = dict(mode="one_run", search_steps=4, k=2, accept_noise=True, switch=switch)
    whole = search("align", **settings, output=str(tmp_path / "whole"))
    train(whole, 8)
    first = search("align", **settings, output=str(tmp_path / "stopped"))
    train(first, stop)
    first.save_checkpoint(str(tmp_path / "checkpoint"), global_step=stop)
    train(first, 1, first=stop)  # what it does after the checkpoint is lost
    second = search("align", **settings, output=str(tmp_path / "stopped"))
    second.load_checkpoint(str(tmp_path / "checkpoint"))
    train(second, 8 - stop, first=stop)
    for name, value in parameters(second).items():
        assert torch.equal(value, parameters(whole)[name])
    assert sent_layers(second) == sent_layers(whole)
    assert len(sent_layers(second)) == (2 if switch == "reset" else LAYERS)
    assert (tmp_path / "stopped" / "record.jsonl").read_text().split("\n")[1:] == (
        tmp_path / "whole" / "record.jsonl"
    ).read_text().split("\n")[1:]


def test_a_choice_without_a_search_trains_from_the_start_and_resumes(search, tmp_path):
    settings = dict(mode="one_run", k=2)
    whole, first = (search("last", **settings) for _ in range(2))
    train(whole, 4)
    train(first, 2)
    first.save_checkpoint(str(tmp_path / "checkpoint"), global_step=2)
    second = search("last", **settings)
    second.load_checkpoint(str(tmp_path / "checkpoint"))
    train(second, 2, first=2)
    for name, value in parameters(second).items():
        assert torch.equal(value, parameters(whole)[name])
    assert not any(value.any() for name, value in parameters(second).items() if "layers.0" in name and "lora_B" in name)
    for engine in (whole, second):
        assert sent_layers(engine) == {f"model.layers.{LAYERS - 2}", f"model.layers.{LAYERS - 1}"}
    with pytest.raises(ValueError, match=r"other settings \(k\)"):
        search("last", **{**settings, "k": 3}, output=str(tmp_path / "other")).load_checkpoint(
            str(tmp_path / "checkpoint")
        )


def test_one_run_that_chooses_as_it_resumes_begins_anew_afterwards(search, tmp_path):
    settings = dict(mode="one_run", k=2, accept_noise=True)
    first = search("align", search_steps=8, **settings)
    train(first, 5)
    first.save_checkpoint(str(tmp_path / "checkpoint"), global_step=5)
    train(first, 1, first=5)
    record = (tmp_path / "out" / "record.jsonl").read_text()
    second = search("align", search_steps=5, **settings)
    second.load_checkpoint(str(tmp_path / "checkpoint"))
    assert (tmp_path / "out" / "record.1.jsonl").read_text() == record  # which went further
    assert len(sent_layers(second)) == LAYERS  # all have learned
    train(second, 1, first=5)
    assert len(sent_layers(second)) == 2


def test_differences_of_gradients_are_not_taken_where_a_model_has_dropout(model, tmp_path):
    other = Path(shutil.copytree(model, tmp_path / "model"))
    config = json.loads((other / "config.json").read_text())
    (other / "config.json").write_text(json.dumps({**config, "attention_dropout": 0.1}))
    with pytest.raises(ValueError, match=r"dropout \(0.1\) falls anew for each"):
        build(other, {"method": "unrolled", "output": str(tmp_path)})
    build(other, {"method": "first_order", "output": str(tmp_path)})


def test_a_new_search_moves_the_selection_of_an_older_one_aside(search, tmp_path):
    train(search("grad_norm", search_steps=4, k=2), 4)
    old = (tmp_path / "out/selection.json").read_text()
    again = search("grad_norm", search_steps=4, k=2)
    train(again, 1)
    assert not (tmp_path / "out/selection.json").exists()  # this one has chosen nothing yet
    assert (tmp_path / "out/selection.1.json").read_text() == old and (tmp_path / "out/record.1.jsonl").is_file()
    train(again, 3, first=1)
    assert (tmp_path / "out/selection.json").is_file() and not (tmp_path / "out/selection.2.json").exists()


def test_one_run_by_place_does_not_go_on_from_a_run_on_all_layers(search, tmp_path):
    first = search("last", k=2)
    train(first, 1)
    first.save_checkpoint(str(tmp_path / "checkpoint"), global_step=1)
    with pytest.raises(ValueError, match=r"other settings \(mode\)"):
        search("last", k=2, mode="one_run").load_checkpoint(str(tmp_path / "checkpoint"))


def test_a_checkpoint_of_more_ranks_is_refused(search, model, selection, tmp_path):
    searching = search("align", output=str(tmp_path / "searching"))
    for engine, kept in ((searching, "jsonl"), (selected(model, selection), "json")):
        train(engine, 1)
        engine.save_checkpoint(str(tmp_path / kept), global_step=1)
        file = tmp_path / kept / f"flexora_world_size_1_rank_0.{kept}"
        file.rename(file.with_name(f"flexora_world_size_2_rank_0.{kept}"))
        with pytest.raises(ValueError, match="written by another number of ranks .*world_size_2_.*use as many"):
            engine.load_checkpoint(str(tmp_path / kept))


def test_a_checkpoint_of_another_search_is_refused(search, model, tmp_path):
    first = search("align")
    train(first, 1)
    first.save_checkpoint(str(tmp_path / "checkpoint"), global_step=1)
    build(model, None).save_checkpoint(str(tmp_path / "stock"), global_step=1)
    with pytest.raises(ValueError, match=r"other settings \(grain, layers\)"):
        other = str(tmp_path / "other")
        search("align", grain="module", output=other).load_checkpoint(str(tmp_path / "checkpoint"))
    with pytest.raises(ValueError, match="no checkpoint of a search"):
        search("align").load_checkpoint(str(tmp_path / "stock"))
    # what is chosen may still change while the search goes on
    search("align", k=1, search_steps=7, accept_noise=True).load_checkpoint(str(tmp_path / "checkpoint"))


def logits(engine) -> torch.Tensor:
    with engine.eval_mode(), torch.no_grad():
        return engine.module(torch.arange(5, 17)[None]).logits


def test_applied_gates_reach_rollouts_in_b(search, model):
    engine = search("first_order", apply=True, search_steps=6)
    train(engine, 5)
    before = list(engine.gates.of_unit.values())
    assert len(set(before)) == LAYERS and np.mean(before) == pytest.approx(1)
    tensors, _ = engine.get_per_tensor_param(base_sync_done=True)
    plain = get_peft_model(
        AutoModelForCausalLM.from_pretrained(model), LoraConfig(r=4, lora_alpha=8, target_modules="all-linear")
    )
    set_peft_model_state_dict(plain, dict(tensors))
    with torch.no_grad():
        sampled = plain.eval()(torch.arange(5, 17)[None]).logits
    torch.testing.assert_close(sampled, logits(engine), rtol=1e-4, atol=1e-5)
    train(engine, 1, first=5)
    assert not engine.gates.of_unit  # folded into B at the search's end


def test_the_last_update_of_a_search_is_that_of_its_gates(search, tmp_path):
    """They go into B after it, as its gradient and momentum are those of B without them."""
    ended = search("first_order", apply=True, search_steps=6)
    going = search("first_order", apply=True, output=str(tmp_path / "going"))
    for engine in (ended, going):
        train(engine, 6)
    sent, expected = (dict(engine.get_per_tensor_param(base_sync_done=True)[0]) for engine in (ended, going))
    torch.testing.assert_close(sent, expected)


@pytest.mark.parametrize(("before", "after"), [(3, 6), (6, 3), (6, 2)])
def test_gates_that_act_do_not_end_twice_or_in_between(search, tmp_path, before, after):
    """After a search they are in B already; and a checkpoint from within one has them nowhere."""
    first = search("first_order", apply=True, search_steps=before)
    train(first, 3)
    first.save_checkpoint(str(tmp_path / "checkpoint"))
    with pytest.raises(BadRecord, match=r"other settings \(search_steps\)"):
        search("first_order", apply=True, search_steps=after).load_checkpoint(str(tmp_path / "checkpoint"))


def test_a_search_with_gates_that_act_may_go_on_for_longer(search, tmp_path):
    first = search("first_order", apply=True, search_steps=6)
    train(first, 3)
    first.save_checkpoint(str(tmp_path / "checkpoint"))
    again = search("first_order", apply=True, search_steps=9)
    again.load_checkpoint(str(tmp_path / "checkpoint"))
    assert again.gates.of_unit == first.gates.of_unit


def test_folding_gates_changes_nothing(search):
    engine = search("first_order", apply=True)
    train(engine, 5)
    before, gates, factors = logits(engine), dict(engine.gates.of_unit), engine.search.factors
    states = [engine.optimizer.state[parameter] for parameter in factors.parameters]
    moments = [(state["exp_avg"].clone(), state["exp_avg_sq"].clone()) for state in states]
    engine.gates.fold(factors, engine.optimizer)
    torch.testing.assert_close(logits(engine), before, rtol=1e-4, atol=1e-6)
    # ∂L/∂(wB) = ∂L/∂B / w
    for state, (first, second), module, is_b in zip(states, moments, factors.modules, factors.is_b, strict=True):
        gate = gates[unit_of(module, "layer")] if is_b else 1.0
        torch.testing.assert_close(state["exp_avg"] * gate, first)
        torch.testing.assert_close(state["exp_avg_sq"] * gate**2, second)
    scales = {module.scaling["default"] for module in lora_modules(engine.module).values()}
    assert scales == {2.0}


@pytest.fixture
def selection(search, tmp_path):
    """File of a selection of the two highest layers."""
    search("last", k=2)
    return tmp_path / "out" / "selection.json"


def test_a_search_that_a_run_is_too_short_for_says_so(search, tmp_path, capsys):
    train(search("align", {"total_training_steps": 3}, search_steps=4), 3)
    told = capsys.readouterr().out
    assert "the run is over before the search: 3 updates of 4" in told and str(tmp_path / "out/record.jsonl") in told


def test_one_supervised_run_that_is_too_short_for_its_search_does_not_begin(search):
    engine = search("align", {"total_training_steps": 3}, mode="one_run", search_steps=4)
    with pytest.raises(
        ValueError, match=r"flexora.search_steps=4: this run has at most 3 updates, so the search would not end"
    ):
        train(engine, 1)


def selected(model, file, **settings):
    node = {"mode": "selected", "selection": str(file), "accept_noise": True, **settings}
    return build(model, node, exclude_modules=load(file).exclude_modules)


def test_a_selected_run_trains_the_chosen_layers_alone(model, selection):
    engine = selected(model, selection)
    train(engine, 2)
    chosen = {unit.name for unit in load(selection).chosen}
    assert {unit_of(lora_factor(name)[0], "layer") for name in parameters(engine)} == chosen
    assert sent_layers(engine) == chosen


def test_a_selection_for_another_model_is_refused(selection, tmp_path_factory):
    other = engines.save_model(tmp_path_factory.mktemp("other") / "model", layers=2)
    with pytest.raises(ValueError, match="the model has no model.layers.2.mlp.down_proj, nor 27 others"):
        selected(other, selection)


def test_a_selection_from_a_shallower_model_is_refused(model, tmp_path, tmp_path_factory):
    other = engines.save_model(tmp_path_factory.mktemp("other") / "model", layers=4)
    build(other, {"method": "first", "k": 2, "output": str(tmp_path)})
    with pytest.raises(ValueError, match="14 modules carry LoRA, but are not chosen"):
        selected(model, tmp_path / "selection.json")


def test_a_selected_run_resumes_its_own_checkpoints_alone(model, selection, search, tmp_path):
    first = selected(model, selection)
    train(first, 2)
    first.save_checkpoint(str(tmp_path / "checkpoint"), global_step=2)
    second = selected(model, selection)
    second.load_checkpoint(str(tmp_path / "checkpoint"))
    for name, value in parameters(second).items():
        assert torch.equal(value, parameters(first)[name])
    searching = search("align", output=str(tmp_path / "searching"))
    with pytest.raises(ValueError, match="no checkpoint of a search"):
        searching.load_checkpoint(str(tmp_path / "checkpoint"))
    train(searching, 1)
    searching.save_checkpoint(str(tmp_path / "of a search"), global_step=1)
    search("last", k=3, output=str(tmp_path / "three"))
    for checkpoint, file, told in (
        ("of a search", selection, "no checkpoint of a run on a selection"),
        ("checkpoint", tmp_path / "three/selection.json", "of a run on another selection"),
    ):
        with pytest.raises(ValueError, match=told):
            selected(model, file).load_checkpoint(str(tmp_path / checkpoint))


def test_a_selection_for_a_model_with_the_same_names_is_refused(model, selection, tmp_path):
    config = {**json.loads((model / "config.json").read_text()), "intermediate_size": 64}
    wide, llama = (Path(shutil.copytree(model, tmp_path / name)) for name in ("wide", "llama"))
    Qwen2ForCausalLM(Qwen2Config(**config)).save_pretrained(wide)
    with pytest.raises(ValueError, match=r"model.layers.0 has \d+ inputs and outputs, and had \d+ in the search"):
        selected(wide, selection)
    sizes = {key: value for key, value in config.items() if key != "layer_types"}
    LlamaForCausalLM(LlamaConfig(**{**sizes, "model_type": "llama"})).save_pretrained(llama)
    with pytest.raises(ValueError, match="the model is a llama, and layers were chosen in a qwen2"):
        selected(llama, selection)


def test_a_model_that_does_not_exclude_the_rest_is_refused(model, selection):
    with pytest.raises(ValueError, match="carry LoRA, but are not chosen"):
        build(model, {"mode": "selected", "selection": str(selection), "accept_noise": True})


def test_the_backward_pass_stops_at_the_lowest_chosen_layer(model, selection, tmp_path):
    reached: dict[bool, set[int]] = {}
    gradients = {}
    for stop in (False, True):
        engine = selected(model, selection, stop_backward=stop)
        layers = engine.module.get_base_model().model.layers
        reached[stop] = set()
        for number, layer in enumerate(layers):
            layer.register_full_backward_hook(lambda *_, number=number, stop=stop: reached[stop].add(number))
        train(engine, 2)
        gradients[stop] = parameters(engine)
    assert reached[False] == set(range(LAYERS))
    assert reached[True] == {LAYERS - 2, LAYERS - 1}
    for name, value in gradients[True].items():
        assert torch.equal(value, gradients[False][name])


def test_the_backward_pass_does_not_stop_where_activations_are_offloaded(model, selection):
    node = {"mode": "selected", "selection": str(selection), "accept_noise": True, "stop_backward": True}
    excluded = load(selection).exclude_modules
    with pytest.raises(ValueError, match="enable_activation_offload=false"):
        build(model, node, exclude_modules=excluded, enable_activation_offload=True)
