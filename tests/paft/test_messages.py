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

"""Templates in a row's chat messages."""

import pytest

from verl_redit.paft.messages import rendered
from verl_redit.paft.pool import RenderError, Template

USER = Template("t", "Task: {{ question }}", "train", "own")
SYSTEM = Template("s", "Task: {{ question }}", "train", "own", system="Be brief.")


def turns(*contents: str, roles: str = "user assistant user") -> list[dict]:
    return [{"role": role, "content": content} for role, content in zip(roles.split(), contents, strict=False)]


def test_only_the_first_user_turn_is_rendered():
    messages = turns("1 + 1?", "2", "2 + 2?")
    assert rendered(messages, USER, {"question": "1 + 1?"}) == turns("Task: 1 + 1?", "2", "2 + 2?")
    assert messages == turns("1 + 1?", "2", "2 + 2?")


def test_a_system_turn_comes_first():
    assert rendered(turns("x"), SYSTEM, {"question": "x"}) == turns("Be brief.", "Task: x", roles="system user")


def test_the_rows_own_system_turn_is_kept():
    messages = turns("Tools: a, b", "x", roles="system user")
    assert rendered(messages, USER, {"question": "x"}) == turns("Tools: a, b", "Task: x", roles="system user")
    joined = turns("Be brief.\n\nTools: a, b", "Task: x", roles="system user")
    assert rendered(messages, SYSTEM, {"question": "x"}) == joined


def test_other_keys_of_a_turn_stay():
    assert rendered([{"role": "user", "content": "x", "name": "Ann"}], USER, {"question": "x"})[0]["name"] == "Ann"


def test_a_first_turn_that_is_an_example_is_refused():
    with pytest.raises(RenderError, match="first user turn does not hold the raw question"):
        rendered(turns("1 + 1?", "2", "5 + 5?"), USER, {"question": "5 + 5?"})


@pytest.mark.parametrize("question", ["Find x", "Find"])
def test_lost_media_markers_are_refused(question):
    with pytest.raises(RenderError, match=r"the row's own prompt has the markers \[<image>\], the rendered one \["):
        rendered(turns("<image>Find x"), USER, {"question": question})


def test_media_markers_of_the_question_stay():
    messages = rendered(turns("<image>Find x with <video>"), USER, {"question": "<image>Find x with <video>"})
    assert messages[0]["content"] == "Task: <image>Find x with <video>"


def test_a_row_without_a_user_turn_is_refused():
    with pytest.raises(RenderError, match="no user turn"):
        rendered(turns("x", roles="system"), USER, {"question": "x"})


def test_content_that_is_no_text_is_refused():
    with pytest.raises(RenderError, match="user turn is list, not text"):
        rendered([{"role": "user", "content": [{"type": "text"}]}], USER, {"question": "x"})
