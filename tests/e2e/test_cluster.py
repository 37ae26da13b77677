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

import tempfile

import pytest
import ray
from ray.cluster_utils import Cluster
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from verl_redit.doctor import _all_plugin_checks

pytestmark = pytest.mark.e2e


@pytest.fixture
def two_nodes(monkeypatch):
    # Ray leaves a cluster's address in its folder for any run that starts later, and tests run beside this one
    with tempfile.TemporaryDirectory(prefix="ray-") as folder:
        monkeypatch.setenv("RAY_TMPDIR", folder)
        cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
        cluster.add_node(num_cpus=1)
        ray.init(address=cluster.address, log_to_driver=False)
        yield [node["NodeID"] for node in ray.nodes()]
        ray.shutdown()
        cluster.shutdown()


def test_both_nodes_load_the_plugin_and_register_every_name(two_nodes):
    assert len(two_nodes) == 2
    look = ray.remote(_all_plugin_checks)
    for node in two_nodes:
        strategy = NodeAffinitySchedulingStrategy(node_id=node, soft=False)
        checks = ray.get(look.options(scheduling_strategy=strategy).remote(node))
        assert {check.name for check in checks} >= {"entry point", "loaded by verl", "reward manager", "config groups"}
        assert [check for check in checks if not check.ok] == []
