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

"""The lab does what verl's trainer and engine do, and its grids resume and keep settings apart."""

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
import typer
from omegaconf import OmegaConf
from rich.console import Console
from transfer_queue import KVBatchMeta
from transformers import AutoModelForCausalLM
from verl.trainer.ppo.v1 import get_trainer_cls
from verl.utils import tensordict_utils as tu
from verl.workers.config import ActorConfig
from verl.workers.utils.losses import ppo_loss

from recipes.flexora_study import natural, planted
from recipes.lab import factorial, grpo, headline, outcomes, redit, run, runs, task
from verl_redit.closed_loop import configured_plugins
from verl_redit.demo import process
from verl_redit.demo.engine import build, join
from verl_redit.demo.workspace import keep_to

SETTINGS = grpo.Settings(lr=1e-3, prompts=4, rollouts=4, weight_decay=0.0)


@pytest.fixture
def batch() -> grpo.Batch:
    """Four groups of four, one of them tied."""
    draw = np.random.default_rng(0)
    rewards = draw.integers(2, size=16).astype(float)
    rewards[:4] = 0.0
    prompts = torch.arange(1, 5).repeat_interleave(4)  # token 0 is padding, whose embedding verl does not train
    return grpo.Batch(prompts, torch.from_numpy(draw.integers(planted.SYMBOLS, size=(16, 3))), rewards)


ENTROPY = torch.rand(16, 3, generator=torch.Generator().manual_seed(0))


def advantages(batch: grpo.Batch, settings: grpo.Settings) -> torch.Tensor:
    return grpo.advantages(batch, grpo.plugin_of(settings, 0), settings, 4, lambda: ENTROPY)


@pytest.mark.parametrize("arm", [arm for arm, changes in redit.ARMS.items() if "coin" not in changes])
def test_the_same_rewards_give_the_trainers_advantages(arm, batch, store, verl_config):
    settings = replace(SETTINGS, **redit.ARMS[arm])
    config = verl_config(
        "algorithm.adv_estimator=grpo", f"algorithm.norm_adv_by_std_in_grpo={settings.norm_adv_by_std_in_grpo}"
    )
    if settings.redit:
        OmegaConf.update(config, "redit", settings.redit, force_add=True)
    for number, (prompt, reward) in enumerate(zip(batch.prompts.tolist(), batch.rewards.tolist(), strict=True)):
        store[f"{prompt}_{number % 4}_0"] = {
            "uid": str(prompt), "rm_scores": torch.tensor([0.0, 0.0, reward]), "entropy": ENTROPY[number],
            "response_mask": torch.ones(3, dtype=torch.int64), "old_log_probs": torch.zeros(3),
            "rollout_log_probs": torch.zeros(3), "data_source": grpo.DATA_SOURCE, "global_steps": 4,
            "session_id": number % 4, "extra_info": {"index": prompt},
        }  # fmt: skip
    trainer = object.__new__(get_trainer_cls("redit_sync" if settings.redit else "sync"))
    trainer.config, trainer.plugins = config, configured_plugins(config)
    trainer._compute_advantage(KVBatchMeta(keys=list(store), partition_id="train", tags=[{}] * 16), {})
    theirs = torch.stack([row["advantages"] for row in store.values()])
    assert theirs.any() and torch.equal(advantages(batch, settings), theirs)


