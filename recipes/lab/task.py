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

"""A tiny policy and a task with a discrete, verifiable reward, whose accuracy is computed and not sampled."""

import numpy as np
import torch

FACTOR, VOCABULARY, TOKENS = 8, 8, 3
PROMPTS = FACTOR**2
WIDTH = 64
WARM_STEPS, WARM_RATE = 400, 3e-3
# regime -> Beta distribution of the prompts' pass rates before training, with means of 0.05, 0.40 and 0.90
REGIMES = {"sparse": (0.3, 5.7), "middle": (0.6, 0.9), "saturated": (2.7, 0.3)}


class Policy(torch.nn.Module):
    """An autoregressive policy: what has been written so far to the logits of the next token.

    A prompt is a pair of symbols, and prompts share all other parameters, so that an update on one moves the others.
    """

    def __init__(self):
        super().__init__()
        self.first, self.second = torch.nn.Embedding(FACTOR, WIDTH), torch.nn.Embedding(FACTOR, WIDTH)
        self.position = torch.nn.Embedding(TOKENS, WIDTH)
        self.written = torch.nn.Embedding(VOCABULARY + 1, WIDTH)  # the last token, or that there is none
        self.layers = torch.nn.Sequential(
            torch.nn.Linear(WIDTH, WIDTH), torch.nn.Tanh(), torch.nn.Linear(WIDTH, WIDTH), torch.nn.Tanh(),
            torch.nn.Linear(WIDTH, VOCABULARY),
        )  # fmt: skip

    def forward(self, prompts: torch.Tensor, responses: torch.Tensor) -> torch.Tensor:
        """Log-probabilities of every next token.

        Args:
            prompts: numbers of prompts, int64 of shape (rows,).
            responses: what is written, int64 of shape (rows, tokens); the last token is not read.

        Returns:
            Float32 of shape (rows, tokens, vocabulary).
        """
        tokens = responses.shape[1]
        before = torch.cat([torch.full((len(prompts), 1), VOCABULARY), responses[:, :-1]], dim=1)
        prompt = self.first(prompts // FACTOR) + self.second(prompts % FACTOR)
        hidden = prompt[:, None] + self.position.weight[:tokens] + self.written(before)
        return self.layers(hidden).log_softmax(-1)

    def log_probs(self, prompts: torch.Tensor, responses: torch.Tensor) -> torch.Tensor:
        """Log-probabilities of the tokens of responses, float32 of shape (rows, tokens)."""
        return self(prompts, responses).gather(-1, responses[..., None])[..., 0]

    @torch.no_grad()
    def sample(self, prompts: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        """Responses at temperature 1, int64 of shape (rows, tokens)."""
        responses = torch.zeros(len(prompts), 0, dtype=torch.int64)
        for _ in range(TOKENS):
            padded = torch.cat([responses, torch.zeros(len(prompts), 1, dtype=torch.int64)], dim=1)
            chances = self(prompts, padded)[:, -1].exp()
            responses = torch.cat([responses, torch.multinomial(chances, 1, generator=generator)], dim=1)
        return responses


class Task:
    """One right answer to each prompt. The seed draws answers, pass rates before training and the policy.

    Args:
        regime: one of `REGIMES`.
        seed: of all that is drawn here.
    """

    def __init__(self, regime: str, seed: int):
        draw = np.random.default_rng([seed, list(REGIMES).index(regime), 1])
        self.answers = torch.from_numpy(draw.integers(VOCABULARY, size=(PROMPTS, TOKENS)))
        self.pass_rates = draw.beta(*REGIMES[regime], size=PROMPTS)
        self.start = self._warmed(torch.Generator().manual_seed(int(draw.integers(2**31))))

    def _warmed(self, generator: torch.Generator) -> dict[str, torch.Tensor]:
        """Weights of a policy that answers with about the drawn pass rates, whatever it has written before."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(generator.initial_seed())
            policy = Policy()
        right = torch.from_numpy(self.pass_rates ** (1 / TOKENS)).float()[:, None, None]
        hit = torch.nn.functional.one_hot(self.answers, VOCABULARY)
        targets = right * hit + (1 - right) * (1 - hit) / (VOCABULARY - 1)
        prompts = torch.arange(PROMPTS)
        optimizer = torch.optim.Adam(policy.parameters(), lr=WARM_RATE)
        for step in range(WARM_STEPS):
            written = torch.randint(VOCABULARY, (PROMPTS, TOKENS), generator=generator)
            if step % 2:
                written = self.answers
            loss = -(targets * policy(prompts, written)).sum(-1).mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        return {name: value.clone() for name, value in policy.state_dict().items()}

    def policy(self) -> Policy:
        """The policy before training."""
        policy = Policy()
        policy.load_state_dict(self.start)
        return policy

    def rewards(self, prompts: torch.Tensor, responses: torch.Tensor) -> np.ndarray:
        """1 for the right answer and 0 for any other, float64 of shape (rows,)."""
        return (responses == self.answers[prompts]).all(1).double().numpy()

    @torch.no_grad()
    def accuracy(self, policy: Policy) -> float:
        """The exact chance of a right answer, mean over prompts."""
        log_probs = policy.log_probs(torch.arange(PROMPTS), self.answers)
        return float(log_probs.sum(1).exp().mean())
