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

"""What the demo's page says of each plugin, from files like those of its runs."""

import base64
import json

import numpy as np

from verl_redit.demo import plugins
from verl_redit.flexora.config import FlexoraConfig
from verl_redit.flexora.record import Record
from verl_redit.flexora.selection import conclude
from verl_redit.paft.pool_file import parse

POOL = """
fields: [question]
contract: hash4
templates:
  - {id: seen, split: train, user: "{{ question }} ####"}
  - {id: seen-too, split: train, user: "#### {{ question }}"}
  - {id: near, split: held_out, tier: paraphrase, user: "Go: {{ question }} ####"}
  - {id: far, split: held_out, tier: system, system: "Use ####.", user: "{{ question }}"}
"""
SETTINGS = FlexoraConfig(search_steps=8, k=1)


def validation(folder, step: int, **marks: list[float]) -> None:
    (folder / "validation").mkdir(parents=True, exist_ok=True)
    rows = [{"template_id": template, "acc": mark} for template, of_template in marks.items() for mark in of_template]
    (folder / "validation" / f"{step}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def searched(folder) -> None:
    """A search in which the second of two layers, with three quarters of the parameters, agrees more."""
    record = Record(vars(SETTINGS), {f"model.layers.{layer}": [f"model.layers.{layer}.mlp"] for layer in (0, 1)},
                    [100, 300], {"path": "tiny", "type": "qwen2", "lora_rank": 4, "exclude_modules": None})  # fmt: skip
    for step in range(8):
        record.add(str(step), {"agreement": np.array([0.1, 0.8])})
    (folder / "checkpoints" / "flexora").mkdir(parents=True)
    conclude(record, SETTINGS).write(folder / "checkpoints" / "flexora" / "selection.json")


def test_each_plugin_is_told_of(tmp_path):
    stock, suite = tmp_path / "stock", tmp_path / "suite"
    for folder, far in ((stock, [0, 0, 0, 1]), (suite, [0, 1, 1, 1])):
        validation(folder, 9, near=[0, 0], far=[0, 0])
        validation(folder, 10, near=[1, 0], far=far)
    searched(suite)
    steps = [
        {"redit/effective_std": std, "redit/tied_share": tied, "redit/tied_energy_share": energy}
        for std, tied, energy in ((0.02, 0.2, 0.4), (0.04, 0.4, 0.8))
    ]
    redit, paft, flexora = plugins.parts(stock, suite, steps, parse(POOL, ".yaml", "pool"))
    assert "deviation of 0.030" in redit.text and "In 30% of the groups" in redit.text and "60% of the" in redit.text
    assert "one of 2 for each" in paft.text and "Under the 2 prompts" in paft.text
    assert "25% to 50% of stock GRPO's answers were right, and 50% to 75% of the suite's." in paft.text
    assert paft.table[1:] == [
        ["near", "Go: {{ question }} ####", "50%", "50%"],
        ["far", "Use ####. / {{ question }}", "25%", "75%"],
    ]
    assert flexora.text.startswith("1 of 2 units chosen by align from 8 steps")
    assert "After step 8" in flexora.text and "75% of the LoRA" in flexora.text
    assert base64.b64decode(flexora.picture).startswith(b"\x89PNG")
