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

"""The closed loop: verl's V1 trainers with hooks for plugins (`verl_redit.closed_loop`), no method of theirs copied."""

from collections import Counter, defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

import numpy as np
import torch
import transfer_queue as tq
from omegaconf import DictConfig, open_dict
from tensordict import TensorDict
from transfer_queue import KVBatchMeta
from verl.trainer.ppo.v1.replay_buffer import ReplayBuffer
from verl.workers.utils.padding import response_to_nested

from verl_redit.closed_loop import MODES, Plugin, configured_plugins, load_state, resumed_checkpoint, save_state
from verl_redit.grpo import grpo_advantages
from verl_redit.plugin import install_early
from verl_redit.rollouts import Rollouts, Tokens, on_last_token
from verl_redit.store import plain

if TYPE_CHECKING:
    from verl.trainer.ppo.v1 import PPOTrainer
else:
    PPOTrainer = object


class ClosedLoop(PPOTrainer):
    """Mixed into a stock V1 trainer; without plugins every method of it does what the stock one does."""

    stock_mode: str

    def __init__(self, config: DictConfig):
        self.plugins = configured_plugins(config)
        modes = config.trainer.v1
        with open_dict(modes):  # for those who look up the mode's settings under the name in the config
            modes[modes.trainer_mode] = modes.get(self.stock_mode)
        super().__init__(config)

    @property
    def trainer_mode(self) -> str:
        """The stock mode, as verl compares it with ``sync``; the config keeps the user's, which reward workers read."""
        return self.stock_mode

    @trainer_mode.setter
    def trainer_mode(self, name: str) -> None:
        pass

    def _init_dataloader(self) -> None:
        super()._init_dataloader()
        for plugin in self.plugins:
            plugin.use_sampler(self.train_dataloader.sampler)

    def _build_replay_buffer(self) -> ReplayBuffer:
        buffer = super()._build_replay_buffer()
        # a custom sampler filters by itself
        if getattr(buffer, "filter_groups_metric", None) and any(plugin.chooses_groups for plugin in self.plugins):
            buffer._dapo_filtered_keys = GroupFilter(buffer, self.plugins)  # type: ignore[method-assign]
        return buffer

    def _compute_advantage(self, batch: KVBatchMeta, metrics: dict) -> KVBatchMeta:
        if not self.plugins:
            return super()._compute_advantage(batch, metrics)
        responses = Responses(batch, self.config)
        answers = [plugin.reward_change(responses.rollouts) for plugin in self.plugins]
        changes = [change for change in answers if change is not None]
        with responses.rewards_changed(changes), self._centred_advantages():
            batch = super()._compute_advantage(batch, metrics)
        tokens = responses.tokens()
        stock = tokens.advantages
        for plugin in self.plugins:
            tokens = replace(tokens, advantages=plugin.advantages(responses.rollouts, tokens))
        if tokens.advantages is not stock:
            responses.put_advantages(tokens.advantages)
        return batch

    @contextmanager
    def _centred_advantages(self) -> Iterator[None]:
        algorithm = self.config.algorithm
        divide = algorithm.get("norm_adv_by_std_in_grpo", True)
        with open_dict(algorithm):
            algorithm.norm_adv_by_std_in_grpo = divide and not any(plugin.divides for plugin in self.plugins)
            try:
                yield
            finally:
                algorithm.norm_adv_by_std_in_grpo = divide

    def _step_once(self, metrics: dict, timing_raw: dict, sample_batch_size: int) -> KVBatchMeta:
        batch = super()._step_once(metrics, timing_raw, sample_batch_size)
        for plugin in self.plugins:
            metrics.update(plugin.metrics())
        return batch

    def _save_checkpoint(self) -> None:
        if self.plugins:
            # before verl's, which ends by declaring the checkpoint complete
            save_state(self.plugins, Path(self.config.trainer.default_local_dir) / f"global_step_{self.global_steps}")
        super()._save_checkpoint()

    def _load_checkpoint(self) -> None:
        super()._load_checkpoint()
        if checkpoint := resumed_checkpoint(self.config):
            load_state(self.plugins, checkpoint)