@pytest.mark.parametrize(("arm", "updates"), [("GRPO", 1), ("ReDit, Gaussian", 4), ("Dr.GRPO with ReDit", 4)])
def test_the_same_advantages_give_the_updates_of_verls_engine(arm, updates, batch, tmp_path):
    settings = replace(SETTINGS, mini_batches=updates, **redit.ARMS[arm])
    planted.plant(tmp_path / "model", 0)
    estimated = advantages(batch, settings)
    ids = torch.cat([batch.prompts[:, None], planted.PROMPTS + batch.responses], dim=1)
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "model", attn_implementation="sdpa")
    before = {name: value.clone() for name, value in model.state_dict().items()}

    def log_probs(part: slice) -> torch.Tensor:
        every = model(ids[part]).logits[:, :-1].log_softmax(-1)
        return every.gather(-1, ids[part][:, 1:, None])[..., 0]

    old = log_probs(slice(None)).detach()
    optimizer = torch.optim.AdamW(model.parameters(), lr=settings.lr, weight_decay=0.0)
    norms = grpo.update(list(model.parameters()), optimizer, log_probs, estimated, settings)

    join(0, 1, tmp_path / "store")
    try:
        engine = build(tmp_path / "model", lora_rank=0, lr=settings.lr, enable_gradient_checkpointing=False)
        nested = partial(torch.nested.as_nested_tensor, layout=torch.jagged)
        mask = torch.ones(16, 3, dtype=torch.int64)
        whole = torch.cat([torch.zeros(16, 1, dtype=torch.int64), mask], dim=1)
        tensors = {
            "input_ids": ids, "loss_mask": whole, "position_ids": torch.arange(4).expand(16, 4), "prompts": ids[:, :1],
            "responses": ids[:, 1:], "response_mask": mask, "old_log_probs": old, "advantages": estimated,
        }  # fmt: skip
        config = ActorConfig(strategy="fsdp2", rollout_n=4, use_dynamic_bsz=True, loss_agg_mode=settings.loss_agg_mode)
        theirs_norms = []
        for part in torch.arange(16).chunk(updates):
            data = tu.get_tensordict(
                {name: nested(list(rows[part])) for name, rows in tensors.items()},
                non_tensor_dict={
                    "use_remove_padding": False, "use_dynamic_bsz": False, "micro_batch_size_per_gpu": 4,
                    "temperature": 1.0, "global_batch_size": len(part), "pad_mode": "no_padding", "pad_token_id": 0,
                },
            )  # fmt: skip
            with engine.train_mode():
                output = engine.train_batch(data, partial(ppo_loss, config))
            theirs_norms.append(output["metrics"]["grad_norm"])
        assert norms[0] == pytest.approx(theirs_norms[0], rel=1e-5)
        assert norms == pytest.approx(theirs_norms, rel=1e-3)
        theirs = {name: value.full_tensor() for name, value in engine.module.state_dict().items()}
    finally:
        torch.distributed.destroy_process_group()
    moved = torch.cat([(value - before[name]).flatten() for name, value in model.state_dict().items()])
    apart = torch.cat([(value - theirs[name]).flatten() for name, value in model.state_dict().items()])
    # Adam's first step is the sign of a gradient, which rounding turns where there is next to none
    assert moved.abs().mean() > 1e-4 and apart.abs().mean() < moved.abs().mean() / 100


def test_pass_rates_before_training_are_the_regimes_and_repeat():
    means = {"sparse": (0.01, 0.15), "middle": (0.25, 0.55), "saturated": (0.8, 1.0)}
    for regime, (low, high) in means.items():
        one, other = task.Task(regime, 3), task.Task(regime, 3)
        assert low < one.accuracy(one.policy()) < high
        assert all(torch.equal(one.start[name], other.start[name]) for name in one.start)


def test_training_learns_the_same_twice_and_not_from_coins():
    middle = task.Task("middle", 0)
    settings = grpo.Settings(lr=3e-3, steps=30)
    curves = run.train(middle, settings, 0)
    assert curves == run.train(middle, settings, 0)
    assert curves.accuracy[-1] > curves.accuracy[0] + 0.1
    coins = run.train(middle, grpo.Settings(lr=3e-3, steps=30, coin=True), 0)
    assert coins.accuracy[-1] < curves.accuracy[0] + 0.05


def test_groups_without_spread_are_replaced():
    settings = grpo.Settings(steps=5, redit={"strategy": "accuracy_band"})
    curves = run.train(task.Task("middle", 0), settings, 0)
    assert curves.tied_share == [0.0] * 5 and min(curves.sampled_groups) > settings.prompts


def test_a_grid_resumes_and_never_mixes_settings(tmp_path, monkeypatch):
    grid = outcomes.Grid(tmp_path, 3)
    first = redit.one(grid, "middle", 1, redit.GRPO, {}, 0)
    monkeypatch.setattr(redit, "train", lambda *_: pytest.fail("it was done before"))
    assert redit.one(grid, "middle", 1, redit.GRPO, {}, 0) == first
    assert grid.outcomes("middle", 1, redit.GRPO) == {0: first}
    with pytest.raises(pytest.fail.Exception):
        redit.one(grid, "middle", 1, redit.GRPO, {"lr": 0.5}, 0)
    grid.keep(grid.place("middle", 1, redit.GRPO, 0, {"lr": 0.5}), first)
    with pytest.raises(ValueError, match="2 settings"):
        grid.outcomes("middle", 1, redit.GRPO)


def test_ctrl_c_ends_a_grid_with_the_cells_that_have_begun(tmp_path):
    command = f"-m recipes.lab.redit run --out {tmp_path} --seeds 1 --steps 10 --processes 1"
    grid = subprocess.Popen(
        [sys.executable, *command.split()], start_new_session=True, cwd=Path(__file__).parents[2],
        # a shell lets what it starts in the background ignore ctrl-C
        preexec_fn=partial(signal.signal, signal.SIGINT, signal.SIG_DFL),
    )  # fmt: skip
    while not list(tmp_path.rglob("*.json")):
        assert grid.poll() is None
        time.sleep(0.1)
    os.killpg(grid.pid, signal.SIGINT)  # as a terminal does
    assert grid.wait(timeout=300) != 0
    cells = {place.relative_to(tmp_path).parts[1] for place in tmp_path.rglob("*.json")}
    assert len(cells) < len(task.REGIMES) * len(outcomes.UPDATES)


