"""Checks that need the host's modules in their own process: python checks.py HOST PACK prints {check: error or null}.

Run by tests/test_model_in_host.py, once for all checks.
"""

import dataclasses
import os
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

load_pack(pack)
import pack.nodes.forward_pass as forward_pass  # noqa: E402
import pack.nodes.host as host_access  # noqa: E402
import pack.nodes.host_files as host_files  # noqa: E402
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


def check_an_embedding_with_more_than_the_prompt_is_not_saved_in_part() -> None:
    from pack.nodes.text_embedding import ViewPointSaveTextEmbedding

    conditioning = [[torch.zeros(1, 512, 4096), {"pooled_output": None, "noise_concat": torch.zeros(1)}]]
    expect_error(lambda: ViewPointSaveTextEmbedding.execute(conditioning, "x"), "noise_concat")


def check_an_embedding_of_another_encoder_is_neither_saved_nor_loaded() -> None:
    from pack.nodes.text_embedding import ViewPointSaveTextEmbedding, read_embedding, write_embedding

    with tempfile.TemporaryDirectory() as work:
        for shape, words in (
            ((1, 5, 768), "got an embedding (1, 5, 768); expected (batch, tokens, 4096)"),
            ((2, 5, 4096), "got a batch of 2 prompts (2, 5, 4096); expected one"),
            ((5, 4096), "got an embedding (5, 4096); expected (batch, tokens, 4096)"),
        ):
            expect_error(
                lambda shape=shape: ViewPointSaveTextEmbedding.execute([[torch.zeros(shape), {}]], "x"),
                f"conditioning: {words}",
            )
            file = Path(work) / "other.safetensors"
            write_embedding(torch.zeros(shape), file)
            expect_error(lambda file=file: read_embedding(file), f"other.safetensors: {words}")


def check_saved_prompts_are_listed_with_their_subfolders_and_one_saved_elsewhere_says_so() -> None:
    from pack.nodes.text_embedding import ViewPointSaveTextEmbedding, listed_embeddings

    paths = host_files.folder_paths
    before = paths.get_input_directory(), paths.get_output_directory()
    with tempfile.TemporaryDirectory() as work:
        (Path(work) / "input").mkdir()
        paths.set_input_directory(str(Path(work) / "input"))
        paths.set_output_directory(str(Path(work) / "output"))
        try:
            said = {}
            for prefix in ("text_embeddings/a", "text_embeddings/2026/may/b", "text_embeddings2/c", "d"):
                saved = ViewPointSaveTextEmbedding.execute([[torch.zeros(1, 2, 4096), {}]], prefix)
                name, *more = saved.ui["text"]
                assert name == f"{prefix}_00001_.safetensors"
                said[prefix] = " ".join(more)
            listed = listed_embeddings()
            chosen = [host_files.chosen_file(name, {".safetensors"}).name for name in listed]
        finally:
            paths.set_input_directory(before[0])
            paths.set_output_directory(before[1])
    names = ("text_embeddings/2026/may/b", "text_embeddings/a")
    assert listed == [f"{name}_00001_.safetensors [output]" for name in names]
    assert chosen == ["b_00001_.safetensors", "a_00001_.safetensors"]
    assert [prefix for prefix, more in said.items() if "copy the file" in more] == ["text_embeddings2/c", "d"]


def check_a_saved_prompt_is_on_the_disk_before_it_has_its_name() -> None:
    from pack.nodes.text_embedding import ViewPointSaveTextEmbedding

    paths, flush, flushed = host_files.folder_paths, os.fsync, []
    before = paths.get_output_directory()
    with tempfile.TemporaryDirectory() as work:

        def note(number: int) -> None:
            flushed.append(list(Path(work).glob("*.safetensors")))
            flush(number)

        os.fsync = note
        paths.set_output_directory(work)
        try:
            ViewPointSaveTextEmbedding.execute([[torch.zeros(1, 2, 4096), {}]], "a")
        finally:
            os.fsync = flush
            paths.set_output_directory(before)
        assert (flushed, [path.name for path in Path(work).iterdir()]) == ([[]], ["a_00001_.safetensors"])


def check_a_number_that_is_taken_while_a_file_is_made_stays_with_the_other_file() -> None:
    paths = host_files.folder_paths
    before = paths.get_output_directory()
    with tempfile.TemporaryDirectory() as work:
        paths.set_output_directory(work)
        try:
            with host_files.new_file("a", ".mp4") as file:
                file.partial.write_text("this ComfyUI's")
                other = file.path
                other.write_text("another ComfyUI's")
        finally:
            paths.set_output_directory(before)
        assert (file.path.name, file.path.read_text()) == ("a_00002_.mp4", "this ComfyUI's")
        assert (other.name, other.read_text()) == ("a_00001_.mp4", "another ComfyUI's")
        assert len(list(Path(work).iterdir())) == 2


