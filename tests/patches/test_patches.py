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

"""Every patch applies to the released verl, and its new tests fail without it and pass with it."""

import os
import re
import shutil
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest
import verl

pytestmark = pytest.mark.e2e
FOLDER = Path(__file__).parents[2] / "patches"
PATCHES = sorted(FOLDER.glob("*.patch"))


@pytest.fixture(scope="module")
def released(tmp_path_factory) -> Path:
    """A copy of the installed verl, without what other packages put beside it."""
    assert version("verl") == "0.9.1"
    folder = tmp_path_factory.mktemp("verl")
    shutil.copytree(Path(verl.__file__).parent, folder / "verl", ignore=shutil.ignore_patterns("__pycache__"))
    return folder


def apply(patch: Path, folder: Path, *options: str) -> None:
    done = subprocess.run(["git", "apply", *options, str(patch)], cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def run(tests: list[str], folder: Path) -> subprocess.CompletedProcess:
    """pytest on the copy, with no plugin of verl's loaded."""
    environment = {**os.environ, "PYTHONPATH": str(folder), "VERL_USE_EXTERNAL_PLUGINS": "none"}
    return subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *tests],
        cwd=folder, env=environment, capture_output=True, text=True,
    )  # fmt: skip


@pytest.mark.parametrize("patch", PATCHES, ids=lambda patch: patch.stem)
def test_new_tests_fail_without_the_patch_and_pass_with_it(patch, released, tmp_path):
    shutil.copytree(released, tmp_path / "copy", dirs_exist_ok=True)
    tests = re.findall(r"^\+\+\+ b/(tests/\S+)", patch.read_text(), re.MULTILINE)
    assert tests
    apply(patch, tmp_path / "copy", "--include=tests/*")
    assert run(tests, tmp_path / "copy").returncode != 0
    apply(patch, tmp_path / "copy", "--exclude=tests/*")
    with_it = run(tests, tmp_path / "copy")
    assert with_it.returncode == 0, with_it.stdout[-3000:]


@pytest.mark.parametrize("patch", PATCHES, ids=lambda patch: patch.stem)
def test_every_patch_is_explained_and_listed(patch):
    subject = re.search(r"^Subject: \[PATCH\] (.*?)\n\S*\n", patch.read_text(), re.MULTILINE | re.DOTALL)
    text = patch.with_suffix(".md").read_text()
    assert text.splitlines()[0] == f"# {' '.join(subject.group(1).split())}"
    assert f"({patch.stem}.md)" in (FOLDER / "README.md").read_text()
