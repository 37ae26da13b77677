"""Hydra groups of the suite (``+redit=…``, ``+host=…``), found by any verl entry point without a file of the user's."""

from types import ModuleType

SEARCH_PATH = "pkg://verl_redit.config"


def add_search_path(hydra_plugins: ModuleType) -> None:
    """Let Hydra look for config groups in this package."""
    from hydra.core.config_search_path import ConfigSearchPath
    from hydra.plugins.search_path_plugin import SearchPathPlugin

    class VerlReditSearchPath(SearchPathPlugin):
        def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
            search_path.append(provider="verl-redit", path=SEARCH_PATH)

    hydra_plugins.Plugins.instance().register(VerlReditSearchPath)
