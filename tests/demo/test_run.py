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

import pytest
from typer.testing import CliRunner

from verl_redit.cli import app
from verl_redit.demo import run
from verl_redit.demo.process import DemoError
from verl_redit.demo.workspace import Sizes
from verl_redit.paft.checks import defects
from verl_redit.paft.pool_file import load

SIZES = Sizes(steps=3, prompts=4, rollouts=2, ranks=1, seed=7, warm_steps=1, problems=8)


def test_the_arms_differ_by_their_overrides_alone(tmp_path):
    arms = run.arms(SIZES, 0.05)
    stock, suite = (run.command(tmp_path, tmp_path / "run", SIZES, arm) for arm in arms)
    assert stock[1:3] == ["-m", "verl.trainer.main_ppo"]
    shared = [
        [word for word in command if word not in arm.overrides and not word.startswith("trainer.experiment_name=")]
        for command, arm in zip((stock, suite), arms, strict=True)
    ]
    assert shared[0] == shared[1]


def test_the_demos_arms_are_validated_alike(tmp_path, verl_config):
    stock, suite = (
        verl_config(*(word for word in run.command(tmp_path, tmp_path / "run", SIZES, arm)[3:] if "hydra." not in word))
        for arm in run.arms(SIZES, 0.05)
    )
    for name in ("pool", "grid", "validation", "seed"):
        assert stock.paft[name] == suite.paft[name]
    assert (stock.paft.policy, suite.paft.policy) == ("fixed", "cycle")
    assert "redit" not in stock and "flexora" not in stock and stock.trainer.v1.trainer_mode == "sync"
    assert suite.redit.std == 0.05 and suite.flexora.search_steps == 1


def test_the_demos_prompts_are_a_sound_pool():
    assert not list(defects(load(run.POOL)))


@pytest.mark.parametrize("arm", run.arms(SIZES, 0.05), ids=lambda arm: arm.folder)
def test_verl_takes_the_command(tmp_path, verl_config, arm):
    command = run.command(tmp_path, tmp_path / "run", SIZES, arm)
    overrides = [word for word in command[3:] if not word.startswith("hydra.")]
    config = verl_config(*overrides)
    assert config.data.train_batch_size == SIZES.prompts
    assert config.actor_rollout_ref.rollout.n == SIZES.rollouts
    assert config.ray_kwargs.ray_init.num_gpus == SIZES.ranks


def test_a_second_demo_in_the_same_folder_is_refused(tmp_path):
    with (
        run._only_demo_in(tmp_path),
        pytest.raises(DemoError, match="another demo is running in .* give this one --out"),
    ):
        with run._only_demo_in(tmp_path):
            pass


@pytest.mark.parametrize(
    ("options", "told"),
    [(["--problems", "8"], "fewer than the 16 prompts"), (["--prompts", "15", "--rollouts", "3"], "--ranks 2")],
)
def test_sizes_that_verl_would_stumble_over_are_refused(tmp_path, options, told):
    refused = CliRunner().invoke(app, ["demo", "--out", str(tmp_path / "out"), *options])
    assert refused.exit_code == 2 and told in refused.stderr
    assert not (tmp_path / "out").exists()
