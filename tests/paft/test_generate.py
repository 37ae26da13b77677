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

"""Against a server of our own that speaks OpenAI's format, through the real client library."""

import json
import sys
import threading
from collections import Counter
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from verl_redit.cli.pool import app
from verl_redit.paft import checks, generate
from verl_redit.paft.pool import Pool
from verl_redit.paft.pool_file import load

EMPTY = Pool("new.yaml", ("question",), (), ())
Answer = tuple[int, bytes]


def completion(content: object) -> bytes:
    return json.dumps({"choices": [{"message": {"role": "assistant", "content": content}}]}).encode()


def reply(template: str) -> Answer:
    return 200, completion(f"Sure, here it is.\n<template>\n{template}\n</template>\nHave fun!")


def number_of(words: int) -> str:
    return " ".join(f"word{words}x{place}" for place in range(5))


class Server:
    """Answers each request with what ``answer`` gives for its number, from 0, and keeps what was asked."""

    def __init__(self):
        self.asked: list[dict] = []
        self.keys: list[str] = []
        self.answer: Callable[[int], Answer] = lambda number: reply(f"{number_of(number)}: {{question}}\nEnd with ####")
        server = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self):
                server.asked.append(json.loads(self.rfile.read(int(self.headers["content-length"]))))
                server.keys.append(self.headers["authorization"])
                status, body = server.answer(len(server.asked) - 1)
                self.send_response(status)
                self.send_header("content-type", "application/json")
                self.send_header("retry-after-ms", "1")
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_):
                pass

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.http.server_port}/v1"


@pytest.fixture
def server(monkeypatch):
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    serving = Server()
    thread = threading.Thread(target=serving.http.serve_forever)
    thread.start()
    yield serving
    serving.http.shutdown()
    thread.join()
    serving.http.server_close()


def run(server: Server, out: Path, *options: str) -> tuple[int, dict, str]:
    """`pool generate`, one model and three requests of each style unless told otherwise: exit code, JSON, errors."""
    result = CliRunner().invoke(
        app,
        ["generate", f"--out={out}", "--contract=hash4", f"--endpoint={server.url}", "--json"]
        + (list(options) or ["--model=one", "--n=3"]),
    )
    return result.exit_code, json.loads(result.stdout), result.stderr


def test_each_model_is_asked_zero_shot_and_few_shot(server, tmp_path):
    code, report, _ = run(server, tmp_path / "pool.yaml", "--model=org/one", "--model=two", "--n=2", "--task=add")
    assert code == 0 and report["ok"]
    assert Counter(asked["model"] for asked in server.asked) == {"org/one": 4, "two": 4}
    texts = [asked["messages"][0]["content"] for asked in server.asked]
    assert all(
        "asks a language model to add" in text and "{question}" in text and "after ####" in text for text in texts
    )
    assert ["by others" in text for text in texts] == [False, False, True, True] * 2
    assert len({asked["seed"] for asked in server.asked}) == 8
    assert set(server.keys) == {"Bearer none"}
    assert len({text.partition("Write it")[2].partition(".")[0] for text in texts[:2]}) == 2


def test_templates_tell_where_they_come_from(server, tmp_path):
    run(server, tmp_path / "pool.yaml", "--model=org/one", "--n=1", "--license=CC0-1.0")
    first, second = load(str(tmp_path / "pool.yaml")).templates
    assert (first.id, second.id) == ("org-one-zero-shot-0001", "org-one-few-shot-0001")
    assert first.origin == "model org/one, zero-shot, verl-redit generate"
    assert first.license == "CC0-1.0" and first.tags == (next(iter(generate.MANNERS)),)
    assert first.user == f"{number_of(0)}: {{{{ question }}}}\nEnd with ####"


def test_a_second_run_asks_the_same(server, tmp_path):
    for name in ("one.yaml", "two.yaml"):
        run(server, tmp_path / name)
    assert server.asked[:6] == server.asked[6:]


def test_every_reply_is_kept_or_listed_with_the_reason(server, tmp_path):
    example = generate.EXAMPLES.format(shown="{question}", rule="end with the answer after ####")
    answers = {
        "kept": [
            reply("A fine one: {question} ####"),
            reply(r"Second, in a box:\n{question}\n####"),
            (200, completion("<think><template>x</template></think><template>Third {question} ####</template>")),
        ],
        "reply": [
            (200, b"not json"),
            (200, b'{"choices": []}'),
            (200, b"[" * 100_000),
            (200, completion(None)),
            (200, completion("Sure: {question} ####")),
            (200, completion("<template>{question} #### cut off")),
            (200, completion("<template> </template>")),
            (200, completion(f"<template>{example.split('<template>')[1].split('</template>')[0]}</template>")),
        ],
        "field": [reply("No field. ####")],
        "contract": [reply("Only {question}")],
        "duplicate": [reply("A fine one: {question} ####"), reply("A fine  one {question} ####")],
        "leftover": [reply("[insert topic] {question} ####")],
        "characters": [reply("\ud800 {question} ####")],
        "jinja": [reply("{{{{ 9**9**9 }}}} {question} ####")],
    }  # fmt: skip
    order = [(rule, answer) for rule in answers for answer in answers[rule]]
    server.answer = lambda number: order[number][1]
    options = ["--model=one", f"--n={len(order) // 2}", "--held-out-share=0"]
    code, report, _ = run(server, tmp_path / "pool.yaml", *options)
    assert code == 0 and len(server.asked) == len(order)
    assert report["candidates"] == len(order) == report["kept"] + report["dropped"]
    assert report["kept"] == len(answers["kept"])
    expected = {f"reply {place}": rule for place, (rule, _) in enumerate(order, start=1) if rule != "kept"}
    assert {drop["row"]: drop["rule"] for drop in report["drops"]} == expected
    assert [mend["rule"] for mend in report["mends"]] == ["literal newline"]


