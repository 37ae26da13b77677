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

"""verl's data set with prompts from a pool, made by verl's own functions."""

import json
import re
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from omegaconf import open_dict
from torchdata.stateful_dataloader import StatefulDataLoader
from verl.trainer.ppo.utils import create_rl_dataset, create_rl_sampler
from verl.utils.dataset.rl_dataset import RLHFDataset, collate_fn

from tests.paft.conftest import HELD_OUT, TRAIN, entry
from verl_redit.paft.lengths import Longest
from verl_redit.paft.pool import PoolError, RenderError, Template, render
from verl_redit.paft.pool_file import load
from verl_redit.paft.sampler import PairSampler

ROWS = 23


@pytest.fixture
def make(verl_config, tokenizer, pool_file, parquet):
    """Builds the data set and the sampler as verl's trainers do."""

    def made(*overrides: str, is_train: bool = True, files=parquet, pool=pool_file, processor=None):
        config = verl_config(
            "+paft=cycle", f"paft.pool={pool}", "paft.grid.items=6", "data.max_prompt_length=512",
            "data.filter_overlong_prompts_workers=1", *overrides,
        )  # fmt: skip
        dataset = create_rl_dataset(files, config.data, tokenizer, processor, is_train=is_train)
        return dataset, create_rl_sampler(config.data, dataset) if is_train else None

    return made


def write(path: Path, rows: list[dict]) -> str:
    pq.write_table(pa.Table.from_pylist(rows), path)
    return str(path)


def row(number: int, question: str, **extra_info) -> dict:
    return {
        "data_source": "openai/gsm8k",
        "prompt": [{"role": "user", "content": question}],
        "reward_model": {"style": "rule", "ground_truth": "2"},
        "extra_info": {"index": number, "question": question, **extra_info},
    }


def test_a_training_row_is_rendered_with_the_template_of_its_draw(make, pool):
    dataset, sampler = make()
    assert isinstance(sampler, PairSampler) and len(dataset) == len(sampler) == ROWS
    train = pool.of_split("train")
    for number, template in sampler:
        got = dataset[number, template]
        own = got["prompt"][0]["content"]
        assert got["raw_prompt"] == render(train[template], {"question": own})
        assert got["template_id"] == got["extra_info"]["template_id"] == train[template].id
        assert got["extra_info"]["contract"] == "hash4"
        assert got["extra_info"]["item_id"] == f"openai/gsm8k/{number}"
        assert got["data_source"] == "openai/gsm8k"


def test_other_rows_are_another_run(make, parquet, tmp_path):
    rows = pq.read_table(parquet).to_pylist()
    files = [parquet, write(tmp_path / "turned.parquet", rows[::-1])]
    prints = [make(files=file)[1].fingerprint for file in (*files, parquet)]
    assert prints[0] == prints[2]
    assert [key for key in prints[0] if prints[0][key] != prints[1][key]] == ["data.train_files content"]


def test_training_never_draws_a_held_out_template(make):
    dataset, sampler = make()
    shown = {dataset[pair]["template_id"] for _ in range(2 * TRAIN) for pair in sampler}
    assert shown == {f"train-{number}" for number in range(TRAIN)}


@pytest.mark.parametrize("workers", [0, 8])
def test_verls_loader_shows_a_row_another_template_in_each_epoch(make, workers):
    dataset, sampler = make()
    loader = StatefulDataLoader(
        dataset, batch_size=4, num_workers=workers, drop_last=True, collate_fn=collate_fn, sampler=sampler
    )
    epochs = [
        {
            index: template
            for batch in loader
            for index, template in zip(batch["index"], batch["template_id"], strict=True)
        }
        for _ in range(2)
    ]
    assert len(epochs[0]) == 20
    assert all(epochs[0][index] != epochs[1][index] for index in epochs[0].keys() & epochs[1].keys())


def test_validation_is_a_grid_of_held_out_templates_and_items(make):
    dataset, _ = make(is_train=False)
    cells = [(dataset[n]["extra_info"]["item_id"], dataset[n]["template_id"]) for n in range(len(dataset))]
    items = {item for item, _ in cells}
    assert len(items) == 6
    assert sorted(cells) == sorted((item, f"held-{number}") for item in items for number in range(HELD_OUT))
    assert dataset[0]["extra_info"]["tier"] == "frame"


def test_rows_of_two_files_with_the_same_index_are_two_items(make, tmp_path):
    files = [write(tmp_path / f"{name}.parquet", [row(n, f"{name} {n}?") for n in range(4)]) for name in "ab"]
    dataset, _ = make("paft.grid.items=8", is_train=False, files=files)
    shown = {(dataset[n]["extra_info"]["item_id"], dataset[n]["extra_info"]["question"]) for n in range(len(dataset))}
    assert len(shown) == len({item for item, _ in shown}) == 8


