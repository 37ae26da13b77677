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

"""Which models get Flexora's engines, `verl_redit.flexora.search_engine` or `selected_engine`: those whose config has
``lora.flexora``, which the Hydra groups ``+flexora=…`` fill in. Every other model gets verl's own."""

import os
from types import ModuleType
from typing import Any

import wrapt
from omegaconf import OmegaConf

from verl_redit.flexora.config import FlexoraConfig
from verl_redit.settings import parse

# vendors in verl's registry
SEARCH, SELECTED = "flexora_search", "flexora_selected"
SERVED: dict[str, Any] = {
    "model_type": "language_model", "backend": ["fsdp", "fsdp2"], "device": ["cuda", "npu", "cpu"],
}  # fmt: skip


def settings_of(model_config: Any) -> FlexoraConfig:
    """The settings of a model whose config has ``lora.flexora``."""
    node = OmegaConf.to_container(OmegaConf.create(model_config.lora["flexora"]), resolve=True)
    return parse(FlexoraConfig, node, "flexora")


def choose_engine(base: ModuleType) -> None:
    """Let verl's registry look up such a model's engine under our vendor names, and every other one as before."""

    def new(wrapped, instance, args, kwargs):
        model_config = kwargs.get("model_config")
        if "flexora" not in (getattr(model_config, "lora", None) or {}):
            return wrapped(*args, **kwargs)
        before = os.environ.get("VERL_ENGINE_VENDOR")
        os.environ["VERL_ENGINE_VENDOR"] = SELECTED if settings_of(model_config).mode == "selected" else SEARCH
        try:
            engine = wrapped(*args, **kwargs)
        finally:
            if before is None:
                del os.environ["VERL_ENGINE_VENDOR"]
            else:
                os.environ["VERL_ENGINE_VENDOR"] = before
        if not hasattr(engine, "flexora"):
            raise ValueError(f"flexora: {type(engine).__name__} is no FSDP engine; set strategy to fsdp or fsdp2")
        return engine

    wrapt.wrap_function_wrapper(base, "EngineRegistry.new", new)
