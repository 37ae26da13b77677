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

"""A base model and a LoRA adapter to one model: the start of the second stage, and what its KL term is measured from.

python recipes/suite_gsm8k/merge.py ADAPTER MODEL
"""

from pathlib import Path
from typing import Annotated

import typer
from peft import AutoPeftModelForCausalLM
from transformers import AutoTokenizer


def main(
    adapter: Annotated[Path, typer.Argument(help="What `verl-redit flexora export --base-model` wrote.")],
    model: Annotated[Path, typer.Argument(help="Folder of the merged model.")],
) -> None:
    """Merge an adapter into the model it names, in that model's precision."""
    merged = AutoPeftModelForCausalLM.from_pretrained(adapter, dtype="auto")
    tokenizer = AutoTokenizer.from_pretrained(merged.peft_config["default"].base_model_name_or_path)
    merged.merge_and_unload().save_pretrained(model)
    tokenizer.save_pretrained(model)


if __name__ == "__main__":
    typer.run(main)
