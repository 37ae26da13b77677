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

"""The commands a newcomer types, in their own processes."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.e2e
COMMAND = Path(sys.executable).with_name("verl-redit")


def doctor(**environment: str) -> tuple[int, dict]:
    result = subprocess.run(
        [COMMAND, "doctor", "--json"], env={**os.environ, **environment}, capture_output=True, text=True, check=False
    )
    return result.returncode, json.loads(result.stdout)


def test_doctor_is_content_here_and_in_a_ray_worker():
    code, report = doctor()
    assert [check for check in report["checks"] if not check["ok"]] == []
    assert code == 0 and report["ok"]
    for where in ("driver", "ray worker"):
        names = {check["name"] for check in report["checks"] if check["where"] == where}
        assert {"entry point", "loaded by verl", "reward manager", "config groups", "device", "FSDP2 on cpu"} <= names


def test_doctor_tells_when_verl_was_told_to_leave_the_plugin_out():
    code, report = doctor(VERL_USE_EXTERNAL_PLUGINS="none")
    wrong = [check for check in report["checks"] if not check["ok"]]
    assert code == 1 and not report["ok"]
    assert {(check["where"], check["name"]) for check in wrong} == {
        ("driver", "loaded by verl"),
        ("ray worker", "loaded by verl"),
    }
    assert all("unset VERL_USE_EXTERNAL_PLUGINS" in check["mend"] for check in wrong)


def test_demo_runs_both_arms_and_writes_the_report(tmp_path):
    sizes = ["--steps=1", "--prompts=4", "--rollouts=2", "--ranks=1", "--warm-steps=20", "--problems=64"]
    result = subprocess.run(
        [COMMAND, "demo", f"--out={tmp_path}", *sizes], capture_output=True, text=True, check=False,
        env={**os.environ, "COLUMNS": "300"},
    )  # fmt: skip
    assert result.returncode == 0, result.stdout + result.stderr
    (report,) = tmp_path.glob("runs/*/report.html")
    assert f"Look at {report}" in result.stdout
    page = report.read_text()
    assert page.count("data:image/png;base64,") == 2
    assert all(token in page for token in ("+redit=gaussian", "+paft=cycle", "+flexora=one_run"))
    assert page.count("<td>unseen-words</td>") + page.count("<th>unseen-words</th>") == 1
    assert "2 of 4 units chosen by align from 1 steps" in page
    runs = json.loads(report.with_name("summary.json").read_text())["runs"]
    assert [len(points["raw reward"]) for points in runs.values()] == [1, 1]
