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

"""Time of the keyed draw against the alternatives, and of the closed loop's work on a batch. No verl is started.

    python recipes/benchmarks/dithering.py --out dithering.png

Each figure is the fastest of several rounds. Every way to draw gets its keys as columns of numbers; making those from
verl's rows is in the second part. The plot shows that the draw's time grows linearly from 1,000 to 1,000,000 samples.
"""

import hashlib
import json
import timeit
from collections.abc import Callable
from functools import partial
from pathlib import Path
from statistics import NormalDist
from typing import Annotated

import matplotlib
import numpy as np
import torch
import typer

from verl_redit.grpo import grpo_advantages
from verl_redit.redit.config import ReditConfig
from verl_redit.redit.metrics import measure
from verl_redit.redit.noise import Key, unit_noises_of_blocks
from verl_redit.redit.rows import keys_of
from verl_redit.redit.strategies import Dither
from verl_redit.rollouts import Rollouts, on_last_token

matplotlib.use("Agg")
from matplotlib import pyplot  # noqa: E402

COMPARED = 100_000
SIZES = [1_000, 3_000, 10_000, 30_000, 100_000, 300_000, 1_000_000]
GROUPS, SESSIONS, TOKENS = 256, 8, 1024


def fastest(work: Callable[[], object], rounds: int = 7, most: int = 10) -> float:
    """Seconds of one call."""
    number = max(1, min(most, int(0.2 / max(timeit.timeit(work, number=1), 1e-9))))
    return min(timeit.repeat(work, number=number, repeat=rounds)) / number


def columns(samples: int) -> tuple[np.ndarray, ...]:
    """The keys of a batch of eight sessions a row, as `Key.block` has them."""
    row, session = np.divmod(np.arange(samples, dtype=np.uint64), np.uint64(8))
    key = np.full(samples, Key(0, "openai/gsm8k", 0, 0, 0).block[0], dtype=np.uint64)
    return key, row, np.full(samples, 3, dtype=np.uint64), session


def hashed(samples: int) -> list[float]:
    """One BLAKE2 hash a key."""
    normal = NormalDist()
    digests = (
        hashlib.blake2b(b"0 openai/gsm8k %d 3 %d" % divmod(n, 8), digest_size=8).digest() for n in range(samples)
    )
    return [normal.inv_cdf(((int.from_bytes(digest, "big") >> 11) + 0.5) * 2.0**-53) for digest in digests]


def one_generator_a_key(samples: int) -> list[float]:
    """numpy's Philox, made anew for each key."""
    return [np.random.Generator(np.random.Philox(key=n)).standard_normal() for n in range(samples)]


def draws() -> dict[str, float]:
    """Microseconds a sample of each way to draw."""
    stream = np.random.default_rng(0)
    blocks = columns(COMPARED)
    few = COMPARED // 20
    return {
        "keyed, gaussian": fastest(lambda: unit_noises_of_blocks("gaussian", *blocks)) / COMPARED * 1e6,
        "keyed, uniform": fastest(lambda: unit_noises_of_blocks("uniform", *blocks)) / COMPARED * 1e6,
        "a stream (not keyed)": fastest(lambda: stream.standard_normal(COMPARED)) / COMPARED * 1e6,
        "one hash a key": fastest(lambda: hashed(few), rounds=3) / few * 1e6,
        "one generator a key": fastest(lambda: one_generator_a_key(few), rounds=3) / few * 1e6,
    }


def batch_milliseconds() -> dict[str, float]:
    """Milliseconds of each part of the closed loop's work on a batch, without verl's own GRPO and its store."""
    rng = np.random.default_rng(0)
    sessions = GROUPS * SESSIONS
    group = np.repeat(np.arange(GROUPS), SESSIONS)
    rewards = (rng.random(sessions) < np.repeat(rng.random(GROUPS), SESSIONS)).astype(float)
    lengths = rng.integers(1, TOKENS + 1, sessions)
    scores = torch.nested.as_nested_tensor([torch.zeros(int(length)) for length in lengths], layout=torch.jagged)
    mask = torch.nested.as_nested_tensor(
        [torch.ones(int(length), dtype=torch.int64) for length in lengths], layout=torch.jagged
    )
    settings = ReditConfig(apply_to="tied")
    stored: dict[str, list] = {
        "data_source": ["openai/gsm8k"] * sessions,
        "global_steps": [3] * sessions,
        "session_id": [n % SESSIONS for n in range(sessions)],
        "extra_info": [{"split": "train", "index": int(row)} for row in group],
    }

    def columns_of(*names: str) -> dict[str, list]:
        return {name: stored[name] for name in names}

    def rollouts() -> Rollouts:
        return Rollouts(rewards, group, columns_of, partial(grpo_advantages, group=group))

    def noise() -> np.ndarray | None:
        return Dither(settings).reward_change(rollouts(), partial(keys_of, 0, columns_of))

    drawn = noise()
    assert drawn is not None
    change = torch.from_numpy(drawn)
    dense = torch.ones(sessions, TOKENS, dtype=torch.int64)
    advantages = torch.from_numpy(grpo_advantages(rewards + drawn, group)).float()[:, None] * dense
    parts = {
        "keys and noise": fastest(noise) * 1e3,
        "noise onto tokens": fastest(lambda: on_last_token(scores, mask, change)) * 1e3,
        "metrics": fastest(lambda: measure(settings, rollouts(), drawn, advantages, dense)) * 1e3,
    }
    return {**parts, "transform (without metrics)": parts["keys and noise"] + parts["noise onto tokens"]}


def plot(out: Path) -> list[float]:
    """Draw time against samples; returns microseconds a sample at each size."""
    seconds = []
    for samples in SIZES:
        blocks = columns(samples)
        seconds.append(fastest(lambda blocks=blocks: unit_noises_of_blocks("gaussian", *blocks)))  # type: ignore[misc]
    figure, axes = pyplot.subplots(figsize=(5, 3.2), layout="constrained")
    axes.loglog(SIZES, [1e3 * second for second in seconds], "o-", label="keyed draw")
    axes.loglog(SIZES, [1e3 * seconds[-1] * size / SIZES[-1] for size in SIZES], ":", color="grey", label="linear")
    axes.set(xlabel="samples", ylabel="milliseconds")
    axes.legend()
    figure.savefig(out, dpi=120)
    return [second / size * 1e6 for second, size in zip(seconds, SIZES, strict=True)]


def main(out: Annotated[Path, typer.Option(help="Where the plot goes.")] = Path("dithering.png")) -> None:
    """Measure and print one JSON object."""
    torch.set_num_threads(1)
    result = {
        f"µs a sample, {COMPARED:,} samples": draws(),
        f"ms a batch of {GROUPS * SESSIONS:,} responses of up to {TOKENS:,} tokens": batch_milliseconds(),
        "µs a sample by size": dict(zip(map("{:,}".format, SIZES), plot(out), strict=True)),
    }
    print(
        json.dumps({title: {name: round(value, 3) for name, value in part.items()} for title, part in result.items()})
    )


if __name__ == "__main__":
    typer.run(main)
