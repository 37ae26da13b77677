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

"""Every patch applies to the released verl, alone and after the others, and its new tests need it."""

import os
import re
import shutil
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path
from xml.etree import ElementTree

import pytest
import verl

pytestmark = pytest.mark.e2e
FOLDER = Path(__file__).parents[2] / "patches"
PATCHES = sorted(FOLDER.glob("*.patch"))
# of the pyproject.toml in verl's source archive
VERLS_RULES = """
line-length = 120
[lint]
isort = {known-first-party = ["verl"]}
select = ["E", "F", "UP", "B", "I", "G"]
# the last one is younger than verl 0.9.1
ignore = ["F405", "F403", "E731", "B007", "UP032", "G004", "UP045", "UP035", "UP042"]
"""
each_patch = pytest.mark.parametrize("patch", PATCHES, ids=lambda patch: patch.stem)


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


def new_tests(patch: Path) -> list[str]:
    return re.findall(r"^\+\+\+ b/(tests/\S+)", patch.read_text(), re.MULTILINE)


def unsuccessful(folder: Path, patches: list[Path]) -> dict[str, int]:
    """Run the new tests of patches in a copy; test file -> how many of its tests do not pass."""
    files = [file for patch in patches for file in new_tests(patch)]
    environment = {**os.environ, "PYTHONPATH": str(folder), "VERL_USE_EXTERNAL_PLUGINS": "none"}
    environment.pop("VERL_PLATFORM", None)  # the suite's platform is a plugin's
    report = folder / "report.xml"
    subprocess.run(
        [
            sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "--continue-on-collection-errors",
            f"--junitxml={report}", *files,
        ],
        cwd=folder, env=environment, capture_output=True, text=True,
    )  # fmt: skip
    counts = dict.fromkeys(files, 0)
    ran = set()
    for case in ElementTree.parse(report).iter("testcase"):
        # a module that cannot be imported has its dotted name in `name`
        file = (case.get("classname") or case.get("name", "")).replace(".", "/") + ".py"
        ran.add(file)
        counts[file] += case.find("failure") is not None or case.find("error") is not None
    assert ran == set(files)
    return counts


@pytest.fixture
def copy(released, tmp_path) -> Path:
    """A copy to patch."""
    return Path(shutil.copytree(released, tmp_path / "copy"))


@each_patch
def test_it_brings_tests_in_verls_manner(patch):
    names = [Path(file).name for file in new_tests(patch)]
    assert names and all(re.fullmatch(r"test_\w+_on_cpu\.py", name) for name in names)


def test_new_tests_fail_without_their_patches(copy):
    for patch in PATCHES:
        apply(patch, copy, "--include=tests/*")
    assert all(unsuccessful(copy, PATCHES).values())


@each_patch
def test_new_tests_pass_with_the_patch_alone(patch, copy):
    apply(patch, copy)
    assert not any(unsuccessful(copy, [patch]).values())


def test_new_tests_pass_with_all_patches(copy):
    for patch in PATCHES:
        apply(patch, copy)
    assert not any(unsuccessful(copy, PATCHES).values())


@pytest.mark.parametrize("plugins", ["none", "auto"])
def test_a_patched_verl_does_what_the_backport_does_without_it(copy, plugins):
    """`auto` loads the suite, whose backport then leaves verl alone."""
    for patch in PATCHES:
        apply(patch, copy)
    environment = {**os.environ, "PYTHONPATH": str(copy), "VERL_USE_EXTERNAL_PLUGINS": plugins}

    def python(*arguments: str) -> str:
        command = [sys.executable, *arguments]
        done = subprocess.run(command, cwd=FOLDER.parent, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    kind = python("-c", "import verl.trainer.ppo.utils as u; print(u.__file__, type(u.create_rl_sampler).__name__)")
    assert kind.split()[-2:] == [str(copy / "verl/trainer/ppo/utils.py"), "function"]
    python("-m", "pytest", "-p", "no:cacheprovider", "tests/backports/test_dataset_sampler.py")


@each_patch
def test_what_it_touches_is_clean_under_verls_rules(patch, copy):
    apply(patch, copy)
    files = re.findall(r"^\+\+\+ b/(\S+\.py)", patch.read_text(), re.MULTILINE)
    (copy / "ruff.toml").write_text(VERLS_RULES)
    for check in (["check"], ["format", "--check"]):
        done = subprocess.run([sys.executable, "-m", "ruff", *check, *files], cwd=copy, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout


@each_patch
def test_it_is_explained_and_listed(patch):
    subject = re.search(r"^Subject: \[PATCH\] (.*?)\n\n", patch.read_text(), re.MULTILINE | re.DOTALL)
    text = patch.with_suffix(".md").read_text()
    assert subject and text.splitlines()[0] == f"# {' '.join(subject.group(1).split())}"
    assert f"({patch.stem}.md)" in (FOLDER / "README.md").read_text()
