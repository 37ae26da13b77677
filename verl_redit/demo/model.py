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

"""A tiny Qwen2 with its own tokenizer, warm-started by supervised training on demonstrations of mixed quality."""

import math
import random
from collections.abc import Callable
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    PreTrainedModel,
    PreTrainedTokenizerBase,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen2ForCausalLM,
)

from verl_redit.demo.task import Problem, demonstration

CHAT_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
SPECIAL_TOKENS = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
BATCH = 64
LEARNING_RATE = 3e-3


def build_tokenizer(corpus: list[str], size: int = 448) -> PreTrainedTokenizerFast:
    """A byte-level BPE tokenizer with single-digit numbers: any text round-trips, words of the corpus are short."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=size,
        special_tokens=SPECIAL_TOKENS,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator([*corpus, "user\nassistant\n"], trainer)
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<|im_end|>", pad_token="<|endoftext|>")
    fast.chat_template = CHAT_TEMPLATE
    return fast


def build_model(tokenizer: PreTrainedTokenizerFast, seed: int, layers: int = 4) -> Qwen2ForCausalLM:
    """About 0.9 M parameters with four layers. Heads of 32 because vLLM's CPU attention takes no smaller ones; the
    vocabulary is as long as the tokenizer because vLLM masks the rest and training does not."""
    config = Qwen2Config(
        vocab_size=len(tokenizer),
        hidden_size=128,
        intermediate_size=384,
        num_hidden_layers=layers,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=2048,
        tie_word_embeddings=True,
        pad_token_id=tokenizer.pad_token_id,
        eos_token_id=tokenizer.eos_token_id,
        bos_token_id=None,
        dtype="float32",
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return Qwen2ForCausalLM(config)


def bare(problem: Problem, draw: random.Random | None = None) -> list[dict[str, str]]:
    """The question and nothing else, as chat messages."""
    return [{"role": "user", "content": problem.question}]


def encode(
    tokenizer: PreTrainedTokenizerBase, messages: list[dict[str, str]], response: str
) -> tuple[list[int], list[int]]:
    """Token ids of the prompt, and of the response with its end."""
    prompt = tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
    return tokenizer.encode(prompt), tokenizer.encode(response) + [tokenizer.eos_token_id]


def _batch(pairs: list[tuple[list[int], list[int]]], pad: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Token ids and labels, both (batch, longest); labels are -100 outside the response."""
    longest = max(len(prompt) + len(response) for prompt, response in pairs)
    ids = torch.full((len(pairs), longest), pad)
    labels = torch.full((len(pairs), longest), -100)
    for row, (prompt, response) in enumerate(pairs):
        ids[row, : len(prompt) + len(response)] = torch.tensor(prompt + response)
        labels[row, len(prompt) : len(prompt) + len(response)] = torch.tensor(response)
    return ids, labels


def warm_start(
    problems: list[Problem],
    tokenizer: PreTrainedTokenizerFast,
    seed: int,
    steps: int,
    progress: Callable[[int, float], None],
    ask: Callable[[Problem, random.Random], list[dict[str, str]]] = bare,
    layers: int = 4,
) -> Qwen2ForCausalLM:
    """Train on demonstrations of mixed quality with AdamW, linear warm-up and cosine decay.

    Args:
        problems: where the questions come from.
        seed: of the weights, the demonstrations and their order.
        steps: batches of 64.
        progress: called with the step and the loss after each step.
        ask: how a problem is put, as chat messages.
        layers: decoder layers of the model.
    """
    draw = random.Random(f"{seed}/warm start")
    model = build_model(tokenizer, seed, layers)
    optimizer = torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE, weight_decay=0.01)
    for step in range(1, steps + 1):
        chosen = [draw.choice(problems) for _ in range(BATCH)]
        ids, labels = _batch(
            [encode(tokenizer, ask(problem, draw), demonstration(problem, draw)) for problem in chosen],
            tokenizer.pad_token_id,
        )
        rate = min(step / 30, 0.5 * (1 + math.cos(math.pi * step / steps)))
        for group in optimizer.param_groups:
            group["lr"] = LEARNING_RATE * rate
        loss = model(input_ids=ids, labels=labels).loss
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        progress(step, loss.item())
    return model


@torch.no_grad()
def sampled_accuracy(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    problems: list[Problem],
    seed: int,
    ask: Callable[[Problem, random.Random], list[dict[str, str]]] = bare,
) -> float:
    """Share of problems whose answer, sampled at temperature 1, verl's GSM8K scorer marks 1.

    Args:
        ask: as in `warm_start`.
    """
    from verl.utils.reward_score.gsm8k import compute_score

    tokenizer.padding_side = "left"
    draw = random.Random(f"{seed}/questions")
    prompts = [encode(tokenizer, ask(row, draw), "")[0] for row in problems]
    batch = tokenizer.pad({"input_ids": prompts}, return_tensors="pt")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        output = model.generate(  # type: ignore[operator]
            **batch, max_new_tokens=24, do_sample=True, temperature=1.0, top_k=0
        )
    texts = tokenizer.batch_decode(output[:, batch["input_ids"].shape[1] :], skip_special_tokens=True)
    return sum(compute_score(text, str(p.answer)) for text, p in zip(texts, problems, strict=True)) / len(problems)


def save(model: Qwen2ForCausalLM, tokenizer: PreTrainedTokenizerFast, folder: Path) -> None:
    """Write a folder that verl, vLLM and transformers load as any other model."""
    model.save_pretrained(folder)
    tokenizer.padding_side = "right"
    tokenizer.save_pretrained(folder)
