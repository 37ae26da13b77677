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

"""What is told about a run with a pool before it starts."""

import re
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from torchdata.stateful_dataloader import StatefulDataLoader

from tests.paft.conftest import entry
from tests.paft.test_sampler import Pairs
from verl_redit.paft import startup
from verl_redit.paft.config import PaftConfig
from verl_redit.paft.pool_file import load
from verl_redit.paft.sampler import pair_sampler
from verl_redit.preflight import ConfigError, check


@pytest.fixture
def found(verl_config, parquet, pool_file):
    """The problems of a run with these overrides."""

    def problems(*overrides: str) -> list[str]:
        config = verl_config(
            "+paft=cycle",
            f"paft.pool={pool_file}",
            f"data.train_files={parquet}",
            f"data.val_files={parquet}",
            *overrides,
        )
        return list(startup.problems(config))

    return problems


def test_a_run_that_can_work_has_none(found):
    assert not found()


@pytest.mark.parametrize(
    "overrides, message",
    [
        (["+paft.polcy=cycle"], "paft.polcy: unknown key; did you mean 'policy'"),
        (["paft.policy=cycles"], "paft.policy: 'cycles'; did you mean 'cycle'"),
        (["paft.pool=nothing.yaml"], "there is no pool 'nothing.yaml'"),
        (["paft.grid.items=0"], "paft.grid.items: 0; give a finite number of 1 or more"),
        (["paft.policy=fixed", "paft.template=held-1"], "paft.template: 'held-1' is no train template"),
        (["paft.policy=adaptive"], "paft.policy=adaptive: weights follow rewards, which only the closed loop sees"),
        (["paft.fields={qestion: problem}"], "paft.fields.qestion: pool"),
        (["paft.fields={question: problem}"], "rows have no extra_info.problem, only"),
        (["data.train_max_samples=5"], "data.train_max_samples: without data.seed each start takes other rows"),
        (["reward.sandbox_fusion.url=http://x"], "reward.sandbox_fusion.url: verl hands it to its own scorers alone"),
        (["reward.reward_model.enable=true"], "reward.reward_model.enable=true: +paft scores by rule"),
        (["data.custom_cls.name=Other"], "data.custom_cls: another data set renders the prompts"),
        (["+data.val_max_samples=5"], "data.val_max_samples: the grid chooses its rows by key"),
    ],
)
def test_a_mistake_is_named_with_its_mend(found, overrides, message):
    overrides = [o.removeprefix("+") if "val_max_samples" in o else o for o in overrides]
    problems = found(*overrides)
    assert problems and all(message in problem for problem in problems)


def test_the_closed_loop_may_adapt_if_it_sees_every_group(found):
    adaptive = ["paft.policy=adaptive", "trainer.v1.trainer_mode=redit_sync"]
    assert not found(*adaptive)
    [problem] = found(*adaptive, "algorithm.filter_groups.enable=true")
    assert "a template that always fails would not be seen to" in problem


def test_a_scorer_that_is_not_installed_is_named(found, monkeypatch):
    monkeypatch.setattr(startup, "find_spec", lambda name: None)
    [problem] = found("paft.pool=geometry3k")
    assert "needs mathruler; pip install 'verl-redit[geometry3k]'" in problem


def test_a_grid_needs_held_out_templates(found, write_pool):
    pool = write_pool(entry("a", "{{ question }} ####"), name="other.yaml")
    assert "no held-out template" in found(f"paft.pool={pool}")[0]
    assert not found(f"paft.pool={pool}", "paft.validation=stock")


def test_a_cycle_has_no_weights(found, write_pool):
    pool = write_pool(
        entry("a", "{{ question }} ####", weight=2.0), entry("b", "So {{ question }} ####"), name="w.yaml"
    )
    [problem] = found(f"paft.pool={pool}", "paft.validation=stock")
    assert "paft.policy=cycle: does not read weights" in problem


def test_strata_need_tiers(found, write_pool):
    pool = write_pool(entry("a", "{{ question }} ####"), entry("b", "So {{ question }} ####"), name="s.yaml")
    [problem] = found(f"paft.pool={pool}", "paft.validation=stock", "paft.policy=stratified")
    assert "have one tier" in problem


def test_a_row_without_the_question_is_numbered(found, tmp_path):
    answer = {"ground_truth": "2"}
    rows = [
        {"extra_info": {"question": None if number == 70_001 else "x"}, "reward_model": answer}
        for number in range(70_010)
    ]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "holes.parquet")
    [problem] = found(f"data.train_files={tmp_path}/holes.parquet")
    assert "data.train_files" in problem and "row 70001 has no extra_info.question; fill it in" in problem


