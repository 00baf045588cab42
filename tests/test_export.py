"""Exports: keys, metadata, refusals, whole files only; and through the host's own loader nodes."""

import errno
import json
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, safe_open, save_file

from scripts.tiny_models import dit_shapes, tiny_weights
from tests.host_process import check_names, outcomes
from viewpoint_core import export
from viewpoint_core.checkpoint import METADATA_BLOCKS, original_key, read_checkpoint, viewpoint_metadata
from viewpoint_core.safetensors_file import read_header
from viewpoint_core.training import lora, wan
from viewpoint_core.training.ema import trained_parameters
from viewpoint_core.training.state import collect_tensors, save_state, write_tensors
from viewpoint_core.training.weights import LazyTensor, lazy, write_safetensors
from viewpoint_core.wan_attention import format_schedule

REPO = Path(__file__).parents[1]
SCRIPT = "exports.py"


@pytest.fixture(scope="session")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One folder for all checks."""
    return tmp_path_factory.mktemp("exports")


@pytest.mark.host
@pytest.mark.parametrize("check", check_names(SCRIPT))
def test_in_host(check: str, work: Path) -> None:
    assert outcomes(SCRIPT, work)[check] is None, outcomes(SCRIPT, work)[check]


def write_model(path: Path, in_dim: int, metadata: dict[str, str] | None = None) -> Path:
    """A tiny model's single file with two blocks."""
    save_file(tiny_weights(dit_shapes(in_dim=in_dim, blocks=2, ffn=64), 1), path, metadata=metadata)
    return path


@pytest.fixture
def trained(tmp_path: Path) -> Path:
    """A 33-channel file that says its schedule."""
    return write_model(tmp_path / "trained.safetensors", 33, viewpoint_metadata((1,), 33))


def lora_model(tmp_path: Path, rank: int = 4, alpha: float = 8) -> wan.WanTransformer3DModel:
    """A model with a LoRA whose every tensor is random."""
    model = wan.prepare_transformer(write_model(tmp_path / "stock.safetensors", 16), "alternating")
    lora.add_lora(model, rank, alpha)
    for index, (name, tensor) in enumerate(lora.lora_state(model).items()):
        if name != "patch_embedding.lora_A.weight":
            tensor.copy_(torch.randn(tensor.shape, generator=torch.Generator().manual_seed(index)))
    return model


def refused(capsys: pytest.CaptureFixture, words: str, *arguments: str | Path) -> None:
    """The command line says these words and exits with 2."""
    assert export.main([str(argument) for argument in arguments]) == 2
    said = capsys.readouterr().err.splitlines()[-1]
    assert said.startswith("export: ")
    assert words in said, said


def test_a_lora_has_the_keys_that_the_stock_loader_reads(tmp_path: Path) -> None:
    tensors = lora.comfy_lora(lora.lora_state(lora_model(tmp_path)), alpha=8)
    patch = {key.rpartition("patch_embedding.")[2]: tensors.pop(key) for key in list(tensors) if "patch_emb" in key}
    assert patch["lora_up.weight"].shape == (128, 132)
    assert patch["lora_down.weight"].shape == (132, 33, 1, 2, 2)
    assert torch.equal(patch["lora_down.weight"].flatten(1), torch.eye(132))
    assert float(patch["alpha"]) == 132
    assert patch["reshape_weight"].dtype == torch.int64
    assert patch["reshape_weight"].tolist() == [128, 33, 1, 2, 2]
    assert len(patch) == 4
    attentions = [f"{attention}.{part}" for attention in ("self_attn", "cross_attn") for part in "qkvo"]
    assert set(tensors) == {
        f"diffusion_model.blocks.{block}.{linear}.{part}"
        for block in range(2)
        for linear in [*attentions, "ffn.0", "ffn.2"]
        for part in ("lora_A.weight", "lora_B.weight", "alpha")
    }
    assert {float(tensor) for key, tensor in tensors.items() if key.endswith("alpha")} == {8.0}


def test_names_with_the_adapters_name_give_the_same_keys(tmp_path: Path) -> None:
    model = lora_model(tmp_path)
    named = {name: tensor for name, tensor in model.named_parameters() if ".lora_" in name}
    assert any(".default." in name for name in named)
    first, second = lora.comfy_lora(named, 8), lora.comfy_lora(lora.lora_state(model), 8)
    assert first.keys() == second.keys()
    assert all(torch.equal(first[key], second[key]) for key in first)


