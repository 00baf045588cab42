"""Checks that need the host's modules in their own process: python checks.py HOST PACK prints {check: error or null}.

Run by tests/test_model_in_host.py, once for all checks.
"""

import dataclasses
import sys
import tempfile
from pathlib import Path
from typing import Any

host, pack = Path(sys.argv[1]), Path(sys.argv[2])
sys.argv = ["main.py", "--cpu"]
sys.path.insert(0, str(host))

import comfy.options  # noqa: E402

comfy.options.enable_args_parsing()

import comfy.ops  # noqa: E402
import comfy.sd  # noqa: E402
import torch  # noqa: E402
from comfy.ldm.wan.model import WanModel  # noqa: E402
from running import expect_error, load_pack, run_checks  # noqa: E402
from safetensors.torch import save_file  # noqa: E402

DIM, BLOCKS, GRID = 128, 4, (2, 4, 4)
LATENT = (1, 16, 2, 8, 8)
PROMPT = torch.zeros(1, 4, 4096)

load_pack(pack)
import pack.nodes.forward_pass as forward_pass  # noqa: E402
import pack.nodes.host as host_access  # noqa: E402
import pack.nodes.model as model_nodes  # noqa: E402
from pack.nodes import NODES  # noqa: E402
from pack.viewpoint_core.wan_attention import split_subregions, subregion_positions  # noqa: E402


def state_dict(in_dim: int) -> dict[str, torch.Tensor]:
    """Seeded random weights of a tiny Wan; with 33 channels the stock columns and zeros."""
    torch.manual_seed(0)
    wan = WanModel(
        in_dim=16,
        dim=DIM,
        ffn_dim=256,
        text_dim=4096,
        num_heads=1,
        num_layers=BLOCKS,
        operations=comfy.ops.disable_weight_init,
    )
    state = {name: 0.1 * torch.randn_like(weight) for name, weight in wan.state_dict().items()}
    patch = state["patch_embedding.weight"]
    state["patch_embedding.weight"] = torch.cat([patch, patch.new_zeros(DIM, in_dim - 16, 1, 2, 2)], dim=1)
    return state


def load(in_dim: int) -> Any:
    """A MODEL from that state dict, by the host's own loader."""
    return comfy.sd.load_diffusion_model_state_dict(state_dict(in_dim))


def run(model: Any, channels: int, frames: int = 2, partial: bool = False) -> torch.Tensor:
    """What the MODEL denoises of seeded noise, through its patches and wrappers; `partial` loads it as the host does
    when memory is low."""
    generator = torch.Generator().manual_seed(1)
    shape = (1, 33, frames, *LATENT[3:])
    x = torch.randn(shape, generator=generator)[:, :channels]
    text = torch.randn((1, 8, 4096), generator=generator)
    if partial:
        comfy.model_management.unload_all_models()
        model.patch_model(torch.device("cpu"), lowvram_model_memory=200_000)
        assert model.model.model_lowvram
    else:
        comfy.model_management.load_models_gpu([model])
    options = model.model_options["transformer_options"].copy()
    options["wrappers"] = {kind: dict(by_key) for kind, by_key in model.wrappers.items()}
    known = x[:, 16:] if channels > 16 else None
    model.pre_run()
    try:
        with torch.no_grad():
            return model.model.apply_model(x[:, :16], torch.tensor([0.5]), known, text, transformer_options=options)
    finally:
        model.cleanup()


def check_inflated_model_equals_the_stock_model() -> None:
    patched = model_nodes.patch_model(load(33), "pano")
    assert torch.equal(run(patched, 33), run(load(16), 16))


def check_perspective_changes_the_output() -> None:
    model = load(33)
    assert (run(model_nodes.patch_model(model, "alternating"), 33) - run(model, 33)).abs().max() > 1e-3


def check_a_perspective_block_equals_four_runs_of_the_stock_block() -> None:
    wan = load(33).model.diffusion_model
    torch.manual_seed(2)
    tokens, text = torch.randn(2, 32, DIM), torch.randn(2, 8, DIM)
    vec, pe = torch.randn(2, 1, 6, DIM), wan.rope_encode(2, 8, 8, device="cpu", dtype=torch.float32)

    def original(args: dict[str, Any]) -> dict[str, Any]:
        return {"img": wan.blocks[1](args["img"], e=args["vec"], freqs=args["pe"], context=args["txt"])}

    args = {
        "img": tokens,
        "txt": text,
        "vec": vec,
        "pe": pe,
        "transformer_options": {forward_pass.PASS: forward_pass.ForwardPass(GRID)},
    }
    with torch.no_grad():
        out = model_nodes.perspective_block(None)(args, {"original_block": original})["img"]
        grid = tokens.reshape(2, *GRID, DIM)
        for row in (0, 1):
            for column in (0, 1):
                part = (slice(None), slice(None), slice(2 * row, 2 * row + 2), slice(2 * column, 2 * column + 2))
                own = pe.reshape(1, *GRID, *pe.shape[2:])[part].reshape(1, 8, *pe.shape[2:])
                alone = original({"img": grid[part].reshape(2, 8, DIM), "vec": vec, "pe": own, "txt": text})["img"]
                assert (out.reshape(2, *GRID, DIM)[part].reshape(2, 8, DIM) - alone).abs().max() < 1e-5
    assert subregion_positions(pe, GRID).shape[1] == 8
    assert split_subregions(tokens, GRID).shape == (8, 8, DIM)


