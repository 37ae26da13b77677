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

import ast
import importlib.metadata
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest
import verl
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

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
# of verl's pull request template
MODULES = (
    "fsdp megatron veomni sglang vllm rollout trainer ci training_utils recipe hardware deployment ray worker "
    "single_controller misc perf model algo env tool ckpt doc data cfg reward fully_async one_step_off"
).split()
TYPES = ["feat", "fix", "refactor", "chore", "test"]
each_patch = pytest.mark.parametrize("patch", PATCHES, ids=lambda patch: patch.stem)


@pytest.fixture(scope="module")
def released(tmp_path_factory) -> Path:
    """A copy of the installed verl, without what other packages put beside it."""
    assert importlib.metadata.version("verl") == "0.9.1"
    folder = tmp_path_factory.mktemp("verl")
    shutil.copytree(Path(verl.__file__).parent, folder / "verl", ignore=shutil.ignore_patterns("__pycache__"))
    return folder


def apply(patch: Path, folder: Path, *options: str) -> None:
    done = subprocess.run(["git", "apply", *options, str(patch)], cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def new_tests(*patches: Path) -> list[str]:
    return [file for patch in patches for file in touched(patch) if file.startswith("tests/")]


def touched(patch: Path) -> list[str]:
    return re.findall(r"^\+\+\+ b/(\S+)", patch.read_text(), re.MULTILINE)


def subject(patch: Path) -> str:
    return " ".join(re.search(r"^Subject: \[PATCH\] (.*?)\n\n", patch.read_text(), re.MULTILINE | re.DOTALL)[1].split())


def unsuccessful(folder: Path, files: list[str]) -> dict[str, int]:
    """Run test files in a copy; file -> how many of its tests do not pass."""
    environment = {**os.environ, "PYTHONPATH": str(folder), "VERL_USE_EXTERNAL_PLUGINS": "none"}
    environment.pop("VERL_PLATFORM", None)  # the suite's platform is a plugin's
    # without 0007 verl does not find vLLM's build for CPUs, which has another name
    vllm = folder / f"vllm-{importlib.metadata.version('vllm')}.dist-info"
    vllm.mkdir(exist_ok=True)
    (vllm / "METADATA").write_text(f"Metadata-Version: 2.1\nName: vllm\nVersion: {vllm.stem.rpartition('-')[2]}\n")
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
    modules = {file.removesuffix(".py").replace("/", "."): file for file in files}
    for case in ElementTree.parse(report).iter("testcase"):
        # a module that cannot be imported has its dotted name in `name`
        module = case.get("classname") or case.get("name", "")
        # a test in a class has the class in its dotted name
        file = modules[module] if module in modules else modules[module.rpartition(".")[0]]
        ran.add(file)
        counts[file] += case.find("failure") is not None or case.find("error") is not None
    assert ran == set(files)
    return counts


@pytest.fixture
def copy(released, tmp_path) -> Path:
    """A copy to patch."""
    return Path(shutil.copytree(released, tmp_path / "copy"))


@pytest.fixture
def patched(copy) -> Path:
    """A copy with all patches, in order."""
    for patch in PATCHES:
        apply(patch, copy)
    return copy


@each_patch
def test_it_brings_tests_in_verls_manner(patch):
    names = [Path(file).name for file in new_tests(patch)]
    assert names and all(re.fullmatch(r"test_\w+_on_cpu\.py", name) for name in names)


def test_new_tests_fail_without_their_patches(copy):
    for patch in PATCHES:
        apply(patch, copy, "--include=tests/*")
    assert all(unsuccessful(copy, new_tests(*PATCHES)).values())


@each_patch
def test_new_tests_pass_with_the_patch_alone(patch, copy):
    apply(patch, copy)
    assert not any(unsuccessful(copy, new_tests(patch)).values())


def test_new_tests_pass_with_all_patches(patched):
    assert not any(unsuccessful(patched, new_tests(*PATCHES)).values())


def test_verls_own_tests_around_what_is_touched_pass_with_all_patches(patched):
    """Those in the folders that mirror touched ones, or that hold a patch's own tests."""
    folders = {Path("tests", *Path(file).parts[1:-1]) for patch in PATCHES for file in touched(patch)}
    shipped = [
        str(file)
        for file in importlib.metadata.files("verl") or []
        if any(folder.is_relative_to(file.parent) for folder in folders) and file.parts[1:-1]
        and (file.name.endswith("_on_cpu.py") or file.name == "test_platform_abstraction.py")
        # each starts clusters of 100 processors, which takes minutes
        and "ray.init" not in file.read_text()
    ]  # fmt: skip
    for file in shipped:
        (patched / file).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(Path(verl.__file__).parents[1] / file, patched / file)
    assert len(shipped) > 10 and not any(unsuccessful(patched, shipped).values())


def test_verls_reference_configs_are_in_sync_with_all_patches(patched):
    """As verl's own check does, by composing each trainer's config."""
    folder = patched / "verl/trainer/config"
    references = sorted(folder.glob("_generated_ppo_*.yaml"))
    assert len(references) == 4
    with initialize_config_dir(str(folder), version_base=None):
        for reference in references:
            engine = re.fullmatch(r"_generated_ppo_(\w*?)_?trainer", reference.stem).group(1)
            composed = compose("ppo_trainer", [f"model_engine={engine}"] if engine else [])
            # verl's script leaves the line of the engine out
            expected = {"model_engine": composed.model_engine, **OmegaConf.load(reference)}
            assert OmegaConf.to_container(composed) == OmegaConf.to_container(OmegaConf.create(expected))


@each_patch
def test_new_files_carry_verls_licence_header(patch):
    added = re.findall(r"^--- /dev/null\n\+\+\+ b/(\S+)\n@@.*\n((?:\+.*\n)+)", patch.read_text(), re.MULTILINE)
    assert {file for file, _ in added} >= set(new_tests(patch))
    for _, text in added:
        assert text.startswith("+# Copyright 2026 Bytedance Ltd. and/or its affiliates\n")
        assert '+# Licensed under the Apache License, Version 2.0 (the "License");\n' in text


@each_patch
def test_what_it_adds_is_documented_and_names_no_device(patch, copy):
    """As verl's checks of docstrings and of the device API ask."""
    apply(patch, copy)
    for file in (file for file in touched(patch) if file.startswith("verl/") and file.endswith(".py")):
        [change] = re.findall(rf"^\+\+\+ b/{file}\n(.*?)(?=^diff |\Z)", patch.read_text(), re.MULTILINE | re.DOTALL)
        added = "".join(re.findall(r"^\+(.*\n)", change, re.MULTILINE))
        assert not re.search(r"""["'](cuda|nccl)["']|\.cuda\(""", added)
        public = set(re.findall(r"^(?:def|class) ([a-zA-Z]\w*)", added, re.MULTILINE))
        found = {getattr(node, "name", None): node for node in ast.parse((copy / file).read_text()).body}
        assert all(ast.get_docstring(found[name]) for name in public)


@each_patch
def test_its_subject_is_in_verls_form(patch):
    modules, kind = re.fullmatch(r"\[([a-z_, ]+)\] (\w+): \S.*", subject(patch)).groups()
    assert set(modules.split(", ")) <= set(MODULES) and kind in TYPES


@pytest.mark.parametrize("plugins", ["none", "auto"])
def test_a_patched_verl_does_what_the_backports_do_without_them(patched, plugins):
    """`auto` loads the suite, whose backports then leave verl alone."""
    environment = {**os.environ, "PYTHONPATH": str(patched), "VERL_USE_EXTERNAL_PLUGINS": plugins}

    def python(*arguments: str) -> str:
        command = [sys.executable, *arguments]
        done = subprocess.run(command, cwd=FOLDER.parent, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    code = (
        "import verl.trainer.ppo.utils as utils; from verl.plugin.platform.platform_manager import PlatformRegistry; "
        "from verl.utils.dataset.rl_dataset import get_dataset_class; print(utils.__file__, "
        "*(type(f).__name__ for f in (utils.create_rl_dataset, utils.create_rl_sampler, get_dataset_class)), "
        "PlatformRegistry.get('cpu').__module__)"
    )
    functions = ["function"] * 3
    expected = [str(patched / "verl/trainer/ppo/utils.py"), *functions, "verl.plugin.platform.platform_cpu"]
    assert python("-c", code).split()[-5:] == expected
    python(
        "-m", "pytest", "-p", "no:cacheprovider", "tests/backports/test_dataset_sampler.py",
        "tests/backports/test_weight_transfer.py",
        "tests/cpu/test_adapters.py::test_the_process_group_is_one_gloo_group",
        "tests/cpu/test_adapters.py::test_the_fsdp2_engine_is_verls_own",
    )  # fmt: skip


def test_doctor_names_what_a_backport_does_not_know(copy):
    utils = copy / "verl/trainer/ppo/utils.py"
    before, after = utils.read_text().split("def create_rl_sampler")
    utils.write_text(before + "def create_rl_sampler" + after.replace("dataset", "rows"))
    code = "from verl_redit.doctor import plugin_checks as c; print(*(x for x in c('here')), sep='\\n')"
    environment = {**os.environ, "PYTHONPATH": str(copy)}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
    [row] = [line for line in done.stdout.splitlines() if "name='hook on verl.trainer.ppo.utils'" in line]
    assert "ok=False" in row and "create_rl_sampler is not the function" in row and "it has no dataset." in row
    assert "pip install 'verl>=0.9.1,<0.10'" in row


@each_patch
def test_what_it_touches_is_clean_under_verls_rules(patch, copy):
    apply(patch, copy)
    files = [file for file in touched(patch) if file.endswith(".py")]
    (copy / "ruff.toml").write_text(VERLS_RULES)
    for check in (["check"], ["format", "--check"]):
        done = subprocess.run([sys.executable, "-m", "ruff", *check, *files], cwd=copy, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout


@each_patch
def test_it_is_explained_and_listed(patch):
    assert patch.with_suffix(".md").read_text().splitlines()[0] == f"# {subject(patch)}"
    assert f"({patch.stem}.md)" in (FOLDER / "README.md").read_text()


@each_patch
def test_its_text_has_the_sections_of_verls_template(patch):
    sections = re.findall(r"^### (.*)$", patch.with_suffix(".md").read_text(), re.MULTILINE)
    template = [
        "What does this PR do?", "Checklist Before Starting", "Test", "API and Usage Example", "Design & Code Changes",
        "Checklist Before Submitting",
    ]  # fmt: skip
    assert [section for section in sections if section in template] == template