def test_the_grid_does_not_depend_on_the_rows_order(make, parquet, tmp_path):
    rows = pq.read_table(parquet).to_pylist()
    turned = write(tmp_path / "turned.parquet", rows[::-1])
    grids = [
        {dataset[n]["extra_info"]["item_id"] for n in range(len(dataset))}
        for dataset, _ in (make(is_train=False), make(is_train=False, files=turned))
    ]
    assert grids[0] == grids[1]
    other, _ = make("paft.grid.seed=1", is_train=False)
    assert {other[n]["extra_info"]["item_id"] for n in range(len(other))} != grids[0]


def test_validation_may_keep_the_rows_own_prompts(make):
    dataset, _ = make("paft.validation=stock", is_train=False)
    assert len(dataset) == ROWS
    got = dataset[3]
    assert got["raw_prompt"] == got["prompt"] and got["template_id"] == "" and got["extra_info"]["contract"] == ""


def test_a_pool_without_held_out_templates_has_no_grid(make, write_pool):
    pool = write_pool(entry("a", "{{ question }} ####"))
    with pytest.raises(PoolError, match="no held-out template, so there is no grid"):
        make(pool=pool, is_train=False)
    assert len(make("paft.validation=stock", pool=pool, is_train=False)[0]) == ROWS


def test_a_plain_number_is_no_training_row(make):
    with pytest.raises(TypeError, match=re.escape("a training row of a prompt pool is (row, template), not 3")):
        make()[0][3]


def test_the_raw_question_may_have_another_key(make, tmp_path):
    rows = [row(0, "1 + 1?") | {"extra_info": {"index": 0, "problem": "1 + 1?"}}]
    dataset, sampler = make("paft.fields={question: problem}", files=write(tmp_path / "a.parquet", rows))
    assert "1 + 1?" in dataset[next(iter(sampler))]["raw_prompt"][0]["content"]


def test_a_row_without_the_raw_question_is_named(make, tmp_path):
    file = write(tmp_path / "a.parquet", [row(0, "1 + 1?") | {"extra_info": {"index": 7}}])
    with pytest.raises(RenderError, match="row openai/gsm8k/7: no extra_info.question, only index"):
        make(files=file)


def test_json_lines_are_read_too(make, tmp_path):
    file = tmp_path / "rows.jsonl"
    file.write_text("\n".join(json.dumps(row(n, f"{n} + 1?")) for n in range(3)))
    dataset, sampler = make(files=str(file))
    assert {dataset[pair]["index"] for pair in sampler} == {0, 1, 2}


def test_rows_are_kept_only_if_they_fit_with_every_template(make, tmp_path, tokenizer, pool):
    rows = [row(n, " ".join(["coins"] * n)) for n in range(1, 60)]
    file = write(tmp_path / "a.parquet", rows)
    limit = 110
    dataset, _ = make("data.filter_overlong_prompts=true", f"data.max_prompt_length={limit}", files=file)

    def longest(question: str) -> int:
        prompts = [render(template, {"question": question}) for template in pool.of_split("train")]
        return max(len(tokenizer.apply_chat_template(p, add_generation_prompt=True)["input_ids"]) for p in prompts)

    fitting = [r["extra_info"]["index"] for r in rows if longest(r["extra_info"]["question"]) <= limit]
    assert 0 < len(fitting) < len(rows)
    assert [r["extra_info"]["index"] for r in dataset.dataframe] == fitting


def test_rows_that_verl_would_cut_are_refused_where_they_are_not_left_out(make, tmp_path):
    file = write(tmp_path / "a.parquet", [row(n, " ".join(["coins"] * n)) for n in (1, 57, 58)])
    with pytest.raises(PoolError, match="data.max_prompt_length=110: 2 rows .*, row openai/gsm8k/57 the first, .* cut"):
        make("data.max_prompt_length=110", files=file)
    make("data.max_prompt_length=110", "paft.validation=stock", files=file, is_train=False)


def test_a_row_with_a_system_turn_of_its_own_is_measured_with_it():
    class Qwen:
        """Its chat template has a system turn of its own where there is none."""

        def apply_chat_template(self, messages, **_):
            words = sum(len(turn["content"].split()) for turn in messages)
            return {"input_ids": [0] * (words if messages[0]["role"] == "system" else words + 50)}

    entries = [entry("user", "a b c {{ question }}"), entry("system", "{{ question }}", system=" d" * 30)]
    templates = [Template(**values, contract="hash4") for values in entries]
    longest = Longest(templates, ["question"], Qwen(), {})
    question = {"role": "user", "content": "why"}
    assert longest.of_row([question], {"question": "why"}) == [{"role": "user", "content": "a b c why"}]
    [system, user] = longest.of_row([{"role": "system", "content": "tools"}, question], {"question": "why"})
    assert system["content"].endswith("d\n\ntools") and user == question


