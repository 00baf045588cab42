"""What the trainer exports, through the host's own loader nodes: python exports.py HOST PACK WORK, as in parity.py."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any

from parity import (
    BLOCKS,
    SIZES,
    comfy,
    host_output,
    inputs,
    model_nodes,
    relative,
    torch,
    trainer_output,
    wan,
    work,
    write_transformer,
)
from running import expect_error, run_checks

# isort: split
# found once parity has put the host and the pack on the path
import folder_paths
from pack.nodes.host import input_channels
from pack.viewpoint_core import export
from pack.viewpoint_core.checkpoint import read_checkpoint, schedule_from_metadata
from pack.viewpoint_core.safetensors_file import read_header
from pack.viewpoint_core.training import lora
from pack.viewpoint_core.training.weights import lazy, write_safetensors

import nodes as host_nodes

SCHEDULE = "alternating"
LOADS = {"full": 0, "partial": 0.5, "lowest": 1e-9}  # part of the model that may lie on the device; 0: no bound
TROUBLE = ("not loaded", "left over", "missing", "mismatch", "error", "failed", "warning")
CASES = ((SIZES[1], 17.3), (SIZES[2], 987.3))
STOCK = "stock16.safetensors"

for kind in ("diffusion_models", "loras"):
    (work / kind).mkdir(parents=True, exist_ok=True)
    folder_paths.add_model_folder_path(kind, str(work / kind))


class Listener(logging.Handler):
    """Keeps what is logged."""

    def __init__(self) -> None:
        super().__init__()
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        """Keep a line."""
        self.lines.append(f"{record.levelname} {record.getMessage()}")


@contextmanager
def quiet_log() -> Iterator[None]:
    """The host logs, and none of it is trouble."""
    listener, root = Listener(), logging.getLogger()
    root.setLevel(logging.INFO)
    root.addHandler(listener)
    try:
        yield
    finally:
        root.removeHandler(listener)
    assert any("loaded" in line for line in listener.lines), listener.lines
    trouble = [line for line in listener.lines if any(word in line.lower() for word in TROUBLE)]
    assert not trouble, trouble


def export_file(*arguments: str | Path) -> None:
    """Run the command line."""
    assert export.main([str(argument) for argument in arguments]) == 0


def changed(model: Any, seed: int) -> Any:
    """The model after a pretended training: every parameter that trains has moved."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter += 0.03 * torch.randn(parameter.shape, generator=generator)
    return model


@torch.no_grad()
def rounded(model: Any, dtype: str, part: str = "") -> Any:
    """The model with its parameters, or those with `part` in their names, as a file of this dtype has them."""
    for name, parameter in model.named_parameters():
        if part in name:
            parameter.copy_(parameter.to(getattr(torch, dtype)))
    return model


def trained_model() -> Any:
    """A fully fine-tuned model that began as a stock one."""
    return changed(wan.prepare_transformer(write_transformer(STOCK, 16), SCHEDULE), 11)


def trained_lora() -> Any:
    """A model with a LoRA, its stock part unchanged."""
    model = wan.prepare_transformer(write_transformer(STOCK, 16), SCHEDULE)
    torch.manual_seed(12)
    lora.add_lora(model, rank=4, alpha=6.0)
    return changed(model, 13)


@lru_cache(None)
def exported_model(dtype: str) -> tuple[Any, str]:
    """The trainer's model and the name of the file that the command line made of its diffusers folder."""
    model, name = trained_model(), f"trained_{dtype}.safetensors"
    model.save_pretrained(work / "trained")
    target = work / "diffusion_models" / name
    export_file("checkpoint", work / "trained", target, "--dtype", dtype, "--schedule", SCHEDULE)
    return rounded(model, dtype), name


@lru_cache(None)
def exported_lora(dtype: str) -> tuple[Any, str]:
    """The trainer's model with its LoRA and the name of the LoRA's file."""
    model, name = trained_lora(), f"lora_{dtype}.safetensors"
    source = work / "trained_lora.safetensors"
    metadata = export.lora_metadata(wan.set_blocks(model), 33, 6.0)
    for _ in write_safetensors({key: lazy(value) for key, value in lora.lora_state(model).items()}, metadata, source):
        pass
    export_file("lora", source, work / "loras" / name, "--dtype", dtype)
    return rounded(model, dtype, ".lora_"), name


def load_unet(name: str) -> Any:
    """The host's node "Load Diffusion Model"."""
    return host_nodes.UNETLoader().load_unet(name, "default")[0]


def load_lora(model: Any, name: str, strength: float) -> Any:
    """The host's node "LoraLoaderModelOnly"."""
    return host_nodes.LoraLoaderModelOnly().load_lora_model_only(model, name, strength)[0]


def bring(model: Any, load: str) -> None:
    """Load a MODEL fully, or so that what does not fit stays behind and is patched and cast whenever it is used."""
    comfy.model_management.unload_all_models()
    if load == "full":
        comfy.model_management.load_models_gpu([model])
        return
    model.patch_model(torch.device("cpu"), lowvram_model_memory=max(1, int(model.model_size() * LOADS[load])))
    behind = [hasattr(module, "prev_comfy_cast_weights") for module in model.model.modules()]
    assert model.model.model_lowvram
    assert any(behind)
    if load == "lowest":
        assert hasattr(model.model.diffusion_model.patch_embedding, "prev_comfy_cast_weights")


