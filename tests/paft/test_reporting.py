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

"""verl's validation metrics, for each template as well."""

from concurrent.futures import Future
from types import SimpleNamespace

import pytest
import transfer_queue
from omegaconf import OmegaConf
from tensordict import NonTensorStack
from verl.trainer.ppo.v1 import get_trainer_cls, trainer_base

ROWS = [  # template, uid, acc, parsed
    ("a", "1", 1.0, 1.0), ("a", "2", 0.0, 1.0), ("b", "3", 0.0, 0.0), ("b", "4", 0.0, 1.0),
]  # fmt: skip


def metrics(templates, **expected):
    infos = {"reward": [r[2] for r in ROWS], "acc": [r[2] for r in ROWS], "parsed": [r[3] for r in ROWS]}
    if templates:
        infos["template_id"] = templates
    return trainer_base.process_validation_metrics(["s"] * 4, [r[1] for r in ROWS], infos, **expected)


def test_each_template_has_its_accuracy_and_parse_rate():
    got = metrics([r[0] for r in ROWS])
    assert got["s"]["acc"]["mean@1"] == 0.25
    assert got["s/a"] == {"acc": {"mean@1": 0.5}, "parsed": {"mean@1": 1.0}}
    assert got["s/b"] == {"acc": {"mean@1": 0.0}, "parsed": {"mean@1": 0.5}}


@pytest.mark.parametrize("templates", [None, [""] * 4])
def test_without_templates_metrics_are_verls(templates):
    assert metrics(templates).keys() == {"s"}


def test_failed_sessions_count_against_their_template():
    got = metrics([r[0] for r in ROWS], expected_acc_counts={("s", "1"): 2, ("s", "2"): 1, ("s", "lost"): 1})
    assert got["s/a"]["acc"]["mean@2"] == 0.5
    assert got["s/a"]["acc"]["mean@1"] == 0.0
    assert "acc_success_only" in got["s/a"]


def test_verls_trainer_names_them_under_the_data_source():
    trainer = object.__new__(get_trainer_cls("sync"))
    infos = {"acc": [r[2] for r in ROWS], "parsed": [r[3] for r in ROWS], "template_id": [r[0] for r in ROWS]}
    got = trainer._val_metrics_update(["s"] * 4, [r[1] for r in ROWS], infos, [])
    assert got["val-core/s/a/acc/mean@1"] == 0.5
    assert got["val-aux/s/b/parsed/mean@1"] == 0.5


@pytest.mark.parametrize(("paft", "path"), [(False, "rollouts"), (True, "validation")])
def test_other_dumps_are_left_alone(monkeypatch, paft, path):
    """Without a pool, and in validation with whatever scorer, verl's store is not asked."""
    monkeypatch.setattr(transfer_queue, "kv_batch_get", lambda **_: pytest.fail("asked the store"))
    assert dumped(paft, path) == {"uid": ["u"]}


@pytest.mark.parametrize("stack", [NonTensorStack, lambda *rows: list(rows)])
def test_dumps_of_training_rollouts_have_the_template(monkeypatch, stack):
    rows = stack({"template_id": "a"})
    monkeypatch.setattr(transfer_queue, "kv_batch_get", lambda keys, **_: {"extra_info": rows} if keys == ["u"] else {})
    assert dumped(True, "rollouts") == {"uid": ["u"], "template_id": ["a"]}


def dumped(paft: bool, path: str) -> dict:
    """What verl's trainer writes beside the texts."""
    trainer = object.__new__(get_trainer_cls("sync"))
    trainer.config = OmegaConf.create({"trainer": {"rollout_data_dir": "rollouts"}} | ({"paft": {}} if paft else {}))
    trainer.global_steps, trainer._dump_futures = 1, []
    written = []
    trainer._dump_executor = SimpleNamespace(submit=lambda write, *row: written.append(row) or Future())
    trainer._dump_generations(
        inputs=["i"], outputs=["o"], gts=["g"], scores=[1.0], reward_extra_infos_dict={"uid": ["u"]}, dump_path=path
    )
    return written[0][4]