def test_an_item_keeps_its_name_when_the_filter_drops_one_with_the_same_index(make, tmp_path):
    file = write(tmp_path / "a.parquet", [row(7, "2 coins"), row(7, " ".join(["coins"] * 300))])
    short, whole = (
        make("data.filter_overlong_prompts=true", f"data.max_prompt_length={limit}", files=file, is_train=False)[0]
        for limit in (150, 1000)
    )
    assert (len(short), len(whole)) == (HELD_OUT, 2 * HELD_OUT)
    [kept] = {short[number]["extra_info"]["item_id"] for number in range(len(short))}
    named = [whole[number]["extra_info"] for number in range(len(whole))]
    assert {info["question"] for info in named if info["item_id"] == kept} == {"2 coins"}


def test_training_rows_with_the_same_index_have_names_of_their_own(make, tmp_path):
    dataset, _ = make(files=[write(tmp_path / f"{name}.parquet", [row(0, f"{name} coins")]) for name in "ab"])
    assert len({dataset[number, 0]["extra_info"]["item_id"] for number in range(2)}) == 2


def test_items_without_an_index_are_the_same_in_any_files(make, tmp_path):
    def named(*rows):
        dataset, _ = make("paft.grid.items=9", files=write(tmp_path / "a.parquet", list(rows)), is_train=False)
        shown = [dataset[number]["extra_info"] for number in range(len(dataset))]
        return {item["item_id"]: item["question"] for item in shown}

    rows = [row(n, f"{n % 3} coins") for n in range(4)]
    for number in range(4):
        del rows[number]["extra_info"]["index"]
    assert len(named(*rows)) == 4
    assert named(*rows[1:]).items() <= named(*rows).items()


def test_a_template_longer_than_the_limit_is_named(make, write_pool):
    pool = write_pool(entry("short", "{{ question }} ####"), entry("long", "{{ question }} ####" + " very" * 100))
    with pytest.raises(PoolError, match=r"data.max_prompt_length=60: these templates .*: long \(\d+ tokens\);"):
        make("data.max_prompt_length=60", "paft.validation=stock", pool=pool)


def test_multi_turn_rows_keep_their_later_turns(make, tmp_path):
    turns = [
        {"role": role, "content": text} for role, text in [("user", "1 + 1?"), ("assistant", "2"), ("user", "Sure?")]
    ]
    dataset, sampler = make(files=write(tmp_path / "a.parquet", [row(0, "1 + 1?") | {"prompt": turns}]))
    raw = dataset[next(iter(sampler))]["raw_prompt"]
    assert raw[1:] == turns[1:] and raw[0] != turns[0] and "1 + 1?" in raw[0]["content"]


class Processor:
    """Of verl's filter, as no processor for pictures is installed."""

    def apply_chat_template(self, messages, **_):
        return "".join(part.get("text", "") for turn in messages for part in turn["content"])

    def tokenizer(self, text, **_):
        return {"input_ids": text.split()}


def test_images_stay_where_the_question_has_them(make, tmp_path, monkeypatch):
    pytest.importorskip("PIL")
    from io import BytesIO

    from PIL import Image

    picture = BytesIO()
    Image.new("RGB", (2, 2)).save(picture, "PNG")
    rows = [row(0, "<image>Find x") | {"images": [{"bytes": picture.getvalue(), "path": None}]}]
    monkeypatch.setattr(RLHFDataset, "_process_multi_modal_info", lambda *_: (None, None, None))
    dataset, sampler = make(files=write(tmp_path / "a.parquet", rows), processor=Processor())
    content = dataset[next(iter(sampler))]["raw_prompt"][0]["content"]
    assert [part["type"] for part in content].count("image") == 1
    assert any("Find x" in part.get("text", "") for part in content)


def test_without_the_suites_node_verls_data_set_is_stock(verl_config, tokenizer, parquet):
    config = verl_config()
    dataset = create_rl_dataset(parquet, config.data, tokenizer, None)
    assert type(dataset) is RLHFDataset
    assert type(create_rl_sampler(config.data, dataset)).__name__ == "RandomSampler"
    with open_dict(config):
        config.data.shuffle = False
    assert type(create_rl_sampler(config.data, dataset)).__name__ == "SequentialSampler"


def test_the_choice_of_a_smaller_grid_is_even_over_the_tiers():
    from verl_redit.paft.config import Grid
    from verl_redit.paft.grid import grid_templates

    pool = load("gsm8k")
    chosen = grid_templates(pool, Grid(templates=5))
    assert len({template.tier for template in chosen}) == 5
    assert grid_templates(pool, Grid(templates=5)) == chosen
    assert grid_templates(pool, Grid(templates=1000)) == grid_templates(pool, Grid()) == pool.of_split("held_out")
