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

"""From a config node to a frozen dataclass: types checked, unknown keys refused with the nearest valid name."""

import difflib
from collections.abc import Mapping
from dataclasses import fields, is_dataclass, replace
from typing import Any, TypeVar, cast

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

T = TypeVar("T")


def nearest(name: str, valid: list[str]) -> str:
    """A hint for a mistyped name: the nearest valid one if there is one, then all of them."""
    close = difflib.get_close_matches(name, valid, n=1)
    return (f"did you mean {close[0]!r}? " if close else "") + f"valid: {', '.join(sorted(valid))}"


def check_name(key: str, name: Any, valid: list[str]) -> None:
    """Raise ValueError with the key first if a setting's value is none of the valid names."""
    if name not in valid:
        raise ValueError(f"{key}: {name!r}; {nearest(str(name), valid)}")


def parse(cls: type[T], node: Any, where: str) -> T:
    """Build ``cls`` from the config node that the user wrote at ``where`` (for example ``redit``).

    Raises:
        ValueError: unknown key, wrong type or a value that ``cls`` refuses; the message starts with the full key.
    """
    if node is None:
        node = {}
    if not isinstance(node, Mapping):
        raise ValueError(f"{where}: {node!r} is no group of settings; set {where}.<key> instead")
    types: dict[str, Any] = {field.name: field.type for field in fields(cls)}  # type: ignore[arg-type]
    for key in node:
        if key not in types:
            raise ValueError(f"{where}.{key}: unknown key; {nearest(str(key), list(types))}")
    kinds = {key: kind for key, kind in types.items() if isinstance(kind, type) and is_dataclass(kind)}
    nested = {key: parse(kind, node.get(key), f"{where}.{key}") for key, kind in kinds.items()}
    try:
        own = {key: node[key] for key in node if key not in nested}
        parsed: Any = OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(cls), own))
        frozen = {key: tuple(value) for key, value in vars(parsed).items() if isinstance(value, list)}
        return cast(T, replace(parsed, **frozen, **nested))
    except OmegaConfBaseException as error:
        raise ValueError(f"{where}.{error.full_key}: {str(error).splitlines()[0]}") from error
    except ValueError as error:
        raise ValueError(f"{where}.{error}") from error
