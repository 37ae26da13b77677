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

import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from verl_redit.redit.startup import problems

LABELLED = {"split": "train", "index": 0}


@pytest.fixture
def found(verl_config, tmp_path):
    """The problems of a run on the given training rows, with the given overrides."""

    def look(rows, *overrides, file="train.parquet"):
        path = tmp_path / file
        if path.suffix == ".parquet":
            pq.write_table(pa.Table.from_pylist(rows), path)
        else:
            path.write_text("\n".join(map(json.dumps, rows)))
        held_out = tmp_path / "test.parquet"
        pq.write_table(pa.Table.from_pylist([row({"split": "test", "index": 0})]), held_out)
        files = [f"data.train_files={path}", f"data.val_files={held_out}"]
        return list(problems(verl_config("+redit=gaussian", *files, *overrides)))

    return look


def row(extra_info, **columns):
    return {"data_source": "a", "prompt": "?", "extra_info": extra_info, **columns}


def test_labelled_rows_are_fine(found):
    assert found([row(LABELLED), row({"split": "train", "index": 1})]) == []


def test_a_file_without_extra_info_is_refused(found):
    problem = found([{"data_source": "a", "prompt": "?"}])[0]
    assert problem.startswith("data.train_files: ") and "has no column extra_info" in problem


def test_the_first_row_without_a_split_is_named(found):
    problem = found([row(LABELLED), row({"split": None, "index": 1}), row({"split": None, "index": 2})])[0]
    assert "train.parquet row 1: extra_info has no split, nor have 1 other rows" in problem
    assert "redit.unlabelled_rows=train or validation" in problem


def test_rows_whose_extra_info_has_other_fields_are_unlabelled(found):
    assert "row 0: extra_info has no split" in found([row({"note": "?"})])[0]


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("algorithm.adv_estimator=gdpo", "it uses the raw reward components"),
        ("reward.reward_manager.source=importlib", "redit is a registered manager"),
    ],
)
def test_what_would_pass_the_noise_by_is_refused(found, override, message):
    (problem,) = found([row(LABELLED)], override)
    assert message in problem


def test_an_inner_manager_of_the_users_scorer_file_is_found(found, tmp_path):
    scorer = tmp_path / "scorer.py"
    scorer.write_text(
        "from verl.experimental.reward_loop.reward_manager import NaiveRewardManager, register\n"
        "@register('of_the_user')\nclass Manager(NaiveRewardManager): pass\n"
        "def compute_score(**_): return 1.0\n"
    )
    assert found([row(LABELLED)], "redit.inner=of_the_user", f"reward.custom_reward_function.path={scorer}") == []


def test_unlabelled_rows_can_be_declared(found):
    assert found([row({"index": 1})], "redit.unlabelled_rows=train") == []


def test_training_rows_that_would_not_be_dithered_are_refused(found):
    (problem,) = found([row({"split": "train_sft", "index": 1})])
    assert "row 0: extra_info.split is 'train_sft', and no row's is 'train', so none would be dithered" in problem
    (problem,) = found([row({"index": 1})], "redit.unlabelled_rows=validation")
    assert "is not there, and redit.unlabelled_rows=validation, and no row's is 'train'" in problem
    assert found([row({"split": "train_sft"}), row(LABELLED)]) == []


def test_validation_rows_that_would_be_dithered_are_refused(found, tmp_path):
    held_out = tmp_path / "aime.parquet"
    pq.write_table(pa.Table.from_pylist([row({"split": "test"}), row({"split": "train"})]), held_out)
    (problem,) = found([row(LABELLED)], f"data.val_files={held_out}")
    assert problem.startswith("data.val_files") and "row 1: extra_info.split is 'train'" in problem
    pq.write_table(pa.Table.from_pylist([row({"index": 1})]), held_out)
    (problem,) = found([row(LABELLED)], f"data.val_files={held_out}", "redit.unlabelled_rows=train")
    assert "is not there, and redit.unlabelled_rows=train, so validation would be dithered" in problem
    never = ["trainer.val_before_train=false", "trainer.test_freq=-1"]
    assert found([row(LABELLED)], f"data.val_files={held_out}", "redit.unlabelled_rows=train", *never) == []


def test_rows_that_a_prompt_pool_renders_are_looked_at_too(found):
    (problem,) = found([row({"split": "main", "index": 1})], "+paft=cycle")
    assert "none would be dithered" in problem
    assert found([row({"split": "main", "index": 1})], "data.custom_cls.path=mine.py") == []


def test_other_formats_are_left_to_the_run(found):
    assert found([{"data_source": "a"}], file="train.jsonl") == []


def test_an_inner_manager_that_does_not_exist_is_refused_with_the_nearest_name(found):
    problem = found([row(LABELLED)], "redit.inner=naiv")[0]
    assert problem.startswith("redit.inner: 'naiv' is not a registered reward manager; did you mean 'naive'?")


def test_a_reward_model_that_verl_asks_directly_is_refused(found):
    (problem,) = found([row(LABELLED)], "reward.reward_model.enable=true")
    assert problem.startswith("reward.reward_model.enable=true: ") and "nothing would be dithered" in problem
    scorer = "reward.custom_reward_function.path=scorer.py"
    assert found([row(LABELLED)], "reward.reward_model.enable=true", scorer) == []


