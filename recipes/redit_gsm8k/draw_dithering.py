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

"""Draws dithering.png: what noise makes of the advantages of a tied and of a mixed group, by verl's own GRPO.

python recipes/redit_gsm8k/draw_dithering.py --out dithering.png
"""

from functools import partial
from pathlib import Path
from typing import Annotated

import matplotlib
import numpy as np
import torch
import typer

from verl_redit.grpo import grpo_advantages
from verl_redit.redit.config import ReditConfig
from verl_redit.redit.noise import Keys
from verl_redit.redit.strategies import STRATEGIES
from verl_redit.rollouts import Rollouts, Tokens

matplotlib.use("Agg")
from matplotlib import pyplot  # noqa: E402

REPEATS = 400
SCALES = np.geomspace(1e-3, 1, 25)
KINDS = {"tied group: 8 wrong": [0.0] * 8, "mixed group: 3 of 8 right": [1.0] * 3 + [0.0] * 5}
DIVISORS = {
    "std_source=dithered (the paper)": ({}, True),
    "std_source=clean, std_floor=0.35": ({"std_source": "clean"}, True),
    "norm_adv_by_std_in_grpo=false": ({}, False),
}


def dithered(rewards: list[float], std: float, settings: dict, divide: bool) -> np.ndarray:
    """Advantages of `REPEATS` such groups, shape (REPEATS, 8)."""
    group, session = (numbers.ravel() for numbers in np.mgrid[:REPEATS, : len(rewards)])
    keys = Keys(0, ["picture"] * len(group), group.tolist(), [1] * len(group), session.tolist())
    estimate = partial(grpo_advantages, group=group, divide=divide)
    rollouts = Rollouts(np.tile(rewards, REPEATS), group, lambda *names: {}, estimate)
    strategy = STRATEGIES["dither"](ReditConfig(std=std, **settings))
    noise = strategy.reward_change(rollouts, lambda: keys)
    assert noise is not None
    stock = grpo_advantages(rollouts.rewards + noise, group, divide and not strategy.divides)
    advantages = torch.from_numpy(stock).float()[:, None]
    everyone = torch.arange(len(group))
    tokens = Tokens(advantages, torch.ones_like(advantages), everyone, everyone, entropy=lambda: advantages)
    return strategy.advantages(rollouts, lambda: keys, noise, tokens).numpy().reshape(REPEATS, -1)


def main(out: Annotated[Path, typer.Option(help="Where the picture goes.")] = Path("dithering.png")) -> None:
    """Draw the picture."""
    figure, axes = pyplot.subplots(2, 3, figsize=(9.6, 4.8), sharex=True, sharey=True, layout="constrained")
    for row, (kind, rewards) in enumerate(KINDS.items()):
        for column, (title, (settings, divide)) in enumerate(DIVISORS.items()):
            panel = axes[row, column]
            advantages = np.stack([dithered(rewards, std, settings, divide) for std in SCALES])
            for reward, name, color in ((1.0, "right", "tab:green"), (0.0, "wrong", "tab:red")):
                members = [number for number, value in enumerate(rewards) if value == reward]
                if members:
                    low, middle, high = np.quantile(advantages[:, :, members], [0.05, 0.5, 0.95], axis=(1, 2))
                    panel.fill_between(SCALES, low, high, color=color, alpha=0.25, label=f"{name}, 90 % of draws")
                    panel.plot(SCALES, middle, color=color)
            panel.axhline(0, color="grey", linewidth=0.5)
            panel.axvline(0.0289, color="grey", linestyle=":", label="default std")
            panel.set_xscale("log")
            if row == 0:
                panel.set_title(title, fontsize=9)
            if column == 0:
                panel.set_ylabel(f"advantage\n{kind}", fontsize=9)
            if row == 1:
                panel.set_xlabel("redit.std")
    axes[1, 0].legend(fontsize=7, loc="upper left")
    figure.savefig(out, dpi=110)


if __name__ == "__main__":
    typer.run(main)
