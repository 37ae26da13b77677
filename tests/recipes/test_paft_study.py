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

"""The studies' figures on made-up dumps, by hand."""

import importlib
import json
from pathlib import Path

import pytest

from recipes.paft_study import seeds
from verl_redit.paft.pool_file import load


def test_a_smaller_pool_is_in_the_next_larger_one_and_seeds_differ(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(Path(seeds.__file__).parent))
    supervised = importlib.import_module("recipes.paft_study.supervised")
    whole = load("gsm8k")

    def ids(arm: str, seed: int, split: str = "train") -> set[str]:
        file = supervised.shown(tmp_path, whole, supervised.ARMS[arm], seed)
        return {template.id for template in load(file).of_split(split)}

    one, three, twelve = (ids(f"pool-{count}", 0) for count in (1, 3, 12))
    assert (len(one), len(three), len(twelve)) == (1, 3, 12) and one < three < twelve < ids("cycle", 0)
    assert ids("pool-12", 1) != twelve
    assert ids("pool-1", 0, "held_out") == {template.id for template in whole.of_split("held_out")}


def dump(file, accuracies: dict[tuple[str, str], list[float]]):
    entries = [
        {"tier": tier, "template_id": template, "acc": acc}
        for (tier, template), accs in accuracies.items()
        for acc in accs
    ]
    file.write_text("".join(json.dumps(entry) + "\n" for entry in entries))
    return file


def test_means_intervals_and_paired_differences_are_those_computed_by_hand(tmp_path):
    runs = {
        "fixed": [{("a", "a1"): [0, 1], ("a", "a2"): [0, 0], ("b", "b1"): [1, 1]}] * 2,
        "cycle": [
            {("a", "a1"): [1, 1], ("a", "a2"): [0, 1], ("b", "b1"): [1, 1]},
            {("a", "a1"): [1, 1], ("a", "a2"): [1, 1], ("b", "b1"): [1, 1]},
        ],
    }
    dumps = {
        arm: [dump(tmp_path / f"{arm}-{seed}.jsonl", run) for seed, run in enumerate(of_arm)]
        for arm, of_arm in runs.items()
    }
    found = seeds.summary(dumps, ["fixed"])
    assert list(found) == ["all", "a", "b"]
    assert found["a"]["fixed"]["mean"] == [0.25, 0.25, 0.25] and found["a"]["fixed"]["min"] == [0.0, 0.0, 0.0]
    mean, low, high = found["a"]["cycle"]["mean"]  # 0.75 and 1.0
    assert mean == 0.875 and high - mean == pytest.approx(12.7062 * 0.125, abs=1e-4) == mean - low
    assert found["a"]["cycle"]["over fixed"][0] == 0.625
    assert found["a"]["cycle"]["std"][0] == pytest.approx((0.5**0.5 / 2 + 0) / 2, abs=1e-4)
    assert found["all"]["fixed"]["mean"][0] == 0.5
    assert found["b"]["cycle"] == {"mean": [1.0, 1.0, 1.0], "over fixed": [0.0, 0.0, 0.0]}
