"""Pano-Perspective attention on the host's Wan model, through its public hooks."""

from collections.abc import Callable
from typing import Any

import comfy.patcher_extension
import torch
from comfy_api.latest import io

from ..viewpoint_core.conditioning import check_finite
from ..viewpoint_core.wan_attention import (
    ALTERNATING,
    SUBREGION_COUNT,
    check_token_grid,
    format_schedule,
    merge_subregions,
    perspective_blocks,
    split_subregions,
    subregion_modulation,
    subregion_positions,
)
from .convert import check_prompt
from .forward_pass import note_pass, pass_of, sampling_run
from .host import checkpoint_schedule, input_channels, latent_channels, node_schema, wan_config

CATEGORY = "ViewPoint"
KEY = "viewpoint"
UNFIT = (
    "reference_latents",
    "time_dim_concat",
    "concat_latent_image",
    "clip_vision_output",
    "area",
    "set_area_to_bounds",  # False where a mask is set by "default"
)
Wrappers = comfy.patcher_extension.WrappersMP


def schedule_input() -> io.String.Input:
    """Which blocks are Perspective."""
    return io.String.Input(
        "schedule",
        default=ALTERNATING,
        tooltip="Blocks that attend inside each subregion: alternating (odd blocks, the paper's), pano (none), "
        "perspective (all), or a list such as 1,3,8-11. Metadata of the checkpoint wins where the host hands it over.",
    )


def perspective_block(previous: Callable | None) -> Callable:
    """A block replacement that runs the block on the four subregions, chaining an earlier replacement.

    They run side by side in the batch; one after another where other nodes' code is inside, which may decide by the
    batch whether it sees a prompt, a negative prompt or both.
    """

    def run(args: dict[str, Any], extra: dict[str, Any]) -> dict[str, Any]:
        tokens, noted = args["img"], pass_of(args)
        check_token_grid(tokens.shape[1], noted.grid)
        regrouped = {
            **args,
            "img": split_subregions(tokens, noted.grid),
            "txt": args["txt"].repeat_interleave(SUBREGION_COUNT, dim=0),
            "vec": subregion_modulation(args["vec"], tokens.shape[1], noted.grid),
            "pe": subregion_positions(args["pe"], noted.grid),
        }
        block = extra["original_block"] if previous is None else lambda part: previous(part, extra)
        out = one_by_one(block, regrouped) if noted.one_by_one or previous else block(regrouped)
        noted.reached = True
        return {**out, "img": merge_subregions(out["img"], noted.grid)}

    run.viewpoint = True
    return run


def one_by_one(block: Callable, regrouped: dict[str, Any]) -> dict[str, Any]:
    """A block's output for regrouped arguments (b 4, ...), from a run of it with batch b for each subregion."""
    rows = [slice(subregion, None, SUBREGION_COUNT) for subregion in range(SUBREGION_COUNT)]
    outs = [block({**regrouped, **{name: regrouped[name][row] for name in ("img", "txt", "vec")}}) for row in rows]
    return {**outs[-1], "img": torch.stack([out["img"] for out in outs], dim=1).flatten(0, 1)}


def window_known(
    executor: Callable,
    x: torch.Tensor,
    t: torch.Tensor,
    c_concat: torch.Tensor | None = None,
    c_crossattn: torch.Tensor | None = None,
    control: Any = None,
    transformer_options: dict[str, Any] | None = None,
    **kwargs: Any,
) -> torch.Tensor:
    """APPLY_MODEL wrapper: cut the known channels to the context window, which older hosts do not do."""
    window = (transformer_options or {}).get("context_window")
    if window is not None and c_concat is not None and c_concat.shape[2] != x.shape[2]:
        c_concat = c_concat[:, :, window.index_list]
    if c_concat is not None and c_concat.shape[2] != x.shape[2]:
        raise ValueError(
            f"the context window has {x.shape[2]} latent frames, its known map {c_concat.shape[2]}; this host's "
            "context windows do not fit ViewPoint, sample without them"
        )
    return executor(x, t, c_concat, c_crossattn, control, transformer_options or {}, **kwargs)


