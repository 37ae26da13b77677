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

"""The report of verl's own tests, printed with pytest's summary."""

from collections import Counter
from pathlib import Path

import pytest

_LINES = pytest.StashKey[list[str]]()


@pytest.fixture(scope="session")
def conformance_report(pytestconfig):
    """Takes the shipped files, each test's outcome with the suite, and without it for those that did not pass."""

    def keep(files: list[Path], suite: dict[str, str], stock: dict[str, str]) -> None:
        counts = ", ".join(f"{count} {outcome}" for outcome, count in sorted(Counter(suite.values()).items()))
        lines = [f"{len(files)} files of verl's own CPU tests, with the suite: {counts}"]
        lines += [f"  {test}: {suite[test]} with, {outcome} without" for test, outcome in sorted(stock.items())]
        pytestconfig.stash[_LINES] = lines

    return keep


def pytest_terminal_summary(terminalreporter, config):
    """Print what the test has kept."""
    if lines := config.stash.get(_LINES, None):
        terminalreporter.section("conformance")
        for line in lines:
            terminalreporter.line(line)
