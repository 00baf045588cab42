"""The whole sampling step in one node, on the host's own samplers and model management."""

from typing import Any

import comfy.samplers
from comfy_api.latest import io

from ..viewpoint_core.conditioning import check_finite
from .host import host_ksampler, node_schema, with_shift
from .live_preview import with_panorama_preview
from .model import check_schedule, is_patched, patch_model, schedule_input


class ViewPointSampler(io.ComfyNode):
    """Patch, shift, sample."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Inputs and outputs."""
        return node_schema(
            node_id="ViewPointSampler",
            search_aliases=["360", "panorama sampler", "generate panorama", "wan panorama", "ksampler"],
            display_name="ViewPoint: sampler",
            category="ViewPoint",
            description="Denoise a ViewPoint latent. Patches the model unless ViewPointPatchModel did.",
            inputs=[
                io.Model.Input("model", tooltip="A Wan2.1 text-to-video model with 33 input channels."),
                io.Conditioning.Input("positive", tooltip="From ViewPointConditioning."),
                io.Conditioning.Input("negative", tooltip="From ViewPointConditioning."),
                io.Latent.Input("latent", tooltip="From ViewPointConditioning."),
                io.Int.Input(
                    "seed",
                    default=0,
                    min=0,
                    max=0xFFFFFFFFFFFFFFFF,
                    control_after_generate=True,
                    tooltip="Seed of the noise. The same seed gives the same video on the same machine.",
                ),
                io.Int.Input("steps", default=30, min=1, max=1000, tooltip="Denoising steps."),
                io.Float.Input(
                    "cfg",
                    default=5.0,
                    min=0.0,
                    max=100.0,
                    step=0.1,
                    round=0.01,
                    tooltip="Guidance towards the prompt. 1 leaves the negative prompt out and halves the time.",
                ),
                io.Combo.Input(
                    "sampler_name",
                    options=list(comfy.samplers.KSampler.SAMPLERS),
                    default="uni_pc",
                    tooltip="The host's sampling algorithm.",
                ),
                io.Combo.Input(
                    "scheduler",
                    options=list(comfy.samplers.KSampler.SCHEDULERS),
                    default="simple",
                    tooltip="How noise levels are spread over the steps.",
                ),
                io.Float.Input(
                    "denoise",
                    default=1.0,
                    min=0.0,
                    max=1.0,
                    step=0.01,
                    tooltip="Part of the noise range to go through. Below 1 the latent that came in shines through; "
                    "an empty latent needs 1.",
                ),
                io.Float.Input(
                    "shift",
                    default=5.0,
                    min=0.01,
                    max=100.0,
                    step=0.01,
                    tooltip="Flow shift: above 1, more of the steps go to high noise; 1: none. Replaces a shift set "
                    "before.",
                ),
                schedule_input(),
            ],
            outputs=[io.Latent.Output(display_name="latent", tooltip="The denoised latent, for VAE Decode.")],
        )

    @classmethod
    def execute(
        cls,
        model: Any,
        positive: list,
        negative: list,
        latent: dict,
        schedule: str,
        shift: float,
        **sampling: Any,
    ) -> io.NodeOutput:
        """Patch if needed, set the shift, and run the host's sampling with a preview of the panorama."""
        if not shift > 0:
            raise ValueError(f"shift is {shift}; expected more than 0. 1 leaves the noise levels as they are")
        if sampling["denoise"] < 1 and not bool(latent["samples"].any()):
            raise ValueError(
                f"denoise is {sampling['denoise']}, but the latent is empty, so nothing could shine through; expected "
                "denoise 1, or the latent of an encoded map"
            )
        if is_patched(model):
            check_schedule(model, schedule)
            patched = model
        else:
            patched = patch_model(model, schedule)
        ready = with_panorama_preview(with_shift(patched, shift))
        made = host_ksampler(ready, positive, negative, latent, **sampling)
        how = "what {sampler_name} with scheduler {scheduler} made in {steps} step(s)".format_map(sampling)
        check_finite(made["samples"], how)
        return io.NodeOutput(made)