def check_files_may_be_links_that_lead_out_of_the_folder_but_names_may_not() -> None:
    with tempfile.TemporaryDirectory() as work:
        inside, outside = Path(work) / "input", Path(work) / "elsewhere"
        inside.mkdir()
        outside.mkdir()
        (outside / "real.mp4").write_bytes(b"video")
        (inside / "clip.mp4").symlink_to(outside / "real.mp4")
        (inside / "far.mp4").symlink_to("x" * 300)  # what stat fails at, as at a mount that is gone
        before = host_files.folder_paths.get_input_directory()
        host_files.folder_paths.set_input_directory(str(inside))
        try:
            assert host_files.listed_files("input", {".mp4"}) == ["clip.mp4"]
            assert host_files.chosen_file("clip.mp4", {".mp4"}).read_bytes() == b"video"
            expect_error(lambda: host_files.chosen_file("far.mp4", {".mp4"}), "'far.mp4' is not in ComfyUI's input")
            for name in ("../elsewhere/real.mp4", str(outside / "real.mp4"), "a/../../elsewhere/real.mp4"):
                expect_error(lambda name=name: host_files.chosen_file(name, {".mp4"}), "input, output or temp folder")
        finally:
            host_files.folder_paths.set_input_directory(before)


def check_file_names_say_their_folder_as_the_hosts_loaders_read_them() -> None:
    paths = host_files.folder_paths
    kinds = ("input", "output", "temp")
    before = [getattr(paths, f"get_{kind}_directory")() for kind in kinds]
    with tempfile.TemporaryDirectory() as work:
        try:
            for kind in kinds:
                (Path(work) / kind).mkdir()
                (Path(work) / kind / "a.mp4").write_text(kind)
                getattr(paths, f"set_{kind}_directory")(str(Path(work) / kind))
            for name, kind in (("a.mp4", "input"), *((f"a.mp4 [{kind}]", kind) for kind in kinds)):
                assert host_files.chosen_file(name, {".mp4"}).read_text() == kind
                assert os.path.samefile(paths.get_annotated_filepath(name), host_files.chosen_file(name, {".mp4"}))
            for name in ("../input/a.mp4 [temp]", f"{work}/input/a.mp4 [output]"):
                expect_error(lambda name=name: host_files.chosen_file(name, {".mp4"}), "input, output or temp folder")
            expect_error(lambda: host_files.chosen_file("b.mp4 [temp]", {".mp4"}), "is not in ComfyUI's temp folder")
        finally:
            for kind, path in zip(kinds, before, strict=True):
                getattr(paths, f"set_{kind}_directory")(path)


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


def check_conditioning_from_elsewhere_and_other_sizes_are_refused() -> None:
    latent = torch.zeros(LATENT)
    expect_error(lambda: model_nodes.check_sampling(load(33), {"positive": [{}]}, latent), "ViewPointConditioning")
    other = {"positive": [{"noise_concat": torch.zeros(1, 17, 3, 8, 8)}]}
    expect_error(lambda: model_nodes.check_sampling(load(33), other, latent), "(2, 8, 8)")


PROMPT = torch.zeros(1, 4, 4096)
OTHER_PROMPTS = (None, torch.zeros(1, 77, 768), torch.zeros(4, 4096), torch.zeros(1, 0, 4096), PROMPT / 0)


def check_prompts_of_another_text_encoder_are_refused_before_the_vae_runs() -> None:
    from pack.nodes.conditioning import ViewPointConditioning

    for prompt in OTHER_PROMPTS:
        for name, prompts in {"positive": (prompt, PROMPT), "negative": (PROMPT, prompt)}.items():
            both = [[[embedding, {}]] for embedding in prompts]
            # an object that encodes nothing stands for the VAE
            expect_error(lambda both=both: ViewPointConditioning.execute(*both, object(), 64, 1), f"{name}: ")


def check_masks_of_other_types_are_taken_as_they_are_meant_or_refused() -> None:
    from pack.nodes.convert import mask_to_frames

    mask = torch.tensor([[[True, False], [False, True]]])
    assert torch.equal(mask_to_frames(mask, "mask", 3, 2, 2), mask.float().expand(3, -1, -1))
    expect_error(lambda: mask_to_frames(mask.byte(), "mask", 1, 2, 2), "got a mask of torch.uint8; expected floats")


def check_noise_levels_that_are_no_numbers_end_in_an_error_not_in_a_latent_of_nan() -> None:
    """The host's kl_optimal divides by the number of steps less one."""
    from pack.nodes.sampling import ViewPointSampler

    prompt = [[PROMPT, {"noise_concat": torch.zeros(1, 17, *LATENT[2:])}]]
    values = {"seed": 0, "steps": 1, "cfg": 1.0, "sampler_name": "euler", "scheduler": "kl_optimal", "denoise": 1.0}
    latent = {"samples": torch.zeros(LATENT)}
    expect_error(
        lambda: ViewPointSampler.execute(load(33), prompt, prompt, latent, "alternating", 5.0, **values),
        "what euler with scheduler kl_optimal made in 1 step(s): ",
    )