def compare(ours: Any, theirs: Any, load: str) -> None:
    """The host gives the trainer's own output."""
    bring(theirs, load)
    for size, timestep in CASES:
        arguments = inputs(33, size, timestep)
        error = relative(host_output(theirs, *arguments), trainer_output(ours, *arguments))
        assert error <= 1e-4, (load, size, timestep, error)
    if load != "full":
        theirs.unpatch_model(torch.device("cpu"))


def compare_checkpoint(dtype: str) -> None:
    """Full model: at both ways of loading, with a log that has nothing to say."""
    ours, name = exported_model(dtype)
    for load in LOADS:
        with quiet_log():
            compare(ours, model_nodes.patch_model(load_unet(name), SCHEDULE), load)


def compare_lora(dtype: str) -> None:
    """LoRA on a stock 16-channel file: at both ways of loading, with a log that has nothing to say."""
    ours, name = exported_lora(dtype)
    for load in LOADS:
        with quiet_log():
            theirs = load_lora(load_unet(STOCK), name, 1.0)
            assert input_channels(theirs) == 33
            compare(ours, model_nodes.patch_model(theirs, SCHEDULE), load)


def check_checkpoint_in_float32() -> None:
    compare_checkpoint("float32")


def check_checkpoint_in_bfloat16() -> None:
    compare_checkpoint("bfloat16")


def check_lora_in_float32() -> None:
    compare_lora("float32")


def check_lora_in_bfloat16() -> None:
    compare_lora("bfloat16")


def check_lora_changes_the_model_that_it_widens() -> None:
    ours, _ = exported_lora("float32")
    stock = wan.prepare_transformer(work / "diffusion_models" / STOCK, SCHEDULE)
    arguments = inputs(33, *CASES[0])
    assert relative(trainer_output(stock, *arguments), trainer_output(ours, *arguments)) > 1e-2


def check_lora_at_half_strength_is_half_the_change() -> None:
    ours, name = exported_lora("float32")
    state = {key: value for key, value in ours.named_parameters() if ".lora_B." in key}
    with torch.no_grad():
        for value in state.values():
            value *= 0.5
        try:
            theirs = load_lora(load_unet(STOCK), name, 0.5)
            compare(ours, model_nodes.patch_model(theirs, SCHEDULE), "full")
        finally:
            for value in state.values():
                value *= 2


def check_lora_at_strength_0_leaves_the_stock_model_and_is_refused_in_words() -> None:
    _, name = exported_lora("float32")
    stock = load_unet(STOCK)
    theirs = load_lora(stock, name, 0.0)
    assert theirs is stock
    assert input_channels(theirs) == 16
    cond = {"noise_concat": torch.zeros(1, 17, 2, 8, 8)}
    conds, latent = {"positive": [cond]}, torch.zeros(1, 16, 2, 8, 8)
    expect_error(lambda: model_nodes.check_sampling(theirs, conds, latent), "strength other than 0")


def check_lora_at_strength_0_by_another_loader_is_the_widened_stock_model() -> None:
    _, name = exported_lora("float32")
    file = comfy.utils.load_torch_file(str(work / "loras" / name))
    ours = wan.prepare_transformer(work / "diffusion_models" / STOCK, SCHEDULE)
    for load in LOADS:
        with quiet_log():
            theirs, _ = comfy.sd.load_lora_for_models(load_unet(STOCK), None, file, 0.0, 0.0)
            compare(ours, model_nodes.patch_model(theirs, SCHEDULE), load)


def check_a_comfyui_file_becomes_a_diffusers_folder_and_back() -> None:
    ours, name = exported_model("float32")
    source = work / "diffusion_models" / name
    export_file("diffusers", source, work / "again")
    stored = read_checkpoint(wan.transformer_source(work / "again"))
    assert schedule_from_metadata(stored[1]) == "1,3"
    again = wan.prepare_transformer(work / "again", SCHEDULE)
    arguments = inputs(33, *CASES[0])
    assert torch.equal(trainer_output(again, *arguments), trainer_output(ours, *arguments))
    back = work / "back.safetensors"
    export_file("checkpoint", work / "again", back, "--dtype", "keep")
    assert read_header(back)[1] == read_header(source)[1]
    first, second = (comfy.utils.load_torch_file(str(path)) for path in (source, back))
    assert first.keys() == second.keys()
    assert all(torch.equal(first[key], second[key]) for key in first)


def check_the_metadata_says_what_was_trained() -> None:
    for folder, name in (("diffusion_models", exported_model("bfloat16")[1]), ("loras", exported_lora("bfloat16")[1])):
        metadata = read_header(work / folder / name)[1]
        assert metadata["viewpoint.perspective_blocks"] == ",".join(str(i) for i in range(1, BLOCKS, 2))
        assert metadata["viewpoint.in_dim"] == "33"


if __name__ == "__main__":
    run_checks(dict(globals()))