def test_a_lora_in_comfyui_keys_comes_back_to_the_trainer(tmp_path: Path) -> None:
    model = lora_model(tmp_path)
    tensors = lora.comfy_lora({name: t.clone() for name, t in lora.lora_state(model).items()}, 8)
    other = wan.prepare_transformer(tmp_path / "stock.safetensors", "alternating")
    lora.add_lora(other, 4, 8)
    lora.load_comfy_lora(other, tensors)
    wanted = lora.lora_state(model)
    assert all(torch.equal(tensor, wanted[name]) for name, tensor in lora.lora_state(other).items())


@pytest.mark.parametrize(
    ("rank", "alpha", "words"), [(8, 8, "another rank"), (4, 4, "has alpha 8; the model's LoRA has 4")]
)
def test_a_lora_of_another_rank_or_alpha_is_refused_and_nothing_changes(
    tmp_path: Path, rank: int, alpha: float, words: str
) -> None:
    tensors = lora.comfy_lora(lora.lora_state(lora_model(tmp_path)), 8)
    other = lora_model(tmp_path, rank, alpha)
    before = {name: tensor.clone() for name, tensor in lora.lora_state(other).items()}
    with pytest.raises(ValueError, match=words):
        lora.load_comfy_lora(other, tensors)
    assert all(torch.equal(tensor, before[name]) for name, tensor in lora.lora_state(other).items())


PATCH_KEY = f"{lora.COMFY_PREFIX}{lora.PATCH}."


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({f"{PATCH_KEY}alpha": torch.tensor(66.0)}, "has alpha 66; the model's LoRA has 132"),
        ({f"{PATCH_KEY}lora_down.weight": torch.zeros(132, 16, 1, 2, 2)}, r"expected \(132, 33, 1, 2, 2\)"),
        ({f"{PATCH_KEY}lora_up.weight": torch.zeros(64, 132)}, r"lora_up.weight is \(64, 132\)"),
        ({"diffusion_model.blocks.2.ffn.0.lora_A.weight": torch.zeros(4, 128)}, "blocks.2.* is in one of them only"),
    ],
)
def test_a_lora_whose_patch_embedding_does_not_fit_is_refused_and_nothing_changes(
    tmp_path: Path, change: dict[str, torch.Tensor], words: str
) -> None:
    model = lora_model(tmp_path)
    before = {name: tensor.clone() for name, tensor in lora.lora_state(model).items()}
    tensors = {
        key: tensor + 1 if key.endswith("weight") else tensor for key, tensor in lora.comfy_lora(before, 8).items()
    }
    with pytest.raises(ValueError, match=words):
        lora.load_comfy_lora(model, tensors | change)
    assert all(torch.equal(tensor, before[name]) for name, tensor in lora.lora_state(model).items())


def test_a_lora_of_other_blocks_or_of_another_base_is_refused_where_its_file_says_so(tmp_path: Path) -> None:
    model = lora_model(tmp_path)
    for said in ({}, {METADATA_BLOCKS: "1"}, {lora.LORA_BASE: "16"}):
        lora.check_origin(model, said, 16)
    with pytest.raises(ValueError, match="Perspective blocks 0, this run has 1"):
        lora.check_origin(model, {METADATA_BLOCKS: "0"}, 16)
    with pytest.raises(ValueError, match="a model of 33 channels; this one takes 16"):
        lora.check_origin(model, {lora.LORA_BASE: "33"}, 16)


def test_a_lora_without_alpha_has_the_scale_1_as_in_comfyui(tmp_path: Path) -> None:
    model = lora_model(tmp_path, 4, 4)
    tensors = lora.comfy_lora({name: t.clone() for name, t in lora.lora_state(model).items()}, 4)
    lora.load_comfy_lora(model, {key: tensor for key, tensor in tensors.items() if not key.endswith("alpha")})
    with pytest.raises(ValueError, match="has alpha 4; the model's LoRA has 8"):
        lora.load_comfy_lora(
            lora_model(tmp_path), {key: tensor for key, tensor in tensors.items() if not key.endswith("alpha")}
        )


