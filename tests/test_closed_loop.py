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
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from verl_redit.closed_loop import (
    Plugin,
    StateMismatch,
    configured_plugins,
    is_closed_loop,
    load_state,
    resumed_checkpoint,
    save_state,
)
from verl_redit.redit.closed_loop import ReditPlugin


class Counter(Plugin):
    name = "counter"
    count = 0

    def state_dict(self):
        return {"count": self.count}

    def load_state_dict(self, state):
        self.count = state["count"]


def redit(**settings):
    return ReditPlugin(OmegaConf.create({"redit": settings}))


@pytest.mark.parametrize(
    ("mode", "closed"),
    [("sync", False), ("redit_sync", True), ("redit_separate_async", True), ("colocate_async", False)],
)
def test_the_closed_loop_is_told_by_the_trainer_mode(verl_config, mode, closed):
    assert is_closed_loop(verl_config(f"trainer.v1.trainer_mode={mode}")) == closed


def test_a_config_without_a_trainer_is_no_closed_loop():
    assert not is_closed_loop(OmegaConf.create({"redit": {}}))


def test_a_plugin_is_on_if_its_node_is_there(verl_config):
    assert configured_plugins(verl_config()) == []
    (plugin,) = configured_plugins(verl_config("+redit=uniform", "redit.std=0.2"))
    assert plugin.settings.distribution == "uniform" and plugin.settings.std == 0.2


def test_state_travels_with_the_checkpoint(tmp_path):
    before, after = Counter(), Counter()
    before.count = 7
    save_state([before, redit()], tmp_path / "global_step_1")
    load_state([after, redit()], tmp_path / "global_step_1")
    assert after.count == 7


@pytest.mark.parametrize(
    ("saved", "loaded"), [([Counter()], []), ([], [Counter()]), ([Counter()], [redit()]), (None, [Counter()])]
)
def test_a_checkpoint_of_other_plugins_is_refused(tmp_path, saved, loaded):
    if saved is not None:
        save_state(saved, tmp_path)
    with pytest.raises(StateMismatch, match=r"with the closed-loop plugins \[.*\], this run has \[.*\]; configure"):
        load_state(loaded, tmp_path)


def test_the_mend_of_a_stock_checkpoint_works(tmp_path):
    with pytest.raises(StateMismatch) as error:
        load_state([redit()], tmp_path)
    written = str(error.value).split(" or write ")[1].split(" to ")[0]
    (tmp_path / "verl_redit.json").write_text(written)
    load_state([redit()], tmp_path)


def test_the_mend_of_a_checkpoint_of_other_plugins_keeps_what_others_learned(tmp_path):
    save_state([Counter()], tmp_path)
    with pytest.raises(StateMismatch, match=r'in .*verl_redit.json add "redit": {}, to go on'):
        load_state([Counter(), redit()], tmp_path)
    with pytest.raises(StateMismatch, match=r'in .*verl_redit.json add "redit": {} and take "counter" out, to go on'):
        load_state([redit()], tmp_path)


def test_a_stock_checkpoint_and_no_plugins_go_together(tmp_path):
    load_state([], tmp_path)


def test_changed_settings_are_refused_by_name_and_file(tmp_path):
    save_state([redit(std=0.1, schedule={"shape": "linear"})], tmp_path)
    load_state([redit(std=0.1, schedule={"shape": "linear"})], tmp_path)
    with pytest.raises(StateMismatch) as error:
        load_state([redit(std=0.2, schedule={"shape": "linear"})], tmp_path)
    assert str(error.value).startswith(
        f"{tmp_path / 'verl_redit.json'}: the checkpoint was written with redit.std=0.1, this run has 0.2"
    )


def test_an_empty_state_is_leave_to_change_settings(tmp_path):
    (tmp_path / "verl_redit.json").write_text('{"redit": {}}')
    load_state([redit(std=0.7)], tmp_path)


def test_a_setting_that_the_writing_release_did_not_have_is_no_mismatch(tmp_path):
    save_state([redit()], tmp_path)
    state = json.loads((tmp_path / "verl_redit.json").read_text())
    del state["redit"]["entropy_scale"]
    (tmp_path / "verl_redit.json").write_text(json.dumps(state))
    load_state([redit()], tmp_path)


def test_settings_of_another_release_are_refused(tmp_path):
    save_state([redit()], tmp_path)
    state = json.loads((tmp_path / "verl_redit.json").read_text())
    state["redit"]["strength"] = 1
    (tmp_path / "verl_redit.json").write_text(json.dumps(state))
    with pytest.raises(StateMismatch, match=r"redit\.strength=1, this run has None"):
        load_state([redit()], tmp_path)


def test_the_checkpoint_is_the_one_that_verl_resumes_from(verl_config, tmp_path):
    (tmp_path / "global_step_2").mkdir()
    here = f"trainer.default_local_dir={tmp_path}"
    assert resumed_checkpoint(verl_config(here)) is None
    (tmp_path / "latest_checkpointed_iteration.txt").write_text("2")
    assert resumed_checkpoint(verl_config(here)) == tmp_path / "global_step_2"
    assert resumed_checkpoint(verl_config(here, "trainer.resume_mode=disable")) is None
    named = ["trainer.resume_mode=resume_path", "trainer.resume_from_path=/runs/global_step_5"]
    assert resumed_checkpoint(verl_config(here, *named)) == Path("/runs/global_step_5")
    assert resumed_checkpoint(verl_config(here, named[0])) is None  # which verl refuses