@pytest.mark.parametrize(
    "change, message",
    [
        ({"extra_info": {"question": "why", "tier": "hard"}}, "would replace the rows' own extra_info.tier; rename it"),
        ({"reward_model": None}, "rows have no reward_model.ground_truth; give the answer as text"),
        ({"reward_model": {"ground_truth": ["1"]}}, "reward_model.ground_truth is list<.*; give the answer as text"),
        ({"reward_model": {"ground_truth": None, "style": "rule"}}, "row 1 has no reward_model.ground_truth; fill it"),
    ],
)
def test_rows_that_cannot_be_labelled_or_scored_are_named(found, tmp_path, change, message):
    row = {"extra_info": {"question": "why"}, "reward_model": {"ground_truth": "2"}}
    rows = [row if "row 1" in message else row | change, row | change]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "wrong.parquet")
    [problem] = found(f"data.train_files={tmp_path}/wrong.parquet")
    assert problem.startswith("data.train_files") and re.search(message, problem)
    own = "reward.custom_reward_function.path=my.py"
    assert bool(found(f"data.train_files={tmp_path}/wrong.parquet", own)) == ("tier" in message)


def test_labels_are_looked_for_where_rows_keep_their_own_prompts_too(found, tmp_path):
    rows = [{"extra_info": {"question": "why", "tier": "hard"}, "reward_model": {"ground_truth": None}}]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "wrong.parquet")
    [problem] = found(f"data.val_files={tmp_path}/wrong.parquet", "paft.validation=stock")
    assert problem.startswith("data.val_files") and "extra_info.tier" in problem


def test_answers_of_a_pool_of_letters_are_letters(found, tmp_path):
    rows = [
        {"extra_info": {"question": "why", "options": ["a", "b"]}, "reward_model": {"ground_truth": answer}}
        for answer in ("A", " b", "(B)")
    ]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "wrong.parquet")
    files = [f"data.train_files={tmp_path}/wrong.parquet", f"data.val_files={tmp_path}/wrong.parquet"]
    problems = found("paft.pool=choice", *files)
    assert len(problems) == 2 and all("ground_truth of row 2 is not the letter of an option" in p for p in problems)
    assert not found("paft.pool=gsm8k", *files)


def test_answers_are_held_against_the_templates_that_rows_are_shown(found, write_pool):
    letters = entry("b", "{{ question }} Answer: <letter>", split="held_out", tier="contract", contract="letter")
    pool = write_pool(entry("a", "{{ question }} ####"), letters, name="other.yaml")
    assert not found(f"paft.pool={pool}", "paft.validation=stock")
    problems = found(f"paft.pool={pool}")
    assert problems and all(problem.startswith("data.val_files") for problem in problems)


def test_the_preflight_asks_it(verl_config, parquet, tmp_path):
    config = verl_config(
        "+paft=cycle", "paft.pool=nothing", f"data.train_files={parquet}", f"data.val_files={parquet}",
        f"actor_rollout_ref.model.path={tmp_path}", f"trainer.default_local_dir={tmp_path}/run", "+host=cpu",
    )  # fmt: skip
    with pytest.raises(ConfigError, match="there is no pool 'nothing'"):
        check(config)


@pytest.mark.parametrize("workers", [0, 2])
def test_a_pool_that_was_edited_is_refused_before_anything_starts(verl_config, parquet, pool_file, tmp_path, workers):
    """Stopped in a stock trainer, whose loader is all that knows of the pool."""
    config = verl_config(
        "+paft=cycle", f"paft.pool={pool_file}", f"data.train_files={parquet}", f"data.val_files={parquet}",
        f"actor_rollout_ref.model.path={tmp_path}", f"trainer.default_local_dir={tmp_path / 'checkpoints'}",
        "+host=cpu", "algorithm.adv_estimator=grpo",
    )  # fmt: skip
    sampler = pair_sampler(load(pool_file), PaftConfig(), 23, True, 1, 0)
    loader = StatefulDataLoader(Pairs(), batch_size=4, num_workers=workers, collate_fn=list, sampler=sampler)
    next(iter(loader))
    checkpoint = tmp_path / "checkpoints" / "global_step_1"
    checkpoint.mkdir(parents=True)
    torch.save(loader.state_dict(), checkpoint / "data.pt")
    assert not list(startup.resume_problems(config, checkpoint))
    Path(pool_file).write_text(Path(pool_file).read_text().replace("Solve", "Crack"))
    [problem] = startup.resume_problems(config, checkpoint)
    assert problem.startswith(f"paft.pool={pool_file}: {checkpoint} was written with the pool's content")
    (checkpoint.parent / "latest_checkpointed_iteration.txt").write_text("1")
    with pytest.raises(ConfigError, match="was written with the pool's content"):
        check(config)