def test_the_frozen_side_of_the_patch_embedding_may_be_left_out_but_not_be_another(tmp_path: Path) -> None:
    state = dict(lora.lora_state(lora_model(tmp_path)))
    whole = lora.comfy_lora(state, 8)
    down = state.pop("patch_embedding.lora_A.weight")
    without = lora.comfy_lora(state, 8)
    assert all(torch.equal(tensor, without[key]) for key, tensor in whole.items())
    with pytest.raises(ValueError, match="no identity"):
        lora.comfy_lora(state | {"patch_embedding.lora_A.weight": 2 * down}, 8)
    with pytest.raises(ValueError, match="lora_B.bias is no LoRA tensor"):
        lora.comfy_lora(state | {"blocks.0.attn1.to_q.lora_B.bias": torch.zeros(4)}, 8)
    with pytest.raises(ValueError, match="no patch embedding"):
        lora.comfy_lora({key: tensor for key, tensor in state.items() if "patch" not in key}, 8)


def saved_run(
    tmp_path: Path,
    model: wan.WanTransformer3DModel,
    mode: str,
    base: int = 16,
    alpha: float = 8.0,
    averages: bool = True,
) -> Path:
    """A run's output folder with one checkpoint, as the trainer writes it; its average is twice the weights."""
    optimizer = torch.optim.AdamW([parameter for parameter in model.parameters() if parameter.requires_grad])
    average = {name: 2 * weight.detach() for name, weight in trained_parameters(model).items() if averages}
    facts = {
        "mode": mode,
        "lora_alpha": alpha,
        "base_channels": base,
        METADATA_BLOCKS: format_schedule(wan.set_blocks(model)),
    }
    tensors, _ = collect_tensors(model, optimizer, average)
    save_state(tmp_path / "run", partial(write_tensors, tensors), facts, step=7, keep=1)
    return tmp_path / "run"