def check_sampling(model: Any, conds: dict[str, list], latent: torch.Tensor) -> None:
    """Raise ValueError, before the model is loaded, unless model, conditioning and latent belong together."""
    channels, wanted = input_channels(model), 2 * latent_channels(model) + 1
    if channels != wanted:
        raise ValueError(
            f"the model has {channels} input channels, ViewPoint needs {wanted}. Inflate a stock checkpoint with "
            "'python -m viewpoint_core.inflate SRC DST', or load a ViewPoint LoRA that widens the patch embedding "
            "(LoraLoaderModelOnly, strength other than 0) before this node"
        )
    if latent.ndim != 5 or latent.shape[1] != latent_channels(model):
        raise ValueError(
            f"the latent is {tuple(latent.shape)}; expected (batch, {latent_channels(model)}, frames, height, width), "
            "as ViewPointConditioning gives it"
        )
    check_finite(latent, "latent")
    for name, entries in conds.items():
        for cond in entries or []:
            extra = [key for key in UNFIT if cond.get(key) is not None and cond[key] is not False]
            if extra:
                raise ValueError(
                    f"the {name} conditioning carries {', '.join(extra)}: it adds tokens or channels, like "
                    "reference images, or cuts the map, and does not fit on a ViewPoint map; remove the node that adds "
                    "it"
                )
            known = cond.get("noise_concat")
            if known is None or known.ndim != 5 or known.shape[1] != wanted - latent.shape[1]:
                raise ValueError(f"the {name} conditioning did not pass ViewPointConditioning; connect its output")
            if known.shape[2:] != latent.shape[2:]:
                raise ValueError(
                    f"the latent is {tuple(latent.shape[2:])} (frames, height, width), the {name} conditioning "
                    f"{tuple(known.shape[2:])}; connect the latent of the same ViewPointConditioning"
                )
            check_prompt(cond.get("cross_attn"), f"the {name} conditioning")


def check_before_sampling(executor: Any, noise: torch.Tensor, latent: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
    """OUTER_SAMPLE wrapper: the checks, for whichever sampler node runs, and a run whose first pass is judged."""
    guider = executor.class_obj
    check_sampling(guider.model_patcher, guider.conds, latent)
    check_blocks(guider.model_patcher)
    with sampling_run():
        return executor(noise, latent, *args, **kwargs)


def replacements(model: Any) -> dict[tuple, Callable]:
    """What stands in for a MODEL's blocks."""
    return model.model_options.get("transformer_options", {}).get("patches_replace", {}).get("dit", {})


def check_blocks(model: Any) -> None:
    """Raise ValueError where another node's replacement has pushed a Perspective block out."""
    lost = [
        block
        for block in model.model_options["transformer_options"][KEY]
        if not getattr(replacements(model).get(("double_block", block)), "viewpoint", False)
    ]
    if lost:
        raise ValueError(
            f"another node replaced the blocks {format_schedule(lost)} after ViewPointPatchModel; connect "
            "ViewPointPatchModel behind it"
        )


def check_schedule(model: Any, schedule: str) -> None:
    """Raise ValueError where a patched MODEL and a schedule that is not the default differ."""
    blocks = perspective_blocks(schedule, wan_config(model)["num_layers"])
    patched = model.model_options["transformer_options"][KEY]
    if schedule.strip().lower() != ALTERNATING and blocks != patched:
        raise ValueError(
            f"the sampler's schedule is {schedule!r}, but ViewPointPatchModel patched the blocks "
            f"{format_schedule(patched)}; leave the sampler's at {ALTERNATING}"
        )


def is_patched(model: Any) -> bool:
    """Whether a MODEL passed `patch_model`."""
    return KEY in model.model_options.get("transformer_options", {})


def patch_model(model: Any, schedule: str) -> Any:
    """A clone of a MODEL with Pano-Perspective attention (paper 3.3); the MODEL itself stays as it was.

    Raises ValueError for a model that is not Wan, one patched already, and a schedule that does not fit it.
    """
    if is_patched(model):
        raise ValueError("the model passed ViewPointPatchModel already; connect the unpatched model")
    config = wan_config(model)
    blocks = perspective_blocks(checkpoint_schedule(model) or schedule, config["num_layers"])
    patched = model.clone()
    replaced = replacements(patched)
    for block in blocks:
        patched.set_model_patch_replace(
            perspective_block(replaced.get(("double_block", block))), "dit", "double_block", block
        )
    patched.model_options.setdefault("transformer_options", {})[KEY] = blocks
    patched.add_wrapper_with_key(Wrappers.APPLY_MODEL, KEY, window_known)
    patched.add_wrapper_with_key(Wrappers.APPLY_MODEL, KEY, note_pass)
    patched.add_wrapper_with_key(Wrappers.OUTER_SAMPLE, KEY, check_before_sampling)
    return patched


class ViewPointPatchModel(io.ComfyNode):
    """Pano-Perspective attention on a MODEL."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Inputs and outputs."""
        return node_schema(
            node_id="ViewPointPatchModel",
            search_aliases=["360", "panorama attention", "pano-perspective attention", "wan panorama"],
            display_name="ViewPoint: patch model",
            category=CATEGORY,
            description="Give a Wan2.1 model Pano-Perspective attention, for use with any sampler node.",
            inputs=[
                io.Model.Input("model", tooltip="A Wan2.1 text-to-video model with 33 input channels."),
                schedule_input(),
            ],
            outputs=[io.Model.Output(display_name="model", tooltip="The patched model.")],
        )

    @classmethod
    def execute(cls, model: Any, schedule: str) -> io.NodeOutput:
        """Patch a clone."""
        return io.NodeOutput(patch_model(model, schedule))
