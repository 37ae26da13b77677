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

"""Hydra groups of the suite (``+redit=…``, ``+host=…``), found by any verl entry point without a file of the user's."""

from types import ModuleType

EXCLUDE_RESOLVER = "flexora_exclude"
WRAP_RESOLVER = "flexora_wrap"
SEARCH_PATH = "pkg://verl_redit.config"


def add_search_path(hydra_plugins: ModuleType) -> None:
    """Let Hydra look for config groups in this package."""
    from hydra.core.config_search_path import ConfigSearchPath
    from hydra.plugins.search_path_plugin import SearchPathPlugin

    class VerlReditSearchPath(SearchPathPlugin):
        def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
            search_path.append(provider="verl-redit", path=SEARCH_PATH)

    hydra_plugins.Plugins.instance().register(VerlReditSearchPath)


def add_resolver(omegaconf: ModuleType) -> None:
    """Let a config take what PEFT leaves out and what vLLM wraps from a selection file, wherever it is read."""

    def excluded(selection: str | None) -> str | None:
        if selection is None:
            return None
        from verl_redit.flexora.selection import load

        return load(selection).exclude_modules

    def wrapped(selection: str | None, restrict: bool):
        if selection is None or not restrict:
            return None
        from verl_redit.flexora.rollout import wrapped_modules
        from verl_redit.flexora.selection import load

        names = wrapped_modules(module for unit in load(selection).chosen for module in unit.modules)
        return omegaconf.OmegaConf.create(names)  # verl resolves the whole config, which takes no plain list

    omegaconf.OmegaConf.register_new_resolver(EXCLUDE_RESOLVER, excluded, replace=True)
    omegaconf.OmegaConf.register_new_resolver(WRAP_RESOLVER, wrapped, replace=True)
