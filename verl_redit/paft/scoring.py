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

"""The reward function of ``+paft``: verl's own scorers, chosen by the contract of the template that a row was shown.

verl chooses by ``data_source`` alone, so a reply that obeys another contract than the data set's would earn nothing.
"""

import re
from numbers import Number
from typing import Any

from verl.utils.reward_score import default_compute_score, gsm8k, math_dapo, math_reward

from verl_redit.settings import nearest


def compute_score(
    data_source: str, solution_str: str, ground_truth: Any, extra_info: dict[str, Any], **kwargs: Any
) -> dict:
    """Score one reply (``reward.custom_reward_function``).

    Args:
        data_source: verl's; used where the template's contract is ``own``, or the row was shown its own prompt.
        solution_str: the reply.
        ground_truth: the answer.
        extra_info: with ``contract``, ``template_id``, ``tier`` and ``item_id``, which `PromptPoolDataset` adds.
        kwargs: what verl passes to its own scorers.

    Returns:
        ``score`` (the reward: 1 or 0, and for ``think_boxed`` 0.9 for the answer plus 0.1 for the form, as verl's
        Geometry3K scorer has it), ``acc`` (1 or 0 for a right or wrong answer), ``parsed`` (whether an answer in the
        contract's form could be read at all; None where the scorer does not tell), and the row's labels.

    Raises:
        ValueError: the contract is unknown, or the answer is none that it can compare with.
    """
    contract = extra_info.get("contract") or "own"
    labels = {name: extra_info.get(name, "") for name in ("template_id", "tier", "item_id")}
    if contract == "own":
        result = default_compute_score(data_source, solution_str, ground_truth, extra_info, **kwargs)
        scored = result if isinstance(result, dict) else {"score": result, "acc": result}
        return {"acc": scored["score"], **scored, "parsed": None, **labels}
    if contract not in _SCORERS:
        raise ValueError(
            f"contract {contract!r} of template {labels['template_id']}: {nearest(contract, list(_SCORERS))}"
        )
    is_letter = isinstance(ground_truth, str) and re.fullmatch(r"\s*[A-Za-z]\s*", ground_truth)
    if not isinstance(ground_truth, str | Number) or (contract == "letter" and not is_letter):
        need = "the letter of an option" if contract == "letter" else "text or a number"
        raise ValueError(f"reward_model.ground_truth of row {labels['item_id']} is {ground_truth!r}; give {need}")
    reward, right, parsed = _SCORERS[contract](solution_str, str(ground_truth))
    return {"score": float(reward), "acc": float(right), "parsed": float(parsed), **labels}


def is_stated(reply: str, contract: str) -> bool:
    """Whether an answer can be read from a reply as the contract has it; ``own`` reads anything."""
    return contract == "own" or _SCORERS[contract](reply, "")[2]


def _hash4(reply: str, answer: str) -> tuple[float, bool, bool]:
    right = gsm8k.compute_score(reply, answer)
    return right, bool(right), gsm8k.extract_solution(reply) is not None


def _boxed(reply: str, answer: str) -> tuple[float, bool, bool]:
    right = math_reward.compute_score(reply, answer)
    return right, bool(right), math_reward.last_boxed_only_string(reply) is not None


def _think_boxed(reply: str, answer: str) -> tuple[float, bool, bool]:
    from verl.utils.reward_score import geo3k  # needs mathruler, which verl does not install

    right, stated = bool(geo3k.acc_reward(reply, answer)), math_reward.last_boxed_only_string(reply) is not None
    return geo3k.compute_score(reply, answer), right, stated


def _answer_line(reply: str, answer: str) -> tuple[float, bool, bool]:
    result: dict = math_dapo.compute_score(reply, answer)  # type: ignore[assignment]  # verl's hint says float
    return float(result["acc"]), bool(result["acc"]), result["pred"] != "[INVALID]"


def _letter(reply: str, answer: str) -> tuple[float, bool, bool]:
    """verl has no scorer for letters. The last ``Answer:`` counts if a letter follows, not a sentence."""
    stated = re.findall(r"(?i)answer\W*:\W*(?:boxed\{)?([a-z])(?=\s*(?:[^\w\s]|\n|$))", reply)
    right = bool(stated) and stated[-1].upper() == answer.strip().upper()
    return float(right), right, bool(stated)


_SCORERS = {
    "hash4": _hash4,
    "boxed": _boxed,
    "think_boxed": _think_boxed,
    "answer_line": _answer_line,
    "letter": _letter,
}
