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

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from verl_redit.cpu.limits import SMALLEST_HEAD
from verl_redit.demo import model
from verl_redit.demo.task import problems

ROWS = problems(64, 0, "train")


@pytest.fixture(scope="module")
def warmed():
    losses = []
    tokenizer = model.build_tokenizer([row.question for row in ROWS])
    return model.warm_start(ROWS, tokenizer, 0, 8, lambda step, loss: losses.append(loss)), tokenizer, losses


def test_the_warm_start_learns(warmed):
    losses = warmed[2]
    assert len(losses) == 8
    assert losses[-1] < 0.9 * losses[0]


def test_any_text_round_trips_and_digits_are_single_tokens(warmed):
    tokenizer = warmed[1]
    for text in ("12 + 30 = 42\n#### 42", "Natalia sold £48/2 — naïve 你好"):
        assert tokenizer.decode(tokenizer.encode(text)) == text
    assert len(tokenizer.encode("1234")) == 4


def test_vllm_and_training_agree_on_the_vocabulary_and_the_head_size(warmed):
    weights, tokenizer, _ = warmed
    assert weights.config.vocab_size == len(tokenizer)
    assert weights.config.hidden_size // weights.config.num_attention_heads >= SMALLEST_HEAD


def test_it_loads_as_any_other_model(warmed, tmp_path):
    weights, tokenizer, _ = warmed
    model.save(weights, tokenizer, tmp_path)
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float32)
    ids = AutoTokenizer.from_pretrained(tmp_path).apply_chat_template(
        [{"role": "user", "content": "How many?"}], add_generation_prompt=True, return_tensors="pt", return_dict=True
    )["input_ids"]
    with torch.no_grad():
        assert torch.equal(loaded(ids).logits, weights(ids).logits)


def test_accuracy_is_the_scorers_and_leaves_the_global_generator(warmed):
    weights, tokenizer, _ = warmed
    state = torch.get_rng_state()
    accuracy = model.sampled_accuracy(weights, tokenizer, ROWS[:4], seed=0)
    assert 0 <= accuracy <= 1
    assert torch.equal(state, torch.get_rng_state())
