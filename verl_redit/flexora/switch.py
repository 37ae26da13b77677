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

"""The switch of a run that goes on with the layers it has chosen (``mode=one_run``)."""

from collections.abc import Iterable, Iterator

import torch

from verl_redit.flexora.layers import unit_of_parameter


class Switch:
    """From all units to the chosen ones: the rest train no more, and rollouts do without them once they add nothing.

    Args:
        grain: what a unit is.

    Attributes:
        dropped: names of the units that train no more; empty before the choice.
        is_due: the adapter is to begin anew.
    """

    def __init__(self, grain: str):
        self.dropped: set[str] = set()
        self.is_due = False
        self._rest_is_empty = False
        self._grain = grain

    def drop(self, units: Iterable[str], anew: bool, empty: bool) -> None:
        """Train these no more.

        Args:
            anew: the adapter is to begin anew.
            empty: they add nothing as it is.
        """
        self.dropped, self.is_due, self._rest_is_empty = set(units), anew, empty

    def done(self) -> None:
        """The adapter has begun anew, so the dropped units add nothing."""
        self.is_due, self._rest_is_empty = False, True

    def freeze(self, parameters: Iterable[tuple[str, torch.nn.Parameter]]) -> None:
        """Leave dropped units no gradient; a zero would still let momentum and weight decay move them."""
        for name, parameter in parameters if self.dropped else ():
            if unit_of_parameter(name, self._grain) in self.dropped:
                parameter.grad = None

    def synced(self, tensors: Iterable[tuple[str, torch.Tensor]]) -> Iterator[tuple[str, torch.Tensor]]:
        """The named tensors that rollouts need."""
        left_out = self.dropped if self._rest_is_empty else set()
        return ((name, tensor) for name, tensor in tensors if unit_of_parameter(name, self._grain) not in left_out)
