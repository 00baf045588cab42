"""What is refused before a model runs: python refusals.py HOST PACK, as in checks.py."""

from checks import LATENT, PROMPT, comfy, host_access, load, model_nodes, pack, torch
from running import expect_error, run_checks


def check_conditioning_from_elsewhere_and_other_sizes_are_refused() -> None:
    latent = torch.zeros(LATENT)
    expect_error(lambda: model_nodes.check_sampling(load(33), {"positive": [{}]}, latent), "ViewPointConditioning")
    other = {"positive": [{"noise_concat": torch.zeros(1, 17, 3, 8, 8)}]}
    expect_error(lambda: model_nodes.check_sampling(load(33), other, latent), "(2, 8, 8)")


OTHER_PROMPTS = (None, torch.zeros(1, 77, 768), torch.zeros(4, 4096), torch.zeros(1, 0, 4096), PROMPT / 0)


def check_prompts_of_another_text_encoder_are_refused_before_the_vae_runs() -> None:
    from pack.nodes.conditioning import ViewPointConditioning

    for prompt in OTHER_PROMPTS:
        for name, prompts in {"positive": (prompt, PROMPT), "negative": (PROMPT, prompt)}.items():
            both = [[[embedding, {}]] for embedding in prompts]
            # an object that encodes nothing stands for the VAE
            expect_error(lambda both=both: ViewPointConditioning.execute(*both, object(), 64, 1), f"{name}: ")
    nothing = [[[PROMPT, {}]], []]
    expect_error(
        lambda: ViewPointConditioning.execute(*nothing, object(), 64, 1), "negative: the conditioning holds no"
    )


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


if __name__ == "__main__":
    run_checks(dict(globals()))
