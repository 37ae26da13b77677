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

import json
import shutil
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file
from torch.distributed.tensor import Shard, distribute_tensor, init_device_mesh
from transformers import AutoModelForCausalLM
from typer.testing import CliRunner

from tests.flexora import engines
from verl_redit.cli.app import app
from verl_redit.flexora.adapter import lora_modules
from verl_redit.flexora.export import ExportError, export
from verl_redit.flexora.layers import exclude_regex, layer_of, units_of
from verl_redit.flexora.record import Record

IDS = torch.tensor([[7, 8, 9, 10, 11], [30, 12, 44, 5, 6]])


@pytest.fixture(scope="module", autouse=True)
def group(tmp_path_factory):
    engines.join(0, 1, tmp_path_factory.mktemp("group") / "store")
    yield
    torch.distributed.destroy_process_group()


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    return engines.save_model(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def modules(model) -> list[str]:
    """All linear modules of the model's layers."""
    parts = AutoModelForCausalLM.from_pretrained(model).named_modules()
    return [name for name, part in parts if isinstance(part, torch.nn.Linear) and ".layers." in name]


@pytest.fixture(scope="module")
def chosen(modules) -> set[str]:
    """Three layers and one module of a fourth: more than 20 names, from where PEFT shortens them."""
    return {name for name in modules if layer_of(name)[-1] in "145" or name.endswith("3.self_attn.q_proj")}


@pytest.fixture(scope="module")
def trained(model, modules, chosen, tmp_path_factory):
    """Checkpoints before and after three steps, and the logits after them."""
    folder = tmp_path_factory.mktemp("trained")
    engine = engines.build(model, None, exclude_modules=exclude_regex(units_of(modules, "module"), chosen))
    engine.save_checkpoint(str(folder / "step_0"))
    engines.train(engine, 3)
    engine.save_checkpoint(str(folder / "step_3"))
    return folder, logits(engine.module)


@pytest.fixture
def checkpoint(trained, tmp_path) -> Path:
    """A copy that a test may break."""
    return shutil.copytree(trained[0] / "step_3", tmp_path / "checkpoint")


@torch.no_grad()
def logits(module: torch.nn.Module) -> torch.Tensor:
    return module.eval()(input_ids=IDS).logits


def reloaded(model: Path, adapter: Path) -> PeftModel:
    return PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(model), adapter)


def test_the_adapter_is_on_the_trained_modules_alone_and_computes_as_the_engine(trained, model, chosen, tmp_path):
    folder, expected = trained
    exported = export(folder / "step_3", tmp_path / "adapter", str(model))
    assert set(exported.modules) == chosen and exported.left_out == []
    adapted = reloaded(model, tmp_path / "adapter")
    assert set(lora_modules(adapted)) == chosen
    torch.testing.assert_close(logits(adapted), expected, atol=1e-5, rtol=0)
    with adapted.disable_adapter():
        assert (logits(adapted) - expected).abs().max() > 1e-3
    config = json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())
    assert config["target_modules"] == exported.modules
    assert (config["r"], config["lora_alpha"], config["task_type"], config["inference_mode"]) == (
        4, 8, "CAUSAL_LM", True,
    )  # fmt: skip
    assert config["base_model_name_or_path"] == str(model)


def test_an_adapter_from_elsewhere_keeps_its_own_scale(model, tmp_path):
    lora = LoraConfig(r=4, lora_alpha=6, use_rslora=True, target_modules="all-linear", init_lora_weights=False)
    get_peft_model(AutoModelForCausalLM.from_pretrained(model), lora).save_pretrained(tmp_path / "before")
    search = {"method": "align", "output": str(tmp_path / "search")}
    engine = engines.build(model, search, lora_adapter_path=str(tmp_path / "before"))
    engine.save_checkpoint(str(tmp_path / "checkpoint"))
    # verl's supervised trainer writes its own config's α over the adapter's
    (tmp_path / "checkpoint/lora_train_meta.json").write_text('{"r": 4, "lora_alpha": 8, "task_type": "CAUSAL_LM"}')
    export(tmp_path / "checkpoint", tmp_path / "adapter", str(model))
    torch.testing.assert_close(logits(reloaded(model, tmp_path / "adapter")), logits(engine.module), atol=1e-5, rtol=0)


def test_the_command_exports_and_tells_what_it_cannot(trained, model, tmp_path):
    command = ["flexora", "export", str(trained[0] / "step_3"), "--out", str(tmp_path / "adapter")]
    done = CliRunner().invoke(app, [*command, "--base-model", str(model)])
    assert done.exit_code == 0 and "LoRA on 22 modules" in done.stdout
    again = CliRunner().invoke(app, command)
    assert again.exit_code == 1 and "not an empty folder" in " ".join(again.stderr.split())


def test_layers_that_one_run_dropped_are_left_out(model, modules, tmp_path):
    flexora = {"mode": "one_run", "method": "random", "k": 2, "output": str(tmp_path / "search")}
    engine = engines.build(model, flexora)
    engines.train(engine, 3)
    engine.save_checkpoint(str(tmp_path / "checkpoint"))
    kept = {name for name in modules if layer_of(name) not in engine.switch.dropped}
    exported = export(tmp_path / "checkpoint", tmp_path / "adapter")
    assert len(engine.switch.dropped) == 4
    assert set(exported.modules) == kept and set(exported.left_out) == set(modules) - kept
    adapted = reloaded(model, tmp_path / "adapter")
    assert set(lora_modules(adapted)) == kept
    torch.testing.assert_close(logits(adapted), logits(engine.module), atol=1e-5, rtol=0)