def outcome(accuracy: list[float]) -> dict:
    return {
        "accuracy": accuracy, "entropy": [1.0], "grad_norm": [1.0, 3.0], "tied_share": [0.5],
        "tied_energy_share": [0.25], "sampled_groups": [16],
    }  # fmt: skip


def ramp(reached: int, height: float = 0.5) -> list[float]:
    """Accuracies that stand at 0 until they stand at a height, 100 of them."""
    return [0.0] * reached + [height] * (100 - reached)


def test_comparisons_are_those_computed_by_hand():
    seeds = list(range(8))
    stock = {seed: outcome(ramp(41)) for seed in seeds}  # ten at the height: the 41st to the 50th
    fast = {seed: outcome(ramp(16)) for seed in seeds}
    found = outcomes.compare(fast, stock, seeds)
    assert found["ratio of steps"] == (0.5, 0.5, 0.5) and found["share that arrives"] == 1
    assert found["gain"] == (0.0, 0.0, 0.0) and found["p of the gain"] == 1
    assert found["spread of gradient norms"][0] == 0.5 and found["energy of tied groups"][0] == 0.25

    half = {seed: outcome(ramp(16, 0.5 if seed < 3 else 0.4 + seed / 1000)) for seed in seeds}
    found = outcomes.compare(half, stock, seeds)
    assert found["share that arrives"] == 3 / 8
    assert found["ratio of steps"] == (np.inf, 0.5, np.inf)
    mean, low, high = found["gain"]
    gains = [0.0] * 3 + [-0.1 + seed / 1000 for seed in range(3, 8)]
    assert mean == pytest.approx(np.mean(gains)) and high - mean == pytest.approx(mean - low)
    assert mean - low == pytest.approx(2.3646 * np.std(gains, ddof=1) / 8**0.5, rel=1e-4)


def test_few_seeds_have_no_interval():
    stock = {0: outcome(ramp(41))}
    found = outcomes.compare({0: outcome(ramp(16))}, stock, [0])
    assert found["ratio of steps"][0] == 0.5 and np.isnan(found["ratio of steps"][1:]).all()
    assert np.isnan(found["gain"][1:]).all()


def test_verdicts_are_corrected_for_all_that_is_judged():
    def cell(gain: float, p_value: float) -> dict:
        return {"arm": {"gain": (gain, 0, 0), "p of the gain": p_value}}

    results = {"one": cell(0.1, 1e-6), "two": cell(-0.1, 1e-6), "three": cell(0.1, 0.04)}
    assert outcomes.verdicts(results, ["arm"]) == {"arm": (["one"], ["two"])}


def test_the_tuned_rate_is_the_one_with_the_best_final_accuracy(tmp_path, monkeypatch):
    finals = {5e-4: 0.1, 1e-3: 0.2, 2e-3: 0.4, 4e-3: 0.3, 8e-3: 0.0}
    monkeypatch.setattr(redit, "one", lambda grid, regime, updates, arm, changes, seed: finals[changes["lr"]])
    monkeypatch.setattr(redit, "final", lambda accuracy: accuracy)
    assert redit.tuned_rate(outcomes.Grid(tmp_path, 30), "middle", 1) == 2e-3


def test_the_report_shows_a_cell_by_the_seeds_that_all_arms_have(tmp_path):
    grid, arms = outcomes.Grid(tmp_path, 30), [redit.GRPO, "ReDit, Gaussian"]
    tell = partial(outcomes.report, grid, list(task.REGIMES), arms, redit.GRPO, arms[1:], {arms[1]: redit.GRPO})
    console = Console(record=True, width=200)
    with pytest.raises(ValueError, match="no cell with a run of every arm"):
        tell(console)
    for seed in range(3):
        for arm in arms[: 3 - seed]:
            redit.one(grid, "middle", 1, arm, redit.ARMS[arm], seed)
    tell(console)
    results = json.loads((grid.folder / "results.json").read_text())["middle, 1 update a step, 2 seeds"]
    assert results[redit.GRPO]["gain"] == [0, 0, 0] and results[redit.GRPO]["ratio of steps"] == [1, None, None]
    assert results["ReDit, Gaussian"]["energy of tied groups"][0] > 0.1
    assert (grid.folder / "middle-1.png").is_file() and "ReDit, Gaussian" in console.export_text()
    tables = (grid.folder / "tables.md").read_text()
    gain = 100 * results["ReDit, Gaussian"]["gain"][0]
    assert f"| ReDit, Gaussian | GRPO | middle, 1 update a step, 2 seeds | {gain:+.1f} (" in tables


