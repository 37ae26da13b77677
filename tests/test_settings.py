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

from dataclasses import dataclass

import pytest
from omegaconf import OmegaConf

from verl_redit.settings import nearest, parse


@dataclass(frozen=True)
class Example:
    rate: float = 1.0
    name: str = "a"


def test_values_are_converted_to_the_declared_types():
    assert parse(Example, OmegaConf.create({"rate": 2}), "node") == Example(rate=2.0)


def test_an_unknown_key_is_refused_with_the_nearest_and_all_valid_ones():
    with pytest.raises(ValueError, match=r"node\.rtae: unknown key; did you mean 'rate'\? valid: name, rate"):
        parse(Example, OmegaConf.create({"rtae": 2}), "node")


def test_a_far_off_name_gets_the_list_alone():
    assert nearest("zzz", ["naive", "dapo"]) == "valid: dapo, naive"
