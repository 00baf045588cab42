"""Graphs of the workflows that need no ViewPoint model: upscaling, looking around, cubemaps, the map and back."""

from collections.abc import Callable

from scripts import stock_files
from scripts.workflow_graph import Graph, Link, Node

ERP_INPUT = """Input, in the `input` folder (or use the upload button):

- `sample_erp.png`: an equirectangular RGB panorama, its width twice its height.
"""
UPSCALE_NOTE = f"""# Map to a 4K panorama

Model file, in the `models` folder of ComfyUI:

- {stock_files.markdown(stock_files.UPSCALER)}: any upscale model.

{ERP_INPUT}
The model sees the map as upright views, not as an equirectangular picture, so no swirl is left at the poles. The
upper branch makes a picture; the lower one writes a video frame by frame, which is how 49 frames at 4K, or 8K with
`erp_width` 8192, stay small in memory. In a workflow that generates, connect VAE Decode in place of the map here.
"""
REFRAME_NOTE = f"""# A moving shot out of a panorama

No model. {ERP_INPUT}
A camera path from keyframes, cut to the length of the shot, and rendered as a flat video; a single view beside it; and
the panorama with another front. Look around in the preview and press "use this view" to write its angles into
*Still view* or *Another front*: what you look at becomes the view, or the panorama's front. Written into *Moving shot*
they turn its whole path. All is saved in `output/viewpoint`.
"""
CUBEMAP_NOTE = f"""# Panorama to a cubemap and back

No model. {ERP_INPUT}
The six faces, to edit or to save, become a map and a panorama again, which is saved in `output/viewpoint`.
"""
ERP_NOTE = """# Panorama to ViewPoint map and back

No model. Input, in the `input` folder (or use the upload button):

- `sample_erp.png`: an equirectangular RGB panorama, its width twice its height. A `width` of 1024 in the
  ViewPointToERP node suits one of 1024 x 512.

The panorama that went through the map is saved in `output/viewpoint`.
"""
FACES = ("front", "right", "back", "left", "up", "down")


def source_map(map_size: int = 736) -> dict[str, Node]:
    """The sample panorama and its map."""
    return {
        "load": Node("LoadImage", {"image": "sample_erp.png"}),
        "map": Node("ViewPointFromERP", {"erp": Link("load", "IMAGE"), "map_size": map_size}),
    }


def upscale_to_4k() -> Graph:
    """Any upscale model on the map, as a picture and as a video."""
    upscale = {"viewpoint": Link("map", "viewpoint"), "upscale_model": Link("upscaler", "UPSCALE_MODEL")}
    nodes = {
        **source_map(),
        "upscaler": Node("UpscaleModelLoader", {"model_name": stock_files.UPSCALER.name}),
        "picture": Node("ViewPointUpscale", {**upscale, "erp_width": 4096}),
        "save": Node(
            "ViewPointSave360Image", {"erp": Link("picture", "erp"), "filename_prefix": "viewpoint/upscale_to_4k"}
        ),
        "video": Node(
            "ViewPointUpscaleSave360Video",
            {**upscale, "erp_width": 4096, "filename_prefix": "viewpoint/upscale_to_4k", "fps": 16.0},
        ),
    }
    return Graph(nodes, UPSCALE_NOTE)


def reframe() -> Graph:
    """A camera path through a panorama, a view chosen in the preview, and the panorama with another front."""
    erp = Link("load", "IMAGE")
    nodes = {
        "load": Node("LoadImage", {"image": "sample_erp.png"}),
        "preview": Node("ViewPointPreview360", {"panorama": erp}),
        "path": Node("ViewPointCameraPath", {"length": 65}),
        "cut": Node("ViewPointCutCameraPath", {"camera_path": Link("path", "camera_path"), "length": 49}),
        "shot": Node(
            "ViewPointRenderView",
            {"erp": erp, "width": 640, "height": 360, "camera_path": Link("cut", "camera_path")},
            "Moving shot",
        ),
        "video": Node("CreateVideo", {"images": Link("shot", "view"), "fps": 16.0}),
        "save": Node("SaveVideo", {"video": Link("video", "VIDEO"), "filename_prefix": "viewpoint/reframe"}),
        "view": Node("ViewPointRenderView", {"erp": erp, "width": 640, "height": 360}, "Still view"),
        "save_view": Node("SaveImage", {"images": Link("view", "view"), "filename_prefix": "viewpoint/reframe"}),
        "turned": Node("ViewPointReorient", {"erp": erp, "yaw_deg": 90.0}, "Another front"),
        "save_turned": Node(
            "ViewPointSave360Image", {"erp": Link("turned", "erp"), "filename_prefix": "viewpoint/reframe_360"}
        ),
    }
    return Graph(nodes, REFRAME_NOTE)


def cubemap_roundtrip() -> Graph:
    """Six faces out of a panorama, and a panorama out of six faces."""
    faces = {face: Link("faces", face) for face in FACES}
    nodes = {
        **source_map(),
        "faces": Node("ViewPointToCubemap", {"viewpoint": Link("map", "viewpoint")}),
        "again": Node("ViewPointFromCubemap", {**faces, "map_size": 736}),
        "erp": Node("ViewPointToERP", {"viewpoint": Link("again", "viewpoint"), "width": 1024}),
        "save": Node(
            "ViewPointSave360Image", {"erp": Link("erp", "erp"), "filename_prefix": "viewpoint/cubemap_roundtrip"}
        ),
    }
    return Graph(nodes, CUBEMAP_NOTE)


def erp_roundtrip() -> Graph:
    """A panorama to the map and back."""
    nodes = {
        "load": Node("LoadImage", {"image": "sample_erp.png"}),
        "map": Node("ViewPointFromERP", {"erp": Link("load", "IMAGE"), "map_size": 736}),
        "erp": Node("ViewPointToERP", {"viewpoint": Link("map", "viewpoint"), "width": 1024}),
        "save": Node("SaveImage", {"images": Link("erp", "erp"), "filename_prefix": "viewpoint/erp_roundtrip"}),
    }
    return Graph(nodes, ERP_NOTE)


TOOL_GRAPHS: dict[str, Callable[[], Graph]] = {
    "upscale_to_4k": upscale_to_4k,
    "reframe": reframe,
    "cubemap_roundtrip": cubemap_roundtrip,
    "erp_roundtrip": erp_roundtrip,
}
