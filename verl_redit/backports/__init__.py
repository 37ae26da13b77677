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

"""Changes to verl that the suite needs today, each the same as one file in ``patches/``."""

import inspect
import logging
from collections.abc import Callable

logger = logging.getLogger(__name__)


def is_needed(function: Callable, patched: str, stock: set[str]) -> bool:
    """Whether a function of verl's has yet to be changed.

    Args:
        function: verl's function.
        patched: a name or text in the body of the function that the patch has put there.
        stock: names that the backport counts on in the unchanged function.

    Returns:
        False if verl has the change itself.

    Raises:
        ImportError: verl has neither the change nor what the backport counts on.
    """
    code = inspect.unwrap(function).__code__
    where = f"{function.__module__}.{function.__qualname__}"
    if patched in (*code.co_names, *code.co_consts):
        logger.debug("%s has what a backport would add: it is left alone", where)
        return False
    if missing := stock - {*code.co_names, *code.co_varnames}:
        raise ImportError(
            f"{where} is not the function that this release was written for: it has no {', '.join(sorted(missing))}. "
            "Install the verl that `verl-redit doctor` names, or a verl-redit release for this one."
        )
    return True
