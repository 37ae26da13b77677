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

"""Templates in verl's own validation metrics and in its dumps of training rollouts."""

from types import ModuleType

import transfer_queue as tq
import wrapt

from verl_redit.store import plain

# what is worth a curve for each template
MEASURES = ("acc", "parsed")


def show_templates(trainer: ModuleType) -> None:
    """Extend the module of verl's V1 trainer, which has taken ``process_validation_metrics`` by name."""
    wrapt.wrap_function_wrapper(trainer, "process_validation_metrics", _process)
    wrapt.wrap_function_wrapper(trainer, "PPOTrainer._dump_generations", _dump)


def _process(wrapped, instance, args, kwargs):
    return with_templates(wrapped, *args, **kwargs)


def _dump(wrapped, instance, args, kwargs):
    infos = kwargs["reward_extra_infos_dict"]
    # dumps of validation hold what the scorer returned, its labels among it
    if "paft" in instance.config and kwargs["dump_path"] == instance.config.trainer.rollout_data_dir:
        rows = tq.kv_batch_get(keys=infos["uid"], partition_id="train", select_fields=["extra_info"])["extra_info"]
        infos = {**infos, "template_id": [plain(row)["template_id"] for row in rows]}
    return wrapped(*args, **{**kwargs, "reward_extra_infos_dict": infos})


def with_templates(process, data_sources, sample_uids, infos_dict, seed=42, expected_acc_counts=None):
    """verl's metrics, and the same for ``<data source>/<template>`` where rows were shown templates.

    A prompt of which no rollout came back has no known template, and counts in the data source's own metrics alone.
    """
    metrics = process(data_sources, sample_uids, infos_dict, seed, expected_acc_counts)
    shown = infos_dict.get("template_id", [])
    if not any(shown):
        return metrics
    samples = [number for number, template in enumerate(shown) if template]
    names = {number: f"{data_sources[number]}/{shown[number]}" for number in samples}
    renamed = {(data_sources[number], sample_uids[number]): names[number] for number in samples}
    counts = {(renamed[key], key[1]): count for key, count in (expected_acc_counts or {}).items() if key in renamed}
    infos = {
        measure: [infos_dict[measure][number] for number in samples] for measure in MEASURES if measure in infos_dict
    }
    uids = [sample_uids[number] for number in samples]
    return metrics | process(list(names.values()), uids, infos, seed, counts or None)