def test_a_server_that_stumbles_is_asked_again(server, tmp_path):
    good = server.answer
    server.answer = lambda number: (500, b"busy") if number % 2 == 0 else good(number)
    code, report, _ = run(server, tmp_path / "pool.yaml", "--model=one", "--n=1")
    assert (code, report["kept"], len(server.asked)) == (0, 2, 4)


def test_a_server_that_stays_down_ends_the_run_with_what_there_is_and_the_next_run_goes_on(server, tmp_path):
    good, out = server.answer, tmp_path / "pool.yaml"
    server.answer = lambda number: good(number) if number < 4 else (500, b"down")
    code, report, errors = run(server, out)
    assert code == 1 and report["kept"] == 4 == len(load(str(out)).templates)
    assert len(server.asked) == 4 + 1 + generate.RETRIES
    assert "stopped after 4 of 6 replies" in errors and "one-few-shot-0002" in errors and "500" in errors
    server.asked, server.answer = [], lambda number: good(number + 4)
    code, report, _ = run(server, out)
    assert (code, len(server.asked), report["kept"], len(load(str(out)).templates)) == (0, 2, 2, 6)


def test_a_refusal_is_not_repeated(server, tmp_path):
    server.answer = lambda number: (401, b'{"error": {"message": "no such key"}}')
    code, report, errors = run(server, tmp_path / "pool.yaml")
    assert code == 1 and len(server.asked) == 1 and "no such key" in errors
    assert report["candidates"] == 0 and not (tmp_path / "pool.yaml").exists()


def test_the_key_comes_from_the_environment(server, tmp_path, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "secret")
    run(server, tmp_path / "pool.yaml", "--model=one", "--n=1")
    assert set(server.keys) == {"Bearer secret"}
    assert "secret" not in (tmp_path / "pool.yaml").read_text()


def test_an_endpoint_that_nobody_serves_is_told_with_the_cause(monkeypatch):
    monkeypatch.setattr(generate, "RETRIES", 0)
    asked = generate.requests(["one"], 1, "add", EMPTY, "hash4")
    with pytest.raises(generate.EndpointError, match="(?s)127.0.0.1:1.*refused"):
        list(generate.replies(asked, "http://127.0.0.1:1/v1"))


def test_without_the_library_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "openai", None)
    with pytest.raises(checks.PoolError, match=r"pip install 'verl-redit\[generate\]'"):
        next(generate.replies([], "http://127.0.0.1:1/v1"))


def test_a_ninth_is_held_out_and_which_depends_on_the_ids_alone():
    asked = generate.requests(["one", "two"], 450, "add", EMPTY, "hash4")
    replied = [
        (request, completion(f"<template>{number_of(number)} {{question}} ####</template>").decode())
        for number, request in enumerate(asked)
    ]
    whole, part = (
        generate.collect(some, EMPTY, "hash4", 1 / 9, "").pool.of_split("held_out") for some in (replied, replied[::-2])
    )
    assert len(whole) == pytest.approx(200, abs=4 * 13.4)
    assert {template.tier for template in whole} == {"paraphrase"}
    ids = {request.id for request, _ in replied[::-2]}
    assert {template.id for template in part} == {template.id for template in whole} & ids


def test_a_contract_without_a_rule_asks_for_the_answer():
    (request,) = generate.requests(["one"], 1, "add", EMPTY, "own")[:1]
    assert "tell the model to give the answer." in request.text


def test_a_model_named_twice_is_refused():
    with pytest.raises(checks.PoolError, match="two have the same name"):
        generate.requests(["one", "one"], 1, "add", EMPTY, "hash4")


@settings(deadline=None)
@given(st.lists(st.one_of(st.text(), st.text().map(lambda text: completion(text).decode())), max_size=5))
def test_any_reply_is_counted(bodies):
    asked = generate.requests(["one"], 3, "add", EMPTY, "hash4")
    sifted = generate.collect(zip(asked, bodies, strict=False), EMPTY, "hash4", 0.5, "")
    assert len(bodies) == sifted.candidates == len(sifted.pool.templates) + sifted.lost
