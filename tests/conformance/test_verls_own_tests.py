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

"""The CPU tests that ship inside the installed verl pass with the suite loaded exactly where they pass without it."""

import importlib.metadata
import os
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(1500)]
RUN = (
    "import sys, pytest, verl; loaded = 'verl_redit.plugin' in sys.modules; "
    "sys.exit(pytest.main(sys.argv[2:]) if str(loaded) == sys.argv[1] else f'suite loaded: {loaded}')"
)


@pytest.fixture(scope="module")
def shipped() -> list[Path]:
    """verl's own test files for machines without a GPU, by verl's naming rule."""
    files = importlib.metadata.distribution("verl").files or []
    return sorted(
        Path(file.locate()) for file in files if file.parts[0] == "tests" and file.name.endswith("_on_cpu.py")
    )


@pytest.fixture(scope="module")
def outcomes(shipped, tmp_path_factory) -> dict[bool, dict[str, str]]:
    """With and without the suite: test -> passed, failure, error or skipped."""
    folder = tmp_path_factory.mktemp("verl-tests")
    root = shipped[0].parents[len(shipped[0].parts) - shipped[0].parts.index("tests") - 1]
    runs = {}
    for loaded in (True, False):
        environment = {name: value for name, value in os.environ.items() if name != "VERL_PLATFORM"}
        environment["VERL_USE_EXTERNAL_PLUGINS"] = "auto" if loaded else "none"
        # these tests say ray.init(num_cpus=100), for which Ray would start as many processes ahead
        environment["RAY_prestart_worker_first_driver"] = "0"
        arguments = [
            "-q", "-p", "no:cacheprovider", "-c", os.devnull, "-o", "asyncio_default_fixture_loop_scope=function",
            f"--rootdir={root}", f"--junitxml={folder / f'{loaded}.xml'}",
        ]  # fmt: skip
        # side by side
        runs[loaded] = subprocess.Popen(
            [sys.executable, "-c", RUN, str(loaded), *arguments, *map(str, shipped)],
            cwd=root, env=environment, stdout=(folder / f"{loaded}.txt").open("w"), stderr=subprocess.STDOUT,
        )  # fmt: skip
    codes = {loaded: run.wait() for loaded, run in runs.items()}
    for loaded, code in codes.items():
        assert code in (0, 1), (folder / f"{loaded}.txt").read_text()[-8000:]
    return {loaded: _read(folder / f"{loaded}.xml") for loaded in runs}


def _read(report: Path) -> dict[str, str]:
    outcome = {}
    for case in ElementTree.parse(report).iter("testcase"):
        kinds = [child.tag for child in case if child.tag in ("failure", "error", "skipped")]
        outcome[f"{case.get('classname')}::{case.get('name')}"] = kinds[0] if kinds else "passed"
    return outcome


def test_verl_ships_the_tests(shipped):
    assert len(shipped) >= 30


def test_they_pass_with_the_suite_exactly_where_they_pass_without(outcomes, shipped, conformance_report):
    stock, suite = outcomes[False], outcomes[True]
    conformance_report(shipped, stock, suite)
    assert sum(outcome == "passed" for outcome in stock.values()) > 300
    assert suite == stock