def check_patching_leaves_the_model_as_it_was() -> None:
    model = load(33)
    before = run(model, 33)
    weights = {name: weight.clone() for name, weight in model.model.state_dict().items()}
    patched = model_nodes.patch_model(model, "alternating")
    run(patched, 33)
    patched.detach()
    assert torch.equal(run(model, 33), before)
    assert all(torch.equal(weight, weights[name]) for name, weight in model.model.state_dict().items())
    assert not model_nodes.is_patched(model)
    assert model.wrappers == {}


def check_an_existing_block_replacement_is_chained() -> None:
    model, seen = load(33).clone(), []

    def spy(args: dict[str, Any], extra: dict[str, Any]) -> dict[str, Any]:
        seen.append(args["img"].shape)
        return extra["original_block"](args)

    model.set_model_patch_replace(spy, "dit", "double_block", 1)
    run(model_nodes.patch_model(model, "alternating"), 33)
    assert seen == 4 * [(1, 8, DIM)]


def check_patching_twice_is_refused() -> None:
    expect_error(lambda: model_nodes.patch_model(model_nodes.patch_model(load(33), "pano"), "pano"), "already")


def check_a_16_channel_model_is_refused_with_the_way_out() -> None:
    cond = {"noise_concat": torch.zeros(1, 17, *LATENT[2:]), "cross_attn": PROMPT}
    conds = {"positive": [cond], "negative": [cond]}
    expect_error(lambda: model_nodes.check_sampling(load(16), conds, torch.zeros(LATENT)), "viewpoint_core.inflate")
    model_nodes.check_sampling(load(33), conds, torch.zeros(LATENT))


def check_a_lora_that_widens_the_patch_embedding_counts() -> None:
    from pack.nodes.host import input_channels

    lora = {
        "diffusion_model.patch_embedding.lora_up.weight": torch.zeros(DIM, 132),
        "diffusion_model.patch_embedding.lora_down.weight": torch.zeros(132, 33, 1, 2, 2),
        "diffusion_model.patch_embedding.alpha": torch.tensor(132.0),
        "diffusion_model.patch_embedding.reshape_weight": torch.tensor([DIM, 33, 1, 2, 2]),
    }
    model = load(16)
    assert input_channels(model) == 16
    assert input_channels(comfy.sd.load_lora_for_models(model, None, lora, 1.0, 0.0)[0]) == 33


