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

import math

import pytest
from omegaconf import OmegaConf

from verl_redit.redit.config import ReditConfig
from verl_redit.settings import parse


def parsed(**settings):
    return parse(ReditConfig, OmegaConf.create(settings), "redit")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"std": -0.1}, r"redit\.std: -0.1 is not a standard deviation"),
        ({"std": math.nan}, r"redit\.std: nan is not a standard deviation"),
        ({"std": math.inf}, r"redit\.std: inf is not a standard deviation"),
        ({"std": "little"}, r"redit\.std: Value 'little' of type 'str' could not be converted to Float"),
        ({"reward_range": 0}, r"redit\.reward_range: 0.0; give a finite number above 0"),
        ({"distribution": "gausian"}, r"redit\.distribution: 'gausian'; did you mean 'gaussian'\?"),
        ({"distribution": "cauchy"}, r"redit\.distribution: 'cauchy'; valid: gaussian, uniform"),
        ({"stdd": 0.1}, r"redit\.stdd: unknown key; did you mean 'std'\? valid: accuracy_band, apply_to"),
        ({"components": {"format": -1.0}}, r"redit\.components\.format: -1.0; give a finite number above 0"),
        ({"components": {"format": 1.0}, "reward_range": 2.0}, r"redit\.reward_range: the components have ranges"),
        ({"strategy": "zvp"}, r"redit\.strategy: 'zvp'; valid: accuracy_band, advantage_noise"),
        ({"apply_to": "tide"}, r"redit\.apply_to: 'tide'; did you mean 'tied'\?"),
        ({"std_source": "cleen"}, r"redit\.std_source: 'cleen'; did you mean 'clean'\?"),
        ({"std_floor": 0.0}, r"redit\.std_floor: 0.0; give a finite number above 0"),
        ({"entropy_scale": -1.0}, r"redit\.entropy_scale: -1.0; give a finite number above 0"),
        ({"right_above": math.nan}, r"redit\.right_above: nan; give a finite number"),
        ({"accuracy_band": [0.5]}, r"redit\.accuracy_band: \[0.5\]; give \[lowest, highest\]"),
        ({"accuracy_band": [1.0, 1.0]}, r"redit\.accuracy_band: \[1.0, 1.0\] keeps no group"),
        ({"schedule": {"time_scale": math.nan}}, r"redit\.schedule\.time_scale: nan; give a number of steps above 0"),
        ({"gate": {"pass_rate": [0.9, 0.1]}}, r"redit\.gate\.pass_rate: \[0.9, 0.1\]; give \[lowest, highest\]"),
        ({"gate": {"passrate": [0, 1]}}, r"redit\.gate\.passrate: unknown key; did you mean 'pass_rate'\?"),
        ({"schedule": {"shape": "cosin"}}, r"redit\.schedule\.shape: 'cosin'; did you mean 'cosine'\?"),
        ({"schedule": "cosine"}, r"redit\.schedule: 'cosine' is no group of settings; set redit\.schedule\.<key>"),
        ({"inner": "redit"}, r"redit\.inner: 'redit' cannot wrap itself"),
        ({"unlabelled_rows": "training"}, r"redit\.unlabelled_rows: 'training'; did you mean 'train'\?"),
        ({"seed": 1.5}, r"redit\.seed: Value '1.5' of type 'float' could not be converted to Integer"),
    ],
)
def test_bad_settings_are_refused_by_name(settings, message):
    with pytest.raises(ValueError, match=message):
        parsed(**settings)


def test_no_settings_give_the_defaults():
    assert parse(ReditConfig, None, "redit") == ReditConfig()


def test_default_variance_is_that_of_the_published_half_width():
    """0.05 is active in the authors' MATH script; the code scales Gaussian noise by its square root of three."""
    assert ReditConfig().std == pytest.approx(0.05 / math.sqrt(3), abs=1e-4)


def test_noise_is_scaled_by_the_reward_range():
    assert parsed(std=0.1, reward_range=5).scale == pytest.approx(5)


@pytest.mark.parametrize("distribution", ["gaussian", "uniform"])
def test_the_config_groups_hold_every_setting_at_its_default(verl_config, distribution):
    config = verl_config(f"+redit={distribution}")
    assert config.reward.reward_manager.name == "redit"
    assert set(config.redit) == set(ReditConfig.__dataclass_fields__)
    assert parse(ReditConfig, config.redit, "redit") == ReditConfig(distribution=distribution)


def test_settings_can_be_overridden_on_the_command_line(verl_config):
    config = verl_config("+redit=gaussian", "redit.std=0.1")
    assert parse(ReditConfig, config.redit, "redit").std == 0.1
