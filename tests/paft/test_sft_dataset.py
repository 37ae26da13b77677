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

"""verl's supervised data set with prompts from a pool, made by verl's own function."""

import itertools
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hydra import compose, initialize_config_module
from torchdata.stateful_dataloader import StatefulDataLoader
from verl.trainer import sft_trainer
from verl.utils.dataset.dataset_utils import SFTTensorCollator

from verl_redit.demo import task
from verl_redit.paft.pool import render


@pytest.fixture
def files(tmp_path) -> dict[str, str]:
    """Training and validation rows: a question and the reply to it."""
    written = {}
    for split, count in [("train", 12), ("val", 6)]:
        written[split] = str(tmp_path / f"{split}.parquet")
        task.write_conversations(task.problems(count, 0, split), Path(written[split]))
    return written


@pytest.fixture
def make(files, tokenizer, pool_file):
    """Builds the data set as verl's supervised trainers do."""

    def made(*overrides: str, split: str = "train", pool: str = pool_file):
        with initialize_config_module("verl.trainer.config", version_base=None):
            config = compose(
                "sft_trainer_engine",
                overrides=[
                    "+paft=sft", f"paft.pool={pool}", f"data.train_files={files['train']}",
                    f"data.val_files={files['val']}", "data.train_batch_size=4", *overrides,
                ],
            )  # fmt: skip
        return sft_trainer.create_sft_dataset(config.data[f"{split}_files"], config.data, tokenizer, None)

    return made


def text_of(row, tokenizer, replies: bool) -> str:
    """The tokens that are trained on, or the others."""
    return tokenizer.decode(
        [id for id, on in zip(row["input_ids"], row["loss_mask"], strict=True) if bool(on) is replies]
    )


def test_the_prompt_is_rendered_and_the_reply_is_trained_on(make, pool, tokenizer):
    dataset = make()
    train = pool.of_split("train")
    problems = task.problems(12, 0, "train")
    for number, template in dataset.create_distributed_sampler(1, 0):
        row = dataset[number, template]
        [prompt] = render(train[template], {"question": problems[number].question})
        assert prompt["content"] in text_of(row, tokenizer, replies=False)
        assert text_of(row, tokenizer, replies=True).startswith(problems[number].solution())


def test_a_turn_that_calls_a_tool_has_no_text(make, files):
    rows = pq.read_table(files["train"]).to_pylist()
    for row in rows:
        question, reply = row["messages"]
        row["messages"] = [question, {"role": "assistant", "content": None}, reply]
    pq.write_table(pa.Table.from_pylist(rows), files["train"])
    dataset = make("data.truncation=left")
    assert len(dataset) == len(rows)


def test_the_whole_conversation_is_measured(make, files):
    rows = pq.read_table(files["train"]).to_pylist()
    for row in rows:
        row["messages"] += [{"role": "user", "content": "coins " * 100}, row["messages"][1]]
    pq.write_table(pa.Table.from_pylist(rows), files["train"])
    with pytest.raises(ValueError, match=r"row 0 has \d+ tokens with the longest template"):
        make("data.max_length=150")
    assert make("data.max_length=500")


def test_ranks_share_the_draws(make):
    dataset = make()
    ranks = [list(dataset.create_distributed_sampler(2, rank)) for rank in (0, 1)]
    assert sorted(row for rank in ranks for row, _ in rank) == list(range(12))


def test_workers_show_the_same_rows_and_go_on_from_a_checkpoint(make):
    """With workers that are ahead of the checkpoint, as verl's trainer saves and loads it."""

    def loader(workers: int) -> StatefulDataLoader:
        dataset = make("data.pad_mode=no_padding")
        sampler, collate = dataset.create_distributed_sampler(1, 0), SFTTensorCollator("no_padding")
        return StatefulDataLoader(dataset, batch_size=2, sampler=sampler, collate_fn=collate, num_workers=workers)

    def shown(batches) -> list[list[int]]:
        return [row.tolist() for batch in batches for row in batch["input_ids"].unbind()]

    plain, forked, resumed = loader(0), loader(2), loader(2)
    whole = [shown(plain) for _ in range(2)]
    first = iter(forked)
    begun = shown(itertools.islice(first, 2))
    resumed.load_state_dict(forked.state_dict())
    assert begun + shown(first) == whole[0] and whole[0] != whole[1]
    assert begun + shown(resumed) == whole[0] and shown(resumed) == shown(forked) == whole[1]


def test_validation_is_the_grid(make, pool, tokenizer):
    dataset = make("paft.grid.items=4", split="val")
    prompts = [text_of(dataset[number], tokenizer, replies=False) for number in range(len(dataset))]
    assert len(prompts) == 4 * len(pool.of_split("held_out"))
    for template in pool.of_split("held_out"):
        assert sum(template.user.split("\n")[0] in prompt for prompt in prompts) == 4


def test_validation_may_keep_the_rows_own_prompts(make, tokenizer):
    dataset = make("paft.validation=stock", split="val")
    questions = [problem.question for problem in task.problems(6, 0, "val")]
    for number, question in enumerate(questions):
        assert text_of(dataset[number], tokenizer, replies=False).count(question) == 1


@pytest.mark.parametrize(
    "overrides, split, message",
    [
        (["paft.policy=adaptive"], "train", "paft.policy=adaptive: it follows rewards, of which there are none"),
        (["paft.fields={question: problem}"], "train", "data.train_files: .*rows have no extra_info.problem"),
        (["paft.policy=fixed", "paft.template=x"], "train", "paft.template: 'x' is no train template"),
        (["data.max_length=30"], "train", "data.max_length=30: these templates are longer"),
        (["data.max_length=80"], "train", r"data.max_length=80: row \d+ has \d+ tokens with the longest template"),
        (["paft.pool=math"], "train", r"the reply of row 0 does not put the answer in .boxed"),
        (["paft.grid.items=1", "data.train_batch_size=16"], "val", "3 rows of validation"),
    ],
)
def test_a_mistake_is_named_with_its_mend(make, overrides, split, message):
    with pytest.raises(ValueError, match=message):
        make(*overrides, split=split)


def test_the_same_rows_for_training_and_validation_are_refused(make, files):
    with pytest.raises(ValueError, match="data.val_files: the same as data.train_files"):
        make(f"data.val_files={files['train']}")