def check_adapters_of_other_kinds_widen_nothing() -> None:
    from pack.nodes.host import input_channels

    name, width = "diffusion_model.patch_embedding", 16 * 4
    lokr = {
        f"{name}.lokr_w1": torch.zeros(4, 4),
        f"{name}.lokr_w2_a": torch.zeros(DIM // 4, 2),
        f"{name}.lokr_w2_b": torch.zeros(2, width // 4),
    }
    loha = {f"{name}.hada_w{part}": torch.zeros(DIM, 2) for part in ("1_a", "2_a")}
    loha |= {f"{name}.hada_w{part}": torch.zeros(2, width) for part in ("1_b", "2_b")}
    loha |= {f"{name}.hada_t{part}": torch.zeros(2, 2, 1, 2) for part in (1, 2)}
    for adapter in (lokr, loha):
        patched = comfy.sd.load_lora_for_models(load(16), None, adapter, 1.0, 0.0)[0]
        assert len(patched.patches) == 1
        assert input_channels(patched) == 16


def random_widening_lora() -> dict[str, torch.Tensor]:
    """A LoRA that widens the patch embedding to 33 channels, with weights that matter."""
    generator = torch.Generator().manual_seed(3)
    return {
        "diffusion_model.patch_embedding.lora_up.weight": 0.1 * torch.randn(DIM, 132, generator=generator),
        "diffusion_model.patch_embedding.lora_down.weight": torch.eye(132).reshape(132, 33, 1, 2, 2),
        "diffusion_model.patch_embedding.alpha": torch.tensor(132.0),
        "diffusion_model.patch_embedding.reshape_weight": torch.tensor([DIM, 33, 1, 2, 2]),
        "diffusion_model.blocks.1.self_attn.q.lora_A.weight": 0.1 * torch.randn(4, DIM, generator=generator),
        "diffusion_model.blocks.1.self_attn.q.lora_B.weight": 0.1 * torch.randn(DIM, 4, generator=generator),
    }


def check_low_vram_loading_gives_what_full_loading_gives() -> None:
    inflated = load(33)
    widened = comfy.sd.load_lora_for_models(load(16), None, random_widening_lora(), 1.0, 0.0)[0]
    outputs = []
    for model in (inflated, widened):
        patched = model_nodes.patch_model(model, "alternating")
        full = run(patched, 33)
        patched.detach()
        assert (run(patched, 33, partial=True) - full).abs().max() < 1e-5
        outputs.append(full)
    assert (outputs[0] - outputs[1]).abs().max() > 1e-3


def check_images_that_are_no_rgb_video_are_refused_by_name() -> None:
    from pack.nodes.convert import image_to_frames, mask_to_frames

    broken = torch.zeros(2, 8, 16, 3)
    broken[1, 2, 3, 0] = float("nan")
    for image, words in (
        (torch.zeros(0, 8, 16, 3), "erp: the batch is empty (0, 8, 16, 3)"),
        (torch.zeros(2, 8, 16, 1), "erp: got 1 channel(s), expected RGB"),
        (torch.zeros(2, 8, 16, 4), "Split Image with Alpha"),
        (torch.zeros(8, 16, 3), "expected an IMAGE"),
        (broken, "erp: 1 of 768 values are NaN or infinite"),
        (broken.nan_to_num(nan=float("-inf")), "1 of 768"),
    ):
        expect_error(lambda image=image: image_to_frames(image, "erp"), words)
    for mask, words in (
        (torch.zeros(3, 8, 8), "a video of 2 frames"),
        (torch.zeros(1, 4, 8), "or one for all of them"),
        (torch.zeros(1, 64, 64), "nothing is painted in the mask editor"),
        (1 - torch.zeros(64, 64), "nothing is painted in the mask editor"),  # behind Invert Mask
        (torch.zeros(2, 8, 9), "8 x 8"),
        (torch.full((2, 8, 8), float("inf")), "NaN or infinite"),
        (torch.full((2, 8, 8), 2.0), "expected [0, 1]"),
    ):
        expect_error(lambda mask=mask: mask_to_frames(mask, "mask", 2, 8, 8), words)


def check_one_mask_stands_for_all_frames_without_a_copy() -> None:
    from pack.nodes.compose import ViewPointCompose
    from pack.nodes.convert import mask_to_frames
    from pack.nodes.projection import ViewPointFromERP

    mask = torch.zeros(1, 64, 128)
    mask[:, :, :64] = 1
    frames = mask_to_frames(mask, "mask", 3, 64, 128)
    assert frames.shape == (3, 64, 128)
    assert frames.data_ptr() == mask.data_ptr()
    generator = torch.Generator().manual_seed(7)
    erp = torch.rand(3, 64, 128, 3, generator=generator)
    viewpoint, known = ViewPointFromERP.execute(erp, 64, "bilinear", mask).args
    for one, each in zip((viewpoint, known), ViewPointFromERP.execute(erp, 64, "bilinear", frames).args, strict=True):
        assert torch.equal(one, each)
    whole = known[:1].clone()
    composed = [ViewPointCompose.execute(viewpoint, known, 1 - viewpoint, upper, 4.0).args for upper in (whole, known)]
    assert all(torch.equal(one, each) for one, each in zip(*composed, strict=True))
    assert torch.equal(whole, known[:1])


def check_a_preview_leaves_out_what_its_file_cannot_hold() -> None:
    from fractions import Fraction
    from types import SimpleNamespace

    from pack.nodes.preview import frames_and_sound

    def video(rate: int, channels: int) -> SimpleNamespace:
        audio = {"waveform": torch.zeros(1, channels, 100), "sample_rate": 8000}
        images = torch.arange(9).view(9, 1, 1, 1).expand(9, 32, 64, 3) / 9
        parts = SimpleNamespace(images=images, frame_rate=Fraction(rate), audio=audio)
        return SimpleNamespace(get_components=lambda: parts)

    frames, fps, audio, note = frames_and_sound(video(30, 2), 16.0)
    assert (len(frames), fps, audio is None, note) == (9, 30, False, "")
    for channels in (4, 8):
        frames, fps, audio, note = frames_and_sound(video(30, channels), 16.0)
        assert (len(frames), fps, audio) == (9, 30, None)
        assert f"without sound: audio: got {channels} channels" in note
    frames, fps, audio, note = frames_and_sound(video(480, 2), 16.0)
    assert (fps, audio is None) == (240, False)
    assert (frames[:, 0, 0, 0] * 9).round().tolist() == [0, 2, 4, 6, 8]
    assert "480 frames per second" in note


def check_linked_names_are_left_to_execute() -> None:
    from pack.nodes.clip import ViewPointLoadClip
    from pack.nodes.text_embedding import ViewPointLoadTextEmbedding

    assert ViewPointLoadTextEmbedding.validate_inputs(None) is True
    assert ViewPointLoadClip.validate_inputs(None, 5) is True
    assert ViewPointLoadClip.fingerprint_inputs(None, length=5) != ViewPointLoadClip.fingerprint_inputs(None, length=5)
    expect_error(lambda: ViewPointLoadTextEmbedding.execute("/etc/passwd"), "inside ComfyUI's input, output or temp")
    expect_error(lambda: ViewPointLoadClip.execute("a.mp4", 0.0, 5, 0.0, 0), "fps 0.0")


def check_metadata_of_the_checkpoint_wins_over_the_schedule_input() -> None:
    model = load(33)
    model.model.model_config.metadata = {"viewpoint.perspective_blocks": "0,2"}
    assert model_nodes.patch_model(model, "alternating").model_options["transformer_options"][model_nodes.KEY] == (0, 2)


def check_metadata_is_read_from_the_file_that_a_newer_host_names() -> None:
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "viewpoint.safetensors"
        save_file(state_dict(33), file, metadata={"viewpoint.perspective_blocks": "0,2"})
        model = comfy.sd.load_diffusion_model(str(file))
        model.cached_patcher_init = (comfy.sd.load_diffusion_model, (str(file), {}))
        assert model_nodes.patch_model(model, "pano").model_options["transformer_options"][model_nodes.KEY] == (0, 2)


def check_unknown_pixels_do_not_bleed_into_known_ones() -> None:
    from pack.nodes.projection import ViewPointFromERP

    erp, mask = torch.ones(1, 64, 128, 3), torch.zeros(1, 64, 128)
    erp[:, :, 32:96], mask[:, :, 32:96] = 0.25, 1
    viewpoint, known = ViewPointFromERP.execute(erp, 128, "bicubic", mask).args
    assert (known == 1).sum() > 1000
    assert float((viewpoint[known == 1] - 0.25).abs().max()) < 1e-5
    assert bool((viewpoint[known == 0] == 0.5).all())


def check_a_model_that_is_not_wan_is_refused() -> None:
    model = load(33)
    model.model.model_config.unet_config["image_model"] = "flux"
    expect_error(lambda: model_nodes.patch_model(model, "pano"), "Wan2.1")


def check_extra_tokens_are_refused() -> None:
    args = {"img": torch.zeros(1, 40, DIM), "transformer_options": {forward_pass.PASS: forward_pass.ForwardPass(GRID)}}
    expect_error(lambda: model_nodes.perspective_block(None)(args, {}), "reference")


def check_known_channels_are_cut_to_the_context_window() -> None:
    class Window:
        index_list = [1, 2]

    got = []
    known = torch.arange(4.0).reshape(1, 1, 4, 1, 1)
    noisy = torch.zeros(1, 16, 2, 8, 8)
    options = {"context_window": Window}
    model_nodes.window_known(lambda x, t, c, *rest: got.append(c), noisy, None, known, transformer_options=options)
    assert got[0].flatten().tolist() == [1.0, 2.0]


def check_every_node_gives_search_words_to_a_host_that_knows_them() -> None:
    schema_class = host_access.io.Schema

    @dataclasses.dataclass
    class NewerSchema(schema_class):
        search_aliases: list[str] = dataclasses.field(default_factory=list)

    host_access.io.Schema = NewerSchema
    try:
        words = {schema.node_id: schema.search_aliases for schema in (node.define_schema() for node in NODES)}
    finally:
        host_access.io.Schema = schema_class
    assert {node: len(found) for node, found in words.items() if not 3 <= len(set(found)) <= 6} == {}


def check_all_nodes_of_a_clip_end_at_the_same_length_and_rate() -> None:
    limits = {"length": set(), "fps": set()}
    for node in NODES:
        schema = node.define_schema()
        for entry in schema.inputs:
            if entry.id in limits and "CameraPath" not in schema.node_id:  # a path goes along panoramas of any length
                limits[entry.id].add(entry.max)
    assert limits == {"length": {4097}, "fps": {240}}


def check_a_schema_leaves_out_what_the_host_does_not_know() -> None:
    schema = host_access.node_schema(node_id="Here", description="kept", no_such_field=1)
    assert (schema.node_id, schema.description) == ("Here", "kept")
    assert not hasattr(schema, "no_such_field")


if __name__ == "__main__":
    run_checks(dict(globals()))
