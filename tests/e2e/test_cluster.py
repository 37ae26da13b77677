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

"""Two Ray nodes on one machine: the plugin is there on both, because the package is, without any setting."""

import json
import subprocess
import sys
import tempfile

import pytest
import ray
from ray.cluster_utils import Cluster
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from tests.e2e.conftest import RECIPES, SMALL, metrics_of, run_script
from verl_redit.doctor import _all_plugin_checks

pytestmark = pytest.mark.e2e


@pytest.fixture
def two_nodes(monkeypatch):
    """A cluster of two nodes, one "GPU" on each."""
    # Ray leaves a cluster's address in its folder for any run that starts later, and tests run beside this one
    with tempfile.TemporaryDirectory(prefix="ray-") as folder:
        monkeypatch.setenv("RAY_TMPDIR", folder)
        node = {"num_cpus": 8, "num_gpus": 1}
        cluster = Cluster(initialize_head=True, head_node_args={**node, "include_dashboard": False})
        cluster.add_node(**node)
        yield cluster
        cluster.shutdown()


def test_both_nodes_load_the_plugin_and_register_every_name(two_nodes):
    ray.init(address=two_nodes.address, log_to_driver=False)
    nodes = [node["NodeID"] for node in ray.nodes()]
    assert len(nodes) == 2
    look = ray.remote(_all_plugin_checks)
    try:
        for node in nodes:
            strategy = NodeAffinitySchedulingStrategy(node_id=node, soft=False)
            checks = ray.get(look.options(scheduling_strategy=strategy).remote(node))
            names = {"entry point", "loaded by verl", "reward manager", "config groups"}
            assert {check.name for check in checks} >= names
            assert [check for check in checks if not check.ok] == []
    finally:
        ray.shutdown()


def test_a_recipes_script_trains_on_both(two_nodes, workspace, tmp_path, monkeypatch):
    monkeypatch.setenv("RAY_ADDRESS", two_nodes.address)
    for split in ("train", "test"):
        rows = [
            {"problem": f"What is ${a} + 1$?", "solution": f"\\boxed{{{a + 1}}}", "level": "Level 1", "type": "Algebra"}
            for a in range(32)
        ]
        (tmp_path / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    command = [sys.executable, RECIPES / "prepare.py", "math", "--source", tmp_path, "--out", tmp_path]
    subprocess.run(command, check=True)
    # Ray takes no sizes for a cluster that is there
    cluster = ["trainer.nnodes=2", "ray_kwargs.ray_init.num_cpus=null", "ray_kwargs.ray_init.num_gpus=null"]
    settings = {"MODEL_PATH": str(workspace / "model"), "DATA_DIR": str(tmp_path)}
    script, saved = "redit_math/run_qwen2_5_fsdp.sh", "trainer.save_freq=2"
    folder = run_script(script, tmp_path / "run", [*SMALL, *cluster, saved], **settings)
    metrics = metrics_of(folder)
    assert list(metrics) == [1, 2]
    assert 0 < metrics[2]["critic/score/max"] < 5 * 0.0289  # no answer is right, what is left is noise
    assert len(list((folder / "gaussian/seed0/global_step_2/actor").glob("model_world_size_2_rank_*.pt"))) == 2