def test_a_run_of_the_trainer_exports_its_newest_full_model_or_its_average(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    model = wan.prepare_transformer(trained, "alternating")
    run = saved_run(tmp_path, model, "full")
    for factor, source, options in ((1, run, []), (2, run / "checkpoints" / "step_00000007", ["--ema"])):
        target = tmp_path / f"out{factor}.safetensors"
        assert export.main(["checkpoint", str(source), str(target), "--dtype", "float32", *options]) == 0
        assert ("held-out losses are of the average" in capsys.readouterr().err) == (not options)
        tensors = load_file(target)
        assert all(torch.equal(tensors[original_key(name)], factor * t) for name, t in model.state_dict().items())
        assert len(tensors) == len(model.state_dict())
        assert read_header(target)[1] == viewpoint_metadata((1,), 33)


def test_a_run_of_the_trainer_exports_its_lora_with_its_alpha(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    model = lora_model(tmp_path)
    run = saved_run(tmp_path, model, "lora")
    target = tmp_path / "out.safetensors"
    assert export.main(["lora", str(run), str(target), "--dtype", "float32"]) == 0
    wanted, tensors = lora.comfy_lora(lora.lora_state(model), 8), load_file(target)
    assert tensors.keys() == wanted.keys()
    assert all(torch.equal(tensors[key], tensor) for key, tensor in wanted.items())
    assert read_header(target)[1]["viewpoint.base_channels"] == "16"
    assert not capsys.readouterr().err.count("belongs on that checkpoint")
    refused(capsys, "mode lora; this exports what mode full trains", "checkpoint", run, tmp_path / "full.safetensors")


def test_a_lora_trained_on_a_viewpoint_model_is_said_to_belong_there(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    run = saved_run(tmp_path, lora_model(tmp_path), "lora", base=33)
    assert export.main(["lora", str(run), str(tmp_path / "out.safetensors")]) == 0
    assert "belongs on that checkpoint, not on a stock one" in capsys.readouterr().err


def test_a_lora_comes_back_at_an_alpha_that_float32_does_not_hold(tmp_path: Path) -> None:
    run, target = saved_run(tmp_path, lora_model(tmp_path, alpha=0.1), "lora", alpha=0.1), tmp_path / "out.safetensors"
    assert export.main(["lora", str(run), str(target), "--dtype", "float32"]) == 0
    assert read_header(target)[1]["viewpoint.lora_alpha"] == "0.1"
    other = wan.prepare_transformer(tmp_path / "stock.safetensors", "alternating")
    lora.add_lora(other, 4, 0.1)
    lora.load_comfy_lora(other, load_file(target))


def test_nothing_is_said_of_an_average_where_a_run_kept_none(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    run, target = saved_run(tmp_path, lora_model(tmp_path), "lora", averages=False), tmp_path / "out.safetensors"
    assert export.main(["lora", str(run), str(target)]) == 0
    assert "average" not in capsys.readouterr().err
    refused(capsys, "holds no average", "lora", run, target, "--ema", "--force")


def test_another_alpha_than_a_runs_own_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    run, target = saved_run(tmp_path, lora_model(tmp_path), "lora"), tmp_path / "out.safetensors"
    refused(capsys, "was trained with alpha 8, not 4", "lora", run, target, "--alpha", "4")
    assert export.main(["lora", str(run), str(target), "--alpha", "8"]) == 0


def test_a_lora_of_an_earlier_versions_run_is_exported_without_its_base(tmp_path: Path) -> None:
    run, target = saved_run(tmp_path, lora_model(tmp_path), "lora"), tmp_path / "out.safetensors"
    file = next(run.rglob("state.json"))
    facts = json.loads(file.read_text())
    del facts["base_channels"]
    file.write_text(json.dumps(facts))
    assert export.main(["lora", str(run), str(target)]) == 0
    assert "viewpoint.base_channels" not in read_header(target)[1]


def test_a_damaged_checkpoint_of_a_run_is_refused_by_name(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    run = saved_run(tmp_path, lora_model(tmp_path), "lora")
    shard = next(run.rglob("*.safetensors"))
    shard.write_bytes(shard.read_bytes()[:-100])
    refused(capsys, "step_00000007 is damaged", "lora", run, tmp_path / "out.safetensors")


def test_a_change_of_the_modulation_is_no_lora() -> None:
    with pytest.raises(ValueError, match="blocks.0.scale_shift_table is no LoRA tensor"):
        lora.comfy_lora({"blocks.0.scale_shift_table": torch.zeros(1)}, 8)


def test_a_written_file_is_read_back_whatever_the_mix_of_dtypes(tmp_path: Path) -> None:
    tensors = {
        "odd": torch.arange(3).to(torch.float8_e4m3fn),
        "half": torch.randn(3).bfloat16(),
        "scalar": torch.tensor(2.5),
        "sizes": torch.tensor([128, 33]),
        "transposed": torch.randn(4, 3).T,
        "empty": torch.zeros(0, 4),
    }
    for _ in write_safetensors({name: lazy(t) for name, t in tensors.items()}, {"a": "b"}, tmp_path / "x.safetensors"):
        pass
    read = load_file(tmp_path / "x.safetensors")
    assert read.keys() == tensors.keys()
    assert all(torch.equal(read[name].float(), tensor.float()) for name, tensor in tensors.items())
    assert all(read[name].dtype == tensor.dtype for name, tensor in tensors.items())
    with safe_open(tmp_path / "x.safetensors", "pt") as file:
        assert file.metadata() == {"a": "b"}


def test_a_full_disk_leaves_the_last_good_file_and_no_half_file(tmp_path: Path) -> None:
    target = tmp_path / "model.safetensors"
    target.write_bytes(b"the last good one")

    def full() -> torch.Tensor:
        raise OSError(errno.ENOSPC, "No space left on device")

    tensors = {"a": lazy(torch.zeros(4)), "b": LazyTensor((4,), torch.float32, full)}
    with pytest.raises(OSError, match="No space left"):
        list(write_safetensors(tensors, {}, target))
    assert target.read_bytes() == b"the last good one"
    assert list(tmp_path.iterdir()) == [target]


def test_an_export_that_is_given_up_leaves_nothing(trained: Path, tmp_path: Path) -> None:
    run = export.export_checkpoint(trained, tmp_path / "out.safetensors")
    next(run)
    run.close()
    assert list(tmp_path.iterdir()) == [trained]


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float32"])
def test_a_checkpoint_has_original_names_one_dtype_and_its_metadata(trained: Path, tmp_path: Path, dtype: str) -> None:
    target = tmp_path / "out.safetensors"
    assert export.main(["checkpoint", str(trained), str(target), "--dtype", dtype]) == 0
    tensors, source = load_file(target), load_file(trained)
    assert {name: tuple(t.shape) for name, t in tensors.items()} == dit_shapes(in_dim=33, blocks=2, ffn=64)
    assert {tensor.dtype for tensor in tensors.values()} == {getattr(torch, dtype)}
    assert all(torch.equal(tensor, source[name].to(tensor.dtype)) for name, tensor in tensors.items())
    with safe_open(target, "pt") as file:
        assert file.metadata() == viewpoint_metadata((1,), 33)


def test_live_weights_make_the_same_file_as_the_command_line(trained: Path, tmp_path: Path) -> None:
    state = wan.load_transformer(trained).state_dict()
    for _ in write_safetensors(
        export.checkpoint_tensors(state), viewpoint_metadata((1,), 33), tmp_path / "live.safetensors"
    ):
        pass
    export.main(["checkpoint", str(trained), str(tmp_path / "out.safetensors")])
    live, out = load_file(tmp_path / "live.safetensors"), load_file(tmp_path / "out.safetensors")
    assert live.keys() == out.keys()
    assert all(torch.equal(live[name], out[name]) for name in out)


def test_a_stock_model_becomes_a_diffusers_folder_without_a_schedule(tmp_path: Path) -> None:
    source = write_model(tmp_path / "stock.safetensors", 16)
    assert export.main(["diffusers", str(source), str(tmp_path / "folder")]) == 0
    assert METADATA_BLOCKS not in read_checkpoint(wan.transformer_source(tmp_path / "folder"))[1]
    again = wan.WanTransformer3DModel.from_pretrained(tmp_path / "folder").state_dict()
    assert all(torch.equal(again[name], t) for name, t in wan.load_transformer(source).state_dict().items())


def test_a_diffusers_folder_keeps_the_schedule_that_is_passed(tmp_path: Path) -> None:
    source = write_model(tmp_path / "silent.safetensors", 33)
    assert export.main(["diffusers", str(source), str(tmp_path / "folder"), "--schedule", "0"]) == 0
    assert read_checkpoint(wan.transformer_source(tmp_path / "folder"))[1] == viewpoint_metadata((0,), 33)


def test_bad_checkpoints_are_refused_in_words(trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    out, stock = tmp_path / "out.safetensors", write_model(tmp_path / "stock.safetensors", 16)
    silent = write_model(tmp_path / "silent.safetensors", 33)
    refused(capsys, "takes 16 channels; a ViewPoint model takes 33", "checkpoint", stock, out)
    refused(capsys, "pass --schedule", "checkpoint", silent, out)
    refused(capsys, "not 'pano'", "checkpoint", trained, out, "--schedule", "pano")
    refused(capsys, "does not exist", "checkpoint", tmp_path / "nothing", out)
    refused(capsys, "ends in .safetensors", "checkpoint", trained, tmp_path / "out.ckpt")
    refused(capsys, "replace it with --force", "checkpoint", trained, stock)
    refused(capsys, "has no average", "checkpoint", trained, out, "--ema")
    refused(capsys, "does not say its alpha", "lora", trained, out)
    refused(capsys, "is no LoRA tensor", "lora", trained, out, "--alpha", "4")
    assert not out.exists()


def test_force_replaces_the_target(trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    target = tmp_path / "out.safetensors"
    target.write_bytes(b"old")
    assert export.main(["checkpoint", str(trained), str(target), "--force"]) == 0
    assert len(load_file(target)) == len(load_file(trained))
    assert capsys.readouterr().out.splitlines()[-1] == str(target)


@pytest.mark.parametrize("cut", [lambda data: data[:-10], lambda data: data[:20], lambda data: b"pickle"])
def test_a_damaged_file_is_refused(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture, cut: Callable[[bytes], bytes]
) -> None:
    broken = tmp_path / "broken.safetensors"
    broken.write_bytes(cut(trained.read_bytes()))
    refused(capsys, "cut short", "checkpoint", broken, tmp_path / "out.safetensors")
