"""While sampling, the host's preview shows the panorama rather than the folded map."""

import inspect
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from PIL import Image

from ..viewpoint_core.preview import preview_panorama
from .convert import frame_bytes
from .host import OUTER_SAMPLE, latent_previewer, progress_bar

KEY = "viewpoint_preview"


def unfold_image(image: Image.Image) -> Image.Image:
    """A picture of the map as a picture of the panorama; one that is no map stays as it is."""
    if image.width != image.height or image.width % 2:
        return image
    pixels = torch.from_numpy(np.array(image.convert("RGB"))).movedim(-1, 0) / 255
    return Image.fromarray(frame_bytes(preview_panorama(pixels)))


def unfold_preview(preview: Any) -> Any:
    """What the host's previewer made, (format, picture, largest side), with the picture unfolded.

    Other packs replace the previewer by ones that show nothing this way; what they return passes through.
    """
    if isinstance(preview, tuple) and len(preview) == 3 and isinstance(preview[1], Image.Image):
        return preview[0], unfold_image(preview[1]), preview[2]
    return preview


def preview_callback(decode: Callable[[Any], Any]) -> Callable:
    """A sampler's callback that reports the step with its preview."""
    progress = progress_bar(1)

    def report(step: int, x0: Any, x: Any, total_steps: int) -> None:
        progress.update_absolute(step + 1, total_steps, unfold_preview(decode(x0)))

    return report


def sample_with_preview(executor: Any, *args: Any, **kwargs: Any) -> Any:
    """OUTER_SAMPLE wrapper: a callback that shows the panorama in place of the host's, where there are previews."""
    guider = executor.class_obj
    call = inspect.signature(guider.outer_sample).bind(*args, **kwargs)
    decode = latent_previewer(guider.model_patcher)
    if decode is not None and call.arguments.get("callback") is not None:
        call.arguments["callback"] = preview_callback(decode)
    return executor(*call.args, **call.kwargs)


def with_panorama_preview(model: Any) -> Any:
    """A clone of a MODEL whose sampling previews the panorama."""
    previewed = model.clone()
    previewed.add_wrapper_with_key(OUTER_SAMPLE, KEY, sample_with_preview)
    return previewed
