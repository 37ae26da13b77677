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

"""What a search leaves on disk: a record that grows with the run, the selection, and the record in each checkpoint."""

from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
import torch

from verl_redit.flexora.config import FlexoraConfig
from verl_redit.flexora.record import Record, checkpointed, move_aside
from verl_redit.flexora.selection import Selection, conclude


class SearchFolder:
    """A search's record, kept up by every rank; rank 0 writes it to ``flexora.output``.

    Every method is called by all ranks of an initialised `torch.distributed`.

    Args:
        record: what the search has measured so far.
    """

    def __init__(self, record: Record, settings: FlexoraConfig):
        self.record = record
        self._settings = settings
        self._output = Path(settings.output).expanduser()
        self._rank, self._ranks = torch.distributed.get_rank(), torch.distributed.get_world_size()

    @property
    def record_file(self) -> Path:
        """Where the record grows."""
        return self._output / "record.jsonl"

    @property
    def selection_file(self) -> Path:
        """Where the selection goes."""
        return self._output / "selection.json"

    def refuse_others(self) -> None:
        """Raise FileExistsError, on every rank, if the record of another search is where this one's is to grow."""
        self._by_one(self.record.refuse_other, tell=True)

    def note(self, groups: Iterable[str], statistics: dict[str, np.ndarray], skipped: str | None = None) -> None:
        """Take over one step as `Record.add`, and append it to the file; with the first one, record and selection of
        another start are moved aside.

        Raises:
            OSError: it cannot be written. On every rank for the first step; afterwards on rank 0.
        """
        self.record.add(groups, statistics, skipped)
        self._by_one(lambda file: self._kept_up(self.record.write_last(file)), tell=len(self.record.steps) == 1)

    def _kept_up(self, was_ours: bool) -> None:
        if not was_ours:  # so the selection, if there is one, is another search's
            move_aside(self.selection_file)

    def _by_one(self, act: Callable[[Path], None], tell: bool) -> None:
        """Let rank 0 do something with the file; told of a failure, the others do not wait for it in vain."""
        failure: list[OSError | None] = [None]
        if self._rank == 0:
            try:
                act(self.record_file)
            except OSError as error:
                failure = [error]
        if tell:
            torch.distributed.broadcast_object_list(failure, src=0)
        if failure[0]:
            raise failure[0]

    def conclude(self) -> Selection:
        """Choose, and write the selection beside the record.

        Raises:
            BadSelection, NoChoice: as `verl_redit.flexora.selection.conclude`; nothing is written.
        """
        selection = conclude(self.record, self._settings)
        if self._rank == 0:
            selection.write(self.selection_file)
            print(f"flexora: {selection.summary}; written to {self.selection_file}")
        return selection

    def save(self, checkpoint: Path) -> None:
        """Put the record into a checkpoint of verl's."""
        self.record.write(checkpointed(checkpoint, self._ranks, self._rank))

    def resume(self, checkpoint: Path) -> bool:
        """Go on from the record in a checkpoint; see `Record.resume`."""
        return self.record.resume(checkpointed(checkpoint, self._ranks, self._rank))

    def replace(self) -> None:
        """Put the record in place of the one in the output folder, which is moved aside with its selection if it went
        further."""
        self._by_one(lambda file: self._kept_up(self.record.replace(file)), tell=True)
