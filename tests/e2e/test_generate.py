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

"""Templates asked of a real vLLM server on the CPU. The demo's model knows sums and no English, so its replies are of
no use, and each must be counted as such."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from contextlib import suppress

import pytest
from typer.testing import CliRunner

from verl_redit.cli.pool import app

pytestmark = pytest.mark.e2e
START_SECONDS = 300


@pytest.fixture(scope="module")
def endpoint(workspace, tmp_path_factory):
    """A vLLM server with the demo's model, called tiny."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [
        sys.executable, "-m", "vllm.entrypoints.openai.api_server", f"--model={workspace / 'model'}",
        "--served-model-name=tiny", "--host=127.0.0.1", f"--port={port}", "--dtype=float32", "--enforce-eager",
        "--max-model-len=1024", "--max-num-seqs=2", f"--kv-cache-memory-bytes={64 * 2**20}",
        "--no-enable-prefix-caching", '--override-generation-config={"max_new_tokens": 64}',
    ]  # fmt: skip
    log = tmp_path_factory.mktemp("server") / "log.txt"
    with log.open("w") as output:
        server = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT, start_new_session=True)
    try:
        until = time.monotonic() + START_SECONDS
        while not answers(f"http://127.0.0.1:{port}/health"):
            assert server.poll() is None and time.monotonic() < until, log.read_text()[-4000:]
            time.sleep(1)
        yield f"http://127.0.0.1:{port}/v1"
    finally:
        for end in (signal.SIGTERM, signal.SIGKILL):  # its workers too
            with suppress(ProcessLookupError):
                os.killpg(server.pid, end)
            with suppress(subprocess.TimeoutExpired):
                server.wait(timeout=30)


def answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=5) as reply:
            return reply.status == 200
    except (urllib.error.URLError, OSError):
        return False


def generate(endpoint: str, out) -> dict:
    result = CliRunner().invoke(
        app,
        ["generate", f"--out={out}", f"--endpoint={endpoint}", "--model=tiny", "--n=2", "--contract=hash4", "--json"],
    )
    assert "stopped" not in result.stderr
    return json.loads(result.stdout)


def test_every_reply_of_a_real_server_is_counted_and_a_second_run_gets_the_same(endpoint, tmp_path):
    report = generate(endpoint, tmp_path / "pool.yaml")
    assert report["candidates"] == 4 == report["kept"] + report["dropped"]
    assert {drop["id"] for drop in report["drops"]} <= {
        f"tiny-{style}-{number:04}" for style in ("zero-shot", "few-shot") for number in (1, 2)
    }
    assert all(drop["message"] for drop in report["drops"])
    assert "no chat completion" not in str(report["drops"])
    assert generate(endpoint, tmp_path / "again.yaml") == report


def test_a_model_that_the_server_does_not_have_is_told(endpoint, tmp_path):
    arguments = [f"--out={tmp_path}/pool.yaml", f"--endpoint={endpoint}", "--model=other", "--contract=hash4"]
    result = CliRunner().invoke(app, ["generate", *arguments])
    assert result.exit_code == 1
    assert "stopped after 0 of 40 replies" in result.stderr and "`other` does not exist" in result.stderr
