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

"""The report of both runs of verl's own tests, printed with pytest's summary."""

from collections import Counter
from pathlib import Path

import pytest

_LINES = pytest.StashKey[list[str]]()


@pytest.fixture(scope="session")
def conformance_report(pytestconfig):
    """Takes the shipped files and the outcomes of both runs."""

    def keep(files: list[Path], stock: dict[str, str], suite: dict[str, str]) -> None:
        lines = [f"{len(files)} files of verl's own CPU tests"]
        for title, outcomes in (("without the suite", stock), ("with the suite", suite)):
            counts = ", ".join(f"{count} {outcome}" for outcome, count in sorted(Counter(outcomes.values()).items()))
            lines.append(f"  {title}: {counts}")
        for test in sorted(stock.keys() | suite.keys()):
            if not stock.get(test) == suite.get(test) == "passed":
                lines.append(f"  {test}: {stock.get(test)} without, {suite.get(test)} with")
        pytestconfig.stash[_LINES] = lines

    return keep


def pytest_terminal_summary(terminalreporter, config):
    """Print what the test has kept."""
    if lines := config.stash.get(_LINES, None):
        terminalreporter.section("conformance")
        for line in lines:
            terminalreporter.line(line)