def test_filtering_groups_on_the_dithered_reward_is_refused(found):
    filtering = "algorithm.filter_groups.enable=true"
    (problem,) = found([row(LABELLED)], filtering)
    assert problem.startswith("algorithm.filter_groups.metric=reward: ") and "metric=acc" in problem
    assert found([row(LABELLED)], filtering, "algorithm.filter_groups.metric=acc") == []
    assert found([row(LABELLED)], filtering, "redit.std=0") == []


CLOSED = ["trainer.v1.trainer_mode=redit_sync", "algorithm.adv_estimator=grpo"]


@pytest.mark.parametrize(
    "override",
    [
        "redit.strategy=directed", "redit.apply_to=tied", "redit.std_source=clean", "redit.std_floor=0.1",
        "redit.right_above=0", "redit.gate.pass_rate=[0,0.5]", "redit.accuracy_band=[0.2,0.8]", "redit.entropy_scale=1",
    ],
)  # fmt: skip
def test_what_needs_whole_groups_is_refused_in_the_open_loop(found, override):
    (problem,) = found([row(LABELLED)], override)
    key = override.split("=")[0].removesuffix(".pass_rate")
    assert problem.startswith(
        f"{key}: a reward manager sees no groups; set trainer.v1.trainer_mode to one of redit_sync"
    )
    assert "a reward manager sees no groups" not in str(found([row(LABELLED)], override, *CLOSED))


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["algorithm.adv_estimator=rloo"], "algorithm.adv_estimator=rloo: the closed loop is for groups"),
        (
            ["redit.std_source=clean", "algorithm.norm_adv_by_std_in_grpo=false"],
            "redit.std_source=clean: algorithm.norm_adv_by_std_in_grpo=false says that nothing is divided",
        ),
        (["redit.strategy=accuracy_band"], "redit.strategy=accuracy_band: verl's filter drops and replaces the groups"),
        (
            ["redit.strategy=accuracy_band", "algorithm.filter_groups.enable=true"],
            "redit.strategy=accuracy_band: verl's filter drops and replaces the groups",
        ),
        (
            [
                "redit.strategy=accuracy_band", "algorithm.filter_groups.enable=true",
                "algorithm.filter_groups.metric=acc", "+trainer.v1.sampler.custom_sampler.path=mine.py",
            ],
            "redit.strategy=accuracy_band: a custom sampler does its own filtering",
        ),
        (["algorithm.use_kl_in_reward=true"], "algorithm.use_kl_in_reward=true: in the closed loop the KL"),
        (["redit.entropy_scale=1"], "redit.entropy_scale: redit.strategy=dither does not read it"),
        (["redit.strategy=directed", "redit.apply_to=tied"], "redit.apply_to: redit.strategy=directed does not"),
        (["redit.strategy=directed", "redit.std=0.2"], "redit.std: redit.strategy=directed does not read it"),
        (["redit.strategy=directed", "redit.schedule.shape=linear"], "redit.schedule: redit.strategy=directed"),
        (["redit.unlabelled_rows=train"], "redit.unlabelled_rows: the closed loop dithers what the trainer trains on"),
        (["redit.std_floor=0.1"], "redit.std_floor: redit.std_source=dithered does not read it; set std_source=clean"),
        (
            ["redit.strategy=directed", "algorithm.rollout_correction.bypass_mode=true"],
            "redit.strategy=directed: it needs entropies",
        ),
    ],
)  # fmt: skip
def test_what_the_closed_loop_cannot_do_is_refused(found, overrides, message):
    (problem,) = found([row(LABELLED)], *CLOSED, *overrides)
    assert problem.startswith(message)


def test_the_closed_loop_needs_its_own_node(verl_config):
    config = verl_config(*CLOSED, "reward.reward_manager.name=redit", "data.train_files=null", "data.val_files=null")
    assert "in the closed loop the trainer dithers; add +redit=gaussian too" in list(problems(config))[0]


def test_components_of_a_manager_that_may_time_out_are_refused(found):
    (problem,) = found([row(LABELLED)], "redit.inner=rate_limited", "redit.components={format:1.0}")
    assert problem.startswith("redit.components: rate_limited returns no components when it times out")


def test_the_closed_loop_filters_on_raw_rewards_and_needs_no_split(found):
    assert found([row({"index": 1})], *CLOSED, "algorithm.filter_groups.enable=true") == []
    assert found([row({"index": 1})], *CLOSED, "reward.reward_model.enable=true") == []


def test_bad_settings_are_told(found):
    assert found([row(LABELLED)], "redit.std=-1") == [
        "redit.std: -1.0 is not a standard deviation; give a finite number, 0 or larger"
    ]


def test_rows_with_the_same_key_are_reported(found, caplog):
    with caplog.at_level("WARNING"):  # importing vLLM's server sets the root logger to ERROR
        assert found([row(LABELLED), row(LABELLED), row({"split": "train", "index": 1})]) == []
    assert "1 pairs of data_source and extra_info.index occur more than once (first: 'a', 0 in " in caplog.text
