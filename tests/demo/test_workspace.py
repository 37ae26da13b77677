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
import typer
from rich.console import Console

from verl_redit.demo.workspace import Sizes, keep_to, prepare

SIZES = Sizes(steps=3, prompts=4, rollouts=2, ranks=1, seed=7, warm_steps=1, problems=8)


def test_the_model_and_the_data_are_used_again_for_the_same_sizes(tmp_path, capsys):
    console = Console(width=200)
    accuracy = prepare(tmp_path, SIZES, console)
    written = (tmp_path / "train.parquet").stat().st_mtime_ns
    assert prepare(tmp_path, SIZES, console) == accuracy
    assert "using the model and the data in" in capsys.readouterr().out
    assert (tmp_path / "train.parquet").stat().st_mtime_ns == written


def test_a_folder_keeps_to_its_settings(tmp_path):
    for _ in range(2):
        keep_to(tmp_path / "study", steps=4)
    for settings, told in (({"steps": 5}, "steps 4, these have 5"), ({"steps": 4, "rows": 2}, "rows None")):
        with pytest.raises(typer.BadParameter, match=told):
            keep_to(tmp_path / "study", **settings)
    (tmp_path / "runs.txt").touch()
    with pytest.raises(typer.BadParameter, match="no settings.json of a study"):
        keep_to(tmp_path, steps=4)
