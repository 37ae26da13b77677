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

"""Names: which layer and which unit of a search a LoRA parameter belongs to, and the layer set as PEFT takes it.

A unit is what is scored and chosen as one: a decoder layer, or one linear module of it (``grain``).
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

GRAINS = ["layer", "module"]
_WRAPPERS = re.compile(r"(?<![^.])(_fsdp_wrapped_module|_checkpoint_wrapped_module|_orig_mod|base_model\.model)\.")
_FACTOR = re.compile(r"(?P<module>.+)\.lora_(?P<factor>[AB])\.")
# the first number is the layer's; later ones are experts
_LAYER = re.compile(r"(?P<layer>.*?\.\d+)\.(?P<path>.+)")


class NoLayers(ValueError):
    """A model whose LoRA modules are not those of numbered layers; the message says which."""


def lora_factor(parameter: str) -> tuple[str, str] | None:
    """Module and factor (``A`` or ``B``) of a LoRA parameter; None for any other parameter.

    Args:
        parameter: its name in the model, in PEFT's wrapper or in an FSDP engine.
    """
    match = _FACTOR.match(_WRAPPERS.sub("", parameter))
    return (match["module"], match["factor"]) if match else None


def layer_of(module: str) -> str:
    """Name of a module's layer: ``model.layers.3`` for ``model.layers.3.mlp.experts.7.up_proj``.

    Raises:
        NoLayers: the module is in no numbered layer.
    """
    match = _LAYER.fullmatch(module)
    if match is None:
        raise NoLayers(f"LoRA module {module} is in no numbered layer; leave it out of target_modules")
    return match["layer"]


def unit_of(module: str, grain: str) -> str:
    """The unit of a module: its layer's name with ``grain=layer``, its own with ``grain=module``."""
    layer = layer_of(module)
    return layer if grain == "layer" else module


def unit_of_parameter(name: str, grain: str) -> str | None:
    """The unit of a LoRA parameter; None for any other parameter."""
    factor = lora_factor(name)
    return unit_of(factor[0], grain) if factor else None


def depth_order(name: str) -> list[Any]:
    """A sort key that puts layer 10 after layer 9."""
    return [(int(part), "") if part.isdigit() else (-1, part) for part in name.split(".")]


def units_of(modules: Iterable[str], grain: str) -> dict[str, list[str]]:
    """Unit -> its modules, both from the lowest layer to the highest.

    Raises:
        NoLayers: no modules at all, or one that is in no layer.
    """
    units: dict[str, list[str]] = {}
    modules = sorted(modules, key=depth_order)
    if outside := [module for module in modules if not _LAYER.fullmatch(module)]:
        raise NoLayers(
            f"{len(outside)} LoRA modules are in no numbered layer; leave them out by model.exclude_modules="
            f"'{'|'.join(map(re.escape, outside))}'"
        )
    for module in modules:
        units.setdefault(unit_of(module, grain), []).append(module)
    if not units:
        raise NoLayers("target_modules meets no module of this model, so there is no LoRA to choose layers for")
    return units


def stacks_of(units: Mapping[str, Iterable[str]]) -> list[str]:
    """Names of the numbered rows of layers that units lie in: ``model.layers``; a vision tower has another.

    Args:
        units: unit -> its modules.
    """
    layers = [layer_of(module) for modules in units.values() for module in modules]
    return list(dict.fromkeys(layer.rsplit(".", 1)[0] for layer in layers))


def as_regex(modules: str | Sequence[str] | None) -> str | None:
    """What PEFT takes as ``exclude_modules`` (a list names modules by their last parts) as one regular expression."""
    if modules is None or isinstance(modules, str):
        return modules
    return rf"(?:.*\.)?(?:{'|'.join(map(re.escape, modules))})"


def exclude_regex(units: Mapping[str, Iterable[str]], chosen: Iterable[str]) -> str:
    """PEFT's ``exclude_modules`` for all units but the chosen ones; it matches exactly their modules.

    Args:
        units: unit -> its modules.
        chosen: names of units.
    """
    of_layer: dict[str, set[str]] = {}
    kept: set[str] = set()
    for unit, modules in units.items():
        for module in modules:
            layer = layer_of(module)
            path = module.removeprefix(f"{layer}.")
            if unit in chosen:
                kept.add(layer)
            else:
                of_layer.setdefault(layer, set()).add(path)
    # layers with the same excluded paths share one alternative
    of_paths: dict[str, dict[str, list[str]]] = {}
    for layer in sorted(of_layer, key=depth_order):
        paths = "|".join(re.escape(path) for path in sorted(of_layer[layer]))
        stack, number = layer.rsplit(".", 1)
        of_paths.setdefault(f"(?:{paths})" if layer in kept else ".*", {}).setdefault(stack, []).append(number)
    return "|".join(
        rf"{re.escape(stack)}\.(?:{'|'.join(numbers)})\.{paths}"
        for paths, stacks in of_paths.items()
        for stack, numbers in stacks.items()
    )
