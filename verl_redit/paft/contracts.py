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

"""Answer contracts: how a reply must state its answer, so that a scorer can read it.

A template is a way to ask plus a contract. The released pools of the paper (PAFT, arXiv 2502.12859) mostly end in
``Answer:`` and leave the contract out; under a strict scorer such a template earns nothing, whatever the model knows.
"""

import re
from dataclasses import dataclass


@dataclass(frozen=True)
class Contract:
    """One way to state an answer.

    Args:
        name: as written in a pool.
        rule: what a template must tell the model, for messages.
        told: pattern that is found in every template that tells it.
        example: a reply that states the answer ``{}``.
    """

    name: str
    rule: str
    told: str
    example: str

    def is_told(self, text: str) -> bool:
        """Whether a template's text tells the model about this contract."""
        return re.search(self.told, text, re.IGNORECASE) is not None

    def state(self, answer: str) -> str:
        """A reply that states ``answer`` as this contract wants it."""
        return self.example.replace("{}", answer)


CONTRACTS = {
    contract.name: contract
    for contract in [
        Contract("hash4", "end with the answer after ####", r"####", "#### {}"),
        Contract("boxed", r"put the answer in \boxed{}", r"\\boxed\b", r"\boxed{{}}"),
        Contract(
            "think_boxed", r"think inside <think> </think>, then put the answer in \boxed{}",
            r"(?s)(?=.*<think>)(?=.*</think>).*\\boxed\b", r"<think>short</think> \boxed{{}}",
        ),
        Contract("answer_line", "end with a line that has Answer: and the answer", r"answer:", "Answer: {}"),
        Contract("letter", "end with Answer: and the letter", r"(?s)(?=.*answer:).*\bletter", "Answer: {}"),
        Contract("own", "whatever the run's own scorer reads", "", "{}"),
    ]
}  # fmt: skip
