"""The pack's nodes, in the host's V3 API. Imported by the entrypoint only, since it needs the host."""

from comfy_api.latest import ComfyExtension, io

from .conditioning import ViewPointConditioning
from .model import ViewPointPatchModel
from .output import ViewPointSave360Image, ViewPointSave360Video
from .preview import ViewPointPreview360
from .projection import (
    ViewPointFromCubemap,
    ViewPointFromERP,
    ViewPointPlaceView,
    ViewPointRenderView,
    ViewPointToCubemap,
    ViewPointToERP,
)
from .sampling import ViewPointSampler
from .text_embedding import ViewPointLoadTextEmbedding, ViewPointSaveTextEmbedding

NODES: list[type[io.ComfyNode]] = [
    ViewPointFromERP,
    ViewPointToERP,
    ViewPointFromCubemap,
    ViewPointToCubemap,
    ViewPointPlaceView,
    ViewPointRenderView,
    ViewPointConditioning,
    ViewPointPatchModel,
    ViewPointSampler,
    ViewPointSaveTextEmbedding,
    ViewPointLoadTextEmbedding,
    ViewPointSave360Video,
    ViewPointSave360Image,
    ViewPointPreview360,
]


class ViewPointExtension(ComfyExtension):
    """What the host asks the pack for."""

    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        """All nodes."""
        return NODES
