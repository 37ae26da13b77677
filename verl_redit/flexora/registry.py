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

"""Which models get `verl_redit.flexora.engine`: those whose config has ``lora.flexora``."""

import os
from types import ModuleType

import wrapt

VENDOR = "flexora"


def choose_engine(base: ModuleType) -> None:
    """Let verl's registry look up such a model's engine under our vendor name, and every other one as before."""

    def new(wrapped, instance, args, kwargs):
        if "flexora" not in (getattr(kwargs.get("model_config"), "lora", None) or {}):
            return wrapped(*args, **kwargs)
        before = os.environ.get("VERL_ENGINE_VENDOR")
        os.environ["VERL_ENGINE_VENDOR"] = VENDOR
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