def composed(verl_config, job, folder):
    return verl_config(*(word for word in job.command(folder)[3:] if not word.startswith("hydra.")))


@pytest.mark.parametrize("arm", headline.ARMS)
def test_verl_takes_the_headline_arms(arm, tmp_path, verl_config):
    config = composed(verl_config, headline.job(tmp_path, arm, headline.sizes_of(48, 150, 3)), tmp_path)
    assert config.actor_rollout_ref.rollout.seed == config.data.seed == 3
    assert config.actor_rollout_ref.rollout.val_kwargs.n == headline.SAMPLES
    assert ("redit" in config) == (arm != "grpo")
    if arm != "grpo":
        assert config.redit.seed == 3 and config.redit.apply_to == ("mixed" if arm == "mixed-only" else "all")


def test_the_headline_table_has_rewards_without_noise_and_tied_groups(tmp_path):
    (tmp_path / "rollouts").mkdir()
    (tmp_path / "metrics.jsonl").touch()
    rows = [
        {"uid": f"{group}_{session}_0", "output": f"#### {answer}", "gts": "7", "score": 0.03}
        for group, answers in {"a": "77", "b": "71", "c": "12", "d": "33"}.items()
        for session, answer in enumerate(answers)
    ]
    for step in range(1, 2 + headline.EDGE):  # nothing is right in the first step
        kept = rows[4:] if step == 1 else rows
        (tmp_path / f"rollouts/{step}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in kept))
    (cells,) = zip(*(column.cells for column in headline.rewards({"grpo": [tmp_path]}).columns), strict=True)
    assert cells == ("grpo", f"{100 * 3 / 8 * 7 / 8:.1f}", f"{100 * 3 / 8:.1f}", f"{100 * (1 + 0.75 * 8) / 9:.1f}")


@pytest.mark.parametrize("cell", factorial.CELLS, ids=factorial.title)
def test_verl_takes_every_combination(cell, tmp_path, verl_config):
    config = composed(verl_config, factorial.job(tmp_path, cell, 3, 24), tmp_path)
    assert ("redit" in config, config.paft.policy == "cycle", "flexora" in config) == cell
    assert config.paft.seed == config.data.seed == 3 and config.trainer.test_freq == 24


def test_effects_are_what_a_factor_adds_and_what_two_and_three_add_together():
    def accuracy(redit: bool, paft: bool, flexora: bool) -> float:
        return 0.5 + 0.1 * redit - 0.2 * paft + 0.3 * redit * paft + 0.4 * redit * paft * flexora

    found = factorial.effects({cell: accuracy(*cell) for cell in factorial.CELLS})
    assert found == pytest.approx({
        "ReDit": 0.1 + 0.3 / 2 + 0.4 / 4, "PAFT": -0.2 + 0.3 / 2 + 0.4 / 4, "Flexora": 0.4 / 4,
        "ReDit × PAFT": 0.3 + 0.4 / 2, "ReDit × Flexora": 0.4 / 2, "PAFT × Flexora": 0.4 / 2,
        "ReDit × PAFT × Flexora": 0.4,
    })  # fmt: skip


@pytest.mark.parametrize(
    ("study", "settings"),
    [(headline, {"steps": 4, "warm_steps": 9}), (factorial, {"steps": 4}), (natural, {"steps": 4, "warm_steps": 9})],
)
def test_a_study_mixes_no_settings(study, settings, tmp_path):
    keep_to(tmp_path, **settings)
    for name in settings:
        with pytest.raises(typer.BadParameter, match=f"{name} {settings[name]}, these have 8; give another --out"):
            study.main(tmp_path, **{**settings, name: 8})


def test_a_finished_run_is_not_made_again_and_a_half_done_one_is(tmp_path, monkeypatch):
    made = []

    def train(arguments, folder, title, sizes, console):
        assert not folder.exists()
        folder.mkdir()
        made.append(title)

    monkeypatch.setattr(process, "run_to_end", train)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    finished, half_done = (headline.job(tmp_path, "grpo", headline.sizes_of(4, 150, seed)) for seed in (0, 1))
    finished.folder.mkdir(parents=True)
    (finished.folder / "done").touch()
    half_done.dump.parent.mkdir(parents=True)
    half_done.dump.touch()  # verl writes it before the run ends, and a run that fails then has one too
    runs.run_all([finished, half_done], tmp_path, 2, Console(quiet=True))
    assert made == ["grpo/seed1"] and (half_done.folder / "done").is_file()


def test_a_report_of_no_grid_is_refused_in_a_line(tmp_path):
    with pytest.raises(typer.BadParameter, match="has no cell with a run of every arm"):
        redit.report(tmp_path)
