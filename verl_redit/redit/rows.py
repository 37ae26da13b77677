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

"""From verl's columns of a row to the key of its draw; the reward manager and the closed loop read them alike."""

from collections.abc import Callable, Mapping
from numbers import Integral
from typing import Any

from verl_redit.redit.noise import Key, Keys, prompt_digest

# what a key is made of; extra_info.index is used if the row has one
COLUMNS = ("data_source", "raw_prompt", "global_steps", "session_id")


class RowError(ValueError):
    """A row that lacks what its key is made of; the message says what and how to mend it."""


def key_of(seed: int, columns: Mapping[str, Any]) -> Key:
    """The key of one sample.

    Args:
        seed: ``redit.seed``.
        columns: verl's columns of the row: `COLUMNS`, and ``extra_info`` with an ``index`` (integer or text). Without
            such an index the row is known by a digest of its prompt.

    Raises:
        RowError: a column is missing.
    """
    if missing := [name for name in COLUMNS if columns.get(name) is None]:
        raise RowError(
            f"verl passed no {', '.join(missing)}, without which draws would repeat; use the V1 trainers "
            "(trainer.use_v1=true) or the fully-async trainer"
        )
    index = _index(columns.get("extra_info"))
    return Key(
        seed=seed,
        data_source=str(columns["data_source"]),
        row=prompt_digest(columns["raw_prompt"]) if index is None else index,
        step=int(columns["global_steps"]),
        session=int(columns["session_id"]),
    )


def keys_of(seed: int, read: Callable[..., dict[str, list]]) -> Keys:
    """`key_of` for each sample of a batch; ``read`` gives columns by name (`Rollouts.columns`)."""
    columns = read("data_source", "global_steps", "session_id", "extra_info")
    rows: list[int | str | None] = [_index(extra_info) for extra_info in columns["extra_info"]]
    if None in rows:
        prompts = read("raw_prompt")["raw_prompt"]
        rows = [prompt_digest(prompt) if row is None else row for row, prompt in zip(rows, prompts, strict=True)]
    sources = [str(source) for source in columns["data_source"]]
    return Keys(seed, sources, rows, columns["global_steps"], columns["session_id"])  # type: ignore[arg-type]


def _index(extra_info: Any) -> int | str | None:
    index = extra_info.get("index") if isinstance(extra_info, dict) else None
    if isinstance(index, int | str):
        return index
    return int(index) if isinstance(index, Integral) else None


def place_of(columns: Mapping[str, Any]) -> str:
    """Where a row is, for a message."""
    index = _index(columns.get("extra_info"))
    return (
        f"data_source={str(columns.get('data_source'))!r}, extra_info.index={index}, "
        f"step={columns.get('global_steps')}, session={columns.get('session_id')}"
        + (f", prompt {str(columns.get('raw_prompt'))[:200]!r}" if index is None else "")
    )