def _save(rank: int, ranks: int, model: Path, folder: Path) -> None:
    torch.set_num_threads(1)
    engines.join(rank, ranks, folder / "store")
    engine = engines.build(model, None, exclude_modules=r"model\.layers\.[0-3]\..*")
    engines.train(engine, 2, rank=rank, ranks=ranks)
    engine.save_checkpoint(str(folder / "checkpoint"))
    whole = engines.parameters(engine)
    if rank == 0:
        torch.save(whole, folder / "whole.pt")
    torch.distributed.destroy_process_group()


def test_shards_of_two_ranks_become_whole_tensors(model, tmp_path):
    torch.multiprocessing.spawn(_save, (2, model, tmp_path), nprocs=2)
    export(tmp_path / "checkpoint", tmp_path / "adapter")
    whole = torch.load(tmp_path / "whole.pt")
    tensors = load_file(tmp_path / "adapter" / "adapter_model.safetensors")
    assert len(tensors) == 2 * 2 * 7
    assert tensors.keys() == {name.replace(".default", "") for name in whole}
    for name, tensor in whole.items():
        torch.testing.assert_close(tensors[name.replace(".default", "")], tensor, atol=0, rtol=0)


def test_an_adapter_that_does_nothing_is_refused(trained, tmp_path):
    with pytest.raises(ExportError, match="every lora_B is zero.*name a later step"):
        export(trained[0] / "step_0", tmp_path / "adapter")
    assert not (tmp_path / "adapter").exists()


@pytest.mark.parametrize("file", ["fsdp_config.json", "lora_train_meta.json", "model_world_size_1_rank_0.pt"])
def test_a_missing_file_is_named(checkpoint, file, tmp_path):
    (checkpoint / file).unlink()
    with pytest.raises(ExportError, match=f"there is no file {checkpoint / file}; .*global_step_K/actor"):
        export(checkpoint, tmp_path / "adapter")


def test_a_damaged_file_is_named(checkpoint, tmp_path):
    (checkpoint / "model_world_size_1_rank_0.pt").write_bytes(b"half a file")
    with pytest.raises(ExportError, match="rank_0.pt is damaged"):
        export(checkpoint, tmp_path / "adapter")
    (checkpoint / "lora_train_meta.json").write_text('{"r": 4}')
    with pytest.raises(ExportError, match="lora_train_meta.json is damaged.*lora_alpha"):
        export(checkpoint, tmp_path / "adapter")


def test_other_files_in_the_out_folder_are_not_mixed_in(checkpoint, tmp_path):
    with pytest.raises(ExportError, match="not an empty folder"):
        export(checkpoint, tmp_path)
    (tmp_path / "file").touch()
    with pytest.raises(ExportError, match="not an empty folder"):
        export(checkpoint, tmp_path / "file")


def test_gates_that_are_still_in_the_forward_pass_are_not_lost(checkpoint, tmp_path):
    record = Record({"apply": True, "search_steps": 2}, {}, [], {})
    record.add([], {})
    file = checkpoint / "flexora_world_size_1_rank_0.jsonl"
    record.write(file)
    with pytest.raises(ExportError, match="1 of 2 search steps .*name a later checkpoint"):
        export(checkpoint, tmp_path / "adapter")
    record.add([], {})
    record.write(file)
    assert export(checkpoint, tmp_path / "adapter").modules


class Code:
    def __reduce__(self):
        return Path.touch, (Path("ran"),)


def test_code_in_a_checkpoint_is_not_run(checkpoint, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.save({"x": Code()}, checkpoint / "model_world_size_1_rank_0.pt")
    with pytest.raises(ExportError, match="holds more than tensors"):
        export(checkpoint, tmp_path / "adapter")
    assert not (tmp_path / "ran").exists()


Q = "base_model.model.model.layers.1.self_attn.q_proj"


@pytest.mark.parametrize(
    ("name", "placement", "message"),
    [
        ("model.layers.1.self_attn.q_proj.weight", 0, "holds no LoRA tensors"),
        (f"{Q}.lora_A.default.weight", 1, r"is placed as \(Shard\(dim=1\),\)"),
        (f"{Q}.lora_A.default.weight", 0, "has 6 rows where lora_train_meta.json says r=4"),
        (f"{Q}.lora_B.default.bias", 0, "is no lora_A or lora_B weight"),
        (f"{Q}.lora_magnitude_vector.default.weight", 0, "is no lora_A or lora_B weight"),
        ("base_model.model.lm_head.modules_to_save.default.weight", 0, "is no lora_A or lora_B weight"),
    ],
)
def test_what_is_not_plain_lora_is_refused(checkpoint, name, placement, message, tmp_path):
    mesh = init_device_mesh("cpu", (1,), mesh_dim_names=("fsdp",))
    state = {name: distribute_tensor(torch.ones(6, 4), mesh, [Shard(placement)])}
    torch.save(state, checkpoint / "model_world_size_1_rank_0.pt")
    with pytest.raises(ExportError, match=message):
        export(checkpoint, tmp_path / "adapter")
