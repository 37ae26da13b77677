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

"""What the plugin adds to `import verl`, in milliseconds, each time in a fresh process.

    python recipes/benchmarks/plugin_import.py

verl is imported without plugins first, then the plugin as verl's entry-point loader imports it.
"""

import os
import statistics
import subprocess
import sys

CODE = """
import importlib.metadata, time, verl
start = time.perf_counter()
(entry,) = [entry for entry in importlib.metadata.entry_points(group="verl.plugins") if entry.name == "verl_redit"]
entry.load()
print(1000 * (time.perf_counter() - start))
"""


def main() -> None:
    """Measure five times."""
    environment = {**os.environ, "VERL_USE_EXTERNAL_PLUGINS": "none"}
    command = [sys.executable, "-c", CODE]
    runs = [subprocess.run(command, env=environment, capture_output=True, text=True, check=True) for _ in range(5)]
    added = [float(run.stdout.splitlines()[-1]) for run in runs]
    print(f"the plugin adds {statistics.median(added):.0f} ms to `import verl` ({min(added):.0f} to {max(added):.0f})")


if __name__ == "__main__":
    main()
