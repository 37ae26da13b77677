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

"""A row's chat messages with a template's turns in place of its first ones."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from verl_redit.paft.pool import MEDIA_MARKERS, RenderError, Template, render

_MARKER = re.compile("|".join(MEDIA_MARKERS))


def rendered(messages: Sequence[Mapping[str, Any]], template: Template, values: Mapping[str, Any]) -> list[dict]:
    """The row's messages with the template's user turn as the first user turn; later turns stay.

    A template with a system turn puts it first; if the row has a system turn of its own (tools, say), its text follows
    after a blank line, so that nothing is lost.

    Args:
        messages: the row's own; left as they are.
        values: field -> value (`pool.render`).

    Raises:
        RenderError: no user turn, content that is no text, or media markers that are not those of the row's own turn.
    """
    turns = [dict(message) for message in messages]
    first = next((number for number, turn in enumerate(turns) if turn["role"] == "user"), None)
    if first is None:
        raise RenderError("the row's messages have no user turn; give it one")
    own_text = turns[first]["content"]
    for field, value in values.items():
        if isinstance(value, str) and isinstance(own_text, str) and value.strip() not in own_text:
            raise RenderError(
                f"the row's first user turn does not hold the raw {field}: is it an example that comes before, or does "
                "paft.fields name another key?"
            )
    *system, user = render(template, values)
    if wrong := next((turn for turn in turns[: first + 1] if not isinstance(turn["content"], str)), None):
        raise RenderError(
            f"the content of the row's {wrong['role']} turn is {type(wrong['content']).__name__}, not text"
        )
    own, now = (sorted(_MARKER.findall(turn["content"])) for turn in (turns[first], user))
    if own != now:
        raise RenderError(
            f"the row's own prompt has the markers [{' '.join(own)}], the rendered one [{' '.join(now)}]; the raw "
            "question must hold them"
        )
    turns[first] |= user
    if system:
        own_system = [turn for turn in turns[:first] if turn["role"] == "system"]
        system[0]["content"] = "\n\n".join(turn["content"] for turn in (*system, *own_system))
        turns = [*system, *(turn for turn in turns if turn not in own_system)]
    return turns
