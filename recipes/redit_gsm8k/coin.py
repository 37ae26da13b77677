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

"""A control: rewards that teach nothing, as fair coins; accuracy beside them stays that of verl's GSM8K scorer."""

import hashlib
from typing import Any

from verl.utils.reward_score import default_compute_score


def compute_score(data_source: str, solution_str: str, ground_truth: str, **other: Any) -> dict[str, float]:
    """``score`` 0 or 1 by a hash of the response, the same in any worker, and verl's own score as ``acc``."""
    coin = hashlib.blake2b(solution_str.encode()).digest()[0] % 2
    return {"score": float(coin), "acc": default_compute_score(data_source, solution_str, ground_truth)}
