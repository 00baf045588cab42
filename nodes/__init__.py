"""The pack's nodes, in the host's V3 API. Imported by the entrypoint only, since it needs the host."""

from pathlib import Path

from comfy_api.latest import ComfyExtension, io

from ..viewpoint_core.resample import BAND_WATCHERS
from .camera import ViewPointCameraPath, ViewPointCutCameraPath, ViewPointEstimateCamera
from .clip import ViewPointLoadClip
from .compose import ViewPointCompose, ViewPointComposite
from .conditioning import ViewPointConditioning
from .host import raise_if_cancelled
from .host_files import offer_models
from .model import ViewPointPatchModel
from .output import ViewPointSave360Image, ViewPointSave360Video
from .preview import ViewPointPreview360
from .projection import ViewPointFromCubemap, ViewPointFromERP, ViewPointToCubemap, ViewPointToERP
from .sampling import ViewPointSampler
from .text_embedding import ViewPointEmptyPrompt, ViewPointLoadTextEmbedding, ViewPointSaveTextEmbedding
from .upscale import ViewPointUpscale, ViewPointUpscaleSave360Video
from .views import ViewPointPlaceView, ViewPointRenderView, ViewPointReorient

TINY_MODELS = Path(__file__).parents[1] / "workflows" / "assets" / "models"

NODES: list[type[io.ComfyNode]] = [
    ViewPointFromERP,
    ViewPointToERP,
    ViewPointFromCubemap,
    ViewPointToCubemap,
    ViewPointPlaceView,
    ViewPointRenderView,
    ViewPointReorient,
    ViewPointCameraPath,
    ViewPointCutCameraPath,
    ViewPointEstimateCamera,
    ViewPointCompose,
    ViewPointComposite,
    ViewPointConditioning,
    ViewPointPatchModel,
    ViewPointSampler,
    ViewPointSaveTextEmbedding,
    ViewPointLoadTextEmbedding,
    ViewPointEmptyPrompt,
    ViewPointSave360Video,
    ViewPointSave360Image,
    ViewPointUpscale,
    ViewPointUpscaleSave360Video,
    ViewPointLoadClip,
    ViewPointPreview360,
]


class ViewPointExtension(ComfyExtension):
    """What the host asks the pack for."""

    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        """All nodes; from now on the host's loaders list the tiny models that come with the pack, and a cancel also
        ends what is worked out before the first frame."""
        offer_models(TINY_MODELS)
        if raise_if_cancelled not in BAND_WATCHERS:
            BAND_WATCHERS.append(raise_if_cancelled)
        return NODES