class Responses:
    """The responses of a batch in verl's store, without the padding that verl adds to fill up mini-batches."""

    def __init__(self, batch: KVBatchMeta, config: DictConfig):
        self.partition = batch.partition_id
        self.keys = [key for key, tag in zip(batch.keys, batch.tags, strict=True) if not tag.get("is_padding", False)]
        last: dict[tuple[str, str], tuple[int, int]] = {}
        for response, key in enumerate(self.keys):
            uid, session, output = key.rsplit("_", 2)
            last[uid, session] = max(last.get((uid, session), (-1, -1)), (int(output), response))
        self.final = [response for _, response in last.values()]
        number = {session: position for position, session in enumerate(last)}
        self.session = [number[tuple(key.rsplit("_", 2)[:2])] for key in self.keys]
        self.scores = self._get("rm_scores", "response_mask")
        rewards = np.array([float(score.sum()) for score in self.scores["rm_scores"].unbind()])[self.final]
        if not np.isfinite(rewards).all():
            wrong = self.keys[self.final[int(np.argmin(np.isfinite(rewards)))]]
            raise ValueError(f"the reward of rollout {wrong} is not finite; mend the scorer")
        group = np.unique([uid for uid, _ in last], return_inverse=True)[1]
        divides = config.algorithm.get("norm_adv_by_std_in_grpo", True)

        def estimate(rewards: np.ndarray, divide: bool = True) -> np.ndarray:
            return grpo_advantages(rewards, group, divide and divides)

        self.rollouts = Rollouts(rewards, group, self._columns, estimate)

    def _get(self, *fields: str) -> TensorDict:
        return tq.kv_batch_get(keys=self.keys, partition_id=self.partition, select_fields=list(fields))

    def _put(self, **fields: torch.Tensor) -> None:
        tq.kv_batch_put(
            keys=self.keys, partition_id=self.partition, fields=TensorDict(fields, batch_size=len(self.keys))
        )

    def _columns(self, *names: str) -> dict[str, list]:
        keys = [self.keys[response] for response in self.final]
        data = tq.kv_batch_get(keys=keys, partition_id=self.partition, select_fields=list(names))
        return {name: [plain(value) for value in data[name]] for name in names}

    @contextmanager
    def rewards_changed(self, changes: list[np.ndarray]) -> Iterator[None]:
        """Let the estimator find changed rewards, and everything after it the scorer's."""
        if not changes:
            yield
            return
        change = torch.from_numpy(np.sum(changes, axis=0)[self.session])
        raw = self.scores["rm_scores"]
        self._put(rm_scores=on_last_token(raw, self.scores["response_mask"], change))
        try:
            yield
        finally:
            self._put(rm_scores=raw)

    def tokens(self) -> Tokens:
        """What the estimator made of them."""
        data = self._get("advantages", "response_mask").to_padded_tensor()
        return Tokens(
            advantages=data["advantages"],
            mask=data["response_mask"],
            session=torch.tensor(self.session),
            final=torch.tensor(self.final),
            entropy=lambda: self._get("entropy").to_padded_tensor()["entropy"],
        )

    def put_advantages(self, advantages: torch.Tensor) -> None:
        """Store advantages, and returns, which are the same for GRPO."""
        nested = response_to_nested(advantages, self.scores["response_mask"])
        self._put(advantages=nested, returns=nested)


class GroupFilter:
    """Decides which finished groups verl's replay buffer drops and replaces, instead of its own test for no spread."""

    def __init__(self, buffer: ReplayBuffer, plugins: list[Plugin]):
        self.buffer = buffer
        self.plugins = plugins
        self.accuracies: dict[str, float] = {}

    def __call__(self, partition_id: str) -> tuple[set[str], Counter]:
        """Keys of the prompts to drop, and how many of them had which accuracy."""
        if partition_id == "val":
            return set(), Counter()
        finished = self.buffer.finished_keys[partition_id]
        known = {uid: accuracy for uid, accuracy in self.accuracies.items() if uid in finished}
        self.accuracies = known | self._read(partition_id, finished - known.keys())
        dropped = {
            uid: accuracy
            for uid, accuracy in self.accuracies.items()
            if not all(plugin.keeps_group(accuracy) for plugin in self.plugins)
        }
        return set(dropped), Counter(dropped.values())

    def _read(self, partition_id: str, uids: set[str]) -> dict[str, float]:
        metric = self.buffer.filter_groups_metric
        keys = [key for key in self.buffer.partitions[partition_id] if key.split("_")[0] in uids]
        if missing := uids - {key.split("_")[0] for key in keys}:
            raise ValueError(f"finished prompts without any response, so without {metric!r}: {sorted(missing)[:5]}")
        if not keys:
            return {}
        fields = tq.kv_batch_get(keys=keys, partition_id=partition_id, select_fields=["extra_fields"])["extra_fields"]
        sessions: dict[str, dict[str, float]] = defaultdict(dict)
        for key, field in zip(keys, fields, strict=True):
            uid, session, _ = key.rsplit("_", 2)
            extra_info = plain(field).get("reward_extra_info", {})
            if metric not in extra_info:
                raise ValueError(
                    f"algorithm.filter_groups.metric={metric}: the scorer returned no {metric!r}, only "
                    f"{', '.join(map(str, extra_info)) or 'nothing'}"
                )
            sessions[uid][session] = float(extra_info[metric])
        return {uid: float(np.mean(list(values.values()))) for uid, values in sessions.items()}


def register(v1: ModuleType) -> None:
    """Register a closed-loop trainer for each of verl's V1 modes."""
    for mode, stock_mode in MODES.items():
        stock = v1.get_trainer_cls(stock_mode)
        v1.register_trainer(mode)(type(f"ClosedLoop{stock.__name__}", (ClosedLoop, stock), {"stock_mode": stock_mode}))


install_early(__name__)