def check_what_does_not_fit_on_a_map_is_refused_before_sampling() -> None:
    model, latent = load(33), torch.zeros(LATENT)
    good = {"noise_concat": torch.zeros(1, 17, *LATENT[2:]), "cross_attn": PROMPT, "set_area_to_bounds": False}
    model_nodes.check_sampling(model, {"positive": [good], "negative": [good]}, latent)
    bounds = {"positive": [good | {"set_area_to_bounds": True}]}
    expect_error(lambda: model_nodes.check_sampling(model, bounds, latent), "carries set_area_to_bounds")
    for prompt in OTHER_PROMPTS:
        conds = {"positive": [good], "negative": [good | {"cross_attn": prompt}]}
        expect_error(
            lambda conds=conds: model_nodes.check_sampling(model, conds, latent), "the negative conditioning: "
        )
    for key in ("reference_latents", "time_dim_concat", "concat_latent_image", "clip_vision_output", "area"):
        conds = {"positive": [good | {key: [torch.zeros(LATENT)]}], "negative": [good]}
        expect_error(lambda conds=conds: model_nodes.check_sampling(model, conds, latent), f"carries {key}")
    expect_error(lambda: model_nodes.check_sampling(model, {"positive": [good], "middle": [{}]}, latent), "the middle")
    broken = latent.clone()
    broken[0, 0, 0, 0, 0] = float("nan")
    expect_error(lambda: model_nodes.check_sampling(model, {"positive": [good]}, broken), "latent: 1 of")
    expect_error(lambda: model_nodes.check_sampling(model, {"positive": [good]}, latent[:, :4]), "expected (batch, 16")


def check_a_perspective_block_that_another_node_replaced_is_refused() -> None:
    patched = model_nodes.patch_model(load(33), "alternating")
    model_nodes.check_blocks(patched)
    other = patched.clone()
    other.set_model_patch_replace(lambda args, extra: extra["original_block"](args), "dit", "double_block", 3)
    expect_error(lambda: model_nodes.check_blocks(other), "the blocks 3 after ViewPointPatchModel")
    model_nodes.check_blocks(patched)


def check_the_samplers_schedule_must_agree_with_a_patched_model() -> None:
    patched = model_nodes.patch_model(load(33), "pano")
    model_nodes.check_schedule(patched, "alternating")
    model_nodes.check_schedule(patched, "pano")
    expect_error(lambda: model_nodes.check_schedule(patched, "perspective"), "patched the blocks pano")
    expect_error(lambda: model_nodes.check_schedule(patched, "garbage"), "garbage")


def check_a_vae_of_the_same_shape_but_another_kind_is_refused() -> None:
    from comfy.ldm.models.autoencoder import AutoencoderKL
    from comfy.utils import load_torch_file

    file = pack / "workflows" / "assets" / "models" / "vae" / "viewpoint_tiny_vae.safetensors"
    vae = comfy.sd.VAE(sd=load_torch_file(str(file)))
    host_access.check_video_vae(vae)
    sizes = {"double_z": True, "z_channels": 16, "resolution": 32, "in_channels": 3, "out_ch": 3, "ch": 32}
    sizes |= {"ch_mult": [1, 2, 4, 4], "num_res_blocks": 1, "attn_resolutions": [], "dropout": 0.0}
    vae.first_stage_model = AutoencoderKL(ddconfig=sizes | {"conv3d": True, "time_compress": 4}, embed_dim=16)
    expect_error(lambda: host_access.check_video_vae(vae), "the VAE is a AutoencoderKL, whose latents are not Wan's")
    tiny = host_access.TINY_VIDEO_VAES[0]
    vae.first_stage_model = tiny(latent_channels=16)
    host_access.check_video_vae(vae)
    vae.first_stage_model = tiny(latent_channels=16, latent_format=comfy.latent_formats.HunyuanVideo)
    expect_error(lambda: host_access.check_video_vae(vae), "this ComfyUI takes for HunyuanVideo's")
    assert host_access.host_class("comfy.no.such.module", "Anything") is None
    assert host_access.host_class("comfy.sd", "NoSuchClass") is None


def check_settings_that_could_only_fail_are_refused_before_sampling() -> None:
    from pack.nodes.sampling import ViewPointSampler

    settings = {"seed": 0, "steps": 4, "cfg": 1.0, "sampler_name": "euler", "scheduler": "simple"}

    def sample(latent: torch.Tensor, **changed: float) -> None:
        values = {**settings, "denoise": 1.0, "shift": 5.0, "schedule": "pano", **changed}
        ViewPointSampler.execute(load(33), [], [], {"samples": latent}, **values)

    empty = torch.zeros(LATENT)
    for shift in (0.0, -1.0, float("nan")):
        expect_error(lambda shift=shift: sample(empty, shift=shift), f"shift is {shift}; expected more than 0")
    expect_error(lambda: sample(empty, denoise=0.7), "denoise is 0.7, but the latent is empty")


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
