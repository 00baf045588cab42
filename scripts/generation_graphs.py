"""Graphs of the workflows that generate, with the notes beside them."""

import math
from collections.abc import Callable

from scripts import stock_files
from scripts.workflow_graph import Graph, Link, Node

MAP_SIZE, LENGTH, FPS = 736, 49, 16.0
ERP_WIDTH = 4096  # of a video that shows the clip as sharp as it is
SECONDS = math.ceil((LENGTH - 1) / FPS)
SAVED_PROMPTS = {
    "positive": "text_embeddings/autumn_forest_00001_.safetensors [output]",
    "negative": "text_embeddings/negative_00001_.safetensors [output]",
}
TINY_UNET, TINY_VAE, TINY_MAP_SIZE = "viewpoint_tiny_33ch.safetensors", "viewpoint_tiny_vae.safetensors", 256

CLIP_PROMPT = "A real place in natural light. Sharp detail, natural colours, the same light in every direction."
TEXT_PROMPT = (
    "A clearing in an autumn forest at sunrise. Tall trees on every side, low mist, leaves drifting down, blue sky "
    "overhead, moss and fallen leaves on the ground. Sharp detail, natural colours."
)
NEGATIVE_PROMPT = (
    "blurry, overexposed, oversaturated, low quality, compression artefacts, text, subtitles, watermark, frame, "
    "border, black bars, visible seams, repeated objects, distorted shapes, flicker"
)

MODEL_NOTE = f"""Model files, in the `models` folder of ComfyUI:

- `diffusion_models/{stock_files.VIEWPOINT_UNET}`
- {stock_files.markdown(stock_files.VAE)}
- {stock_files.markdown(stock_files.TEXT_ENCODER)}

The first is a Wan2.1 text-to-video model with 33 input channels. It is made from the stock
[{stock_files.UNET.name}]({stock_files.UNET.url}) with `python -m viewpoint_core.inflate SRC DST` in this pack's
folder, and then trained: an inflated, untrained model does not look at the known picture, and does not know the
ViewPoint map. The other two are the stock Wan2.1 files.

"""
VIDEO_NOTE = f"""# Video to 360

{MODEL_NOTE}Input, in the `input` folder (or use the upload button):

- `sample_clip.mp4`: any clip longer than {SECONDS} seconds, of any frame rate. Say in Place View how wide its lens
  is (90 degrees here) and where it looks. Of a shorter one load fewer frames and set `length` in Place View to
  {LENGTH}: its last frame then stays ('hold last frame').

The video, with the clip's sound, is saved in `output/viewpoint`, marked as 360 degrees. Describe the whole surroundings
in the prompt.
"""
IMAGE_NOTE = f"""# Image to 360

{MODEL_NOTE}Input, in the `input` folder (or use the upload button):

- `sample_photo.png`: any RGB photo. Say in Place View how wide its lens is (90 degrees here) and where it looks.

The photo stands still in all {LENGTH} frames ('hold last frame' in Place View). The video is saved in
`output/viewpoint`, marked as 360 degrees. Describe the whole surroundings in the prompt.
"""
TEXT_NOTE = f"""# Text to 360

{MODEL_NOTE}No input file. The video, {LENGTH} frames at {FPS:g} frames per second, is saved in `output/viewpoint`,
marked as 360 degrees. Describe the whole surroundings in the prompt.
"""
HANDHELD_NOTE = f"""# Handheld clip to 360

{MODEL_NOTE}Input, in the `input` folder (or use the upload button):

- `sample_clip.mp4`: any clip of a camera that turns on one spot, of any frame rate. The camera is estimated, and the
  clip placed where it looked, so that the world stands still. Set `fov_deg` in Estimate Camera to how wide the lens
  is, or to 0 to have it found. What the camera showed at another time stays as it was then ('hold what was seen' in
  Place View): right for places, not for people who walk through. If the camera looked up or down, say so in Place
  View (`pitch_deg`).

The model's map shows the clip no finer than the rest: about 190 pixels wide for a phone held sideways. So the video is
made {ERP_WIDTH} wide and the clip laid into it once more, where it was placed, about 740 pixels wide: that part is
sharp, the surroundings are only enlarged. An upscale model sharpens them too, if you connect Load Upscale Model to the
node that saves; the workflow `upscale_to_4k` links one. The preview shows the same small.

The video, with the clip's sound, is saved in `output/viewpoint`, marked as 360 degrees.
"""
PHOTOS_NOTE = f"""# Two photos to one panorama

{MODEL_NOTE}Input, in the `input` folder (or use the upload button):

- `sample_photo.png`, twice: choose two photos taken from one spot, and say in each Place View where it looks. Where
  both are known the later one lies on top, with a soft edge.

The picture is saved in `output/viewpoint`, marked as 360 degrees.
"""
SAVED_PROMPT_NOTE = f"""# Text to 360 with a saved prompt

{MODEL_NOTE}First select both *ViewPoint: save text embedding* nodes and press the play button above them: only
what leads to them runs, which encodes both prompts and saves them. From then on

- `{SAVED_PROMPTS["positive"].removesuffix(" [output]")}`
- `{SAVED_PROMPTS["negative"].removesuffix(" [output]")}`

in the output folder are all that is read: remove or mute the text encoder's nodes. An edited prompt is a new file:
run them again, press R, and choose the one that ends in `_00002_` where `_00001_` is loaded; else the old
prompt is used. The model is patched by ViewPointPatchModel and sampled by the host's own KSampler, as in any other
workflow. The video is saved in `output/viewpoint`, marked as 360 degrees.
"""
TINY_NOTE = f"""# {{title}}, with the tiny model

Nothing to download: `{TINY_UNET}` and `{TINY_VAE}` come with this pack, and run on a CPU in a minute or two.
They show how the pieces work together. The model was trained for minutes on a GPU and hours on a CPU, on procedural
worlds and six real panoramas, without captions: expect soft pictures, 384 x 192, and use a ViewPoint model of real
size for real work.
It knows square views of 90 degrees straight ahead. Say in Place View how wide your lens is (a phone held sideways: 65
to 70 degrees): a narrower, wider or turned view works too, but the surroundings then match it less.

Input, in the `input` folder (or use the upload button):

- {{source}}

The video is saved in `output/viewpoint`, marked as 360 degrees.
"""


def loader_nodes() -> dict[str, Node]:
    return {
        "model": Node("UNETLoader", {"unet_name": stock_files.VIEWPOINT_UNET, "weight_dtype": "default"}),
        "vae": Node("VAELoader", {"vae_name": stock_files.VAE.name}),
        "clip": Node("CLIPLoader", {"clip_name": stock_files.TEXT_ENCODER.name, "type": "wan"}),
    }


def prompt_nodes(prompt: str) -> dict[str, Node]:
    clip = Link("clip", "CLIP")
    return {
        "positive": Node("CLIPTextEncode", {"text": prompt, "clip": clip}, "Prompt"),
        "negative": Node("CLIPTextEncode", {"text": NEGATIVE_PROMPT, "clip": clip}, "Negative prompt"),
    }


def conditioning_node(known: dict[str, Link]) -> Node:
    prompts = {name: Link(name, "CONDITIONING") for name in ("positive", "negative")}
    sizes = {"map_size": MAP_SIZE, "length": LENGTH}
    return Node("ViewPointConditioning", {**prompts, "vae": Link("vae", "VAE"), **sizes, **known})


def sampler_node() -> Node:
    conditioned = {name: Link("conditioning", name) for name in ("positive", "negative", "latent")}
    return Node("ViewPointSampler", {"model": Link("model", "MODEL"), **conditioned})


def output_nodes(name: str) -> dict[str, Node]:
    return {
        "decode": Node("VAEDecode", {"samples": Link("sampler", "latent"), "vae": Link("vae", "VAE")}),
        "erp": Node("ViewPointToERP", {"viewpoint": Link("decode", "IMAGE")}),
        "save": Node(
            "ViewPointSave360Video", {"erp": Link("erp", "erp"), "filename_prefix": f"viewpoint/{name}", "fps": FPS}
        ),
    }


def generation_nodes(name: str, prompt: str, known: dict[str, Link]) -> dict[str, Node]:
    steps = {"conditioning": conditioning_node(known), "sampler": sampler_node()}
    return {**loader_nodes(), **prompt_nodes(prompt), **steps, **output_nodes(name)}


def place_node(view: Link, length: int) -> Node:
    return Node("ViewPointPlaceView", {"view": view, "map_size": MAP_SIZE, "length": length, "fov_deg": 90.0})


def clip_node() -> Node:
    return Node("ViewPointLoadClip", {"file": "sample_clip.mp4", "length": LENGTH, "fps": FPS})


def with_the_clips_sound(nodes: dict[str, Node]) -> dict[str, Node]:
    nodes["save"].inputs |= {"fps": Link("load", "fps"), "audio": Link("load", "audio")}
    return nodes


def known_map() -> dict[str, Link]:
    return {"viewpoint": Link("place", "viewpoint"), "mask": Link("place", "mask")}


def video_to_360() -> Graph:
    known = {"load": clip_node(), "place": place_node(Link("load", "images"), 0)}
    nodes = {**known, **generation_nodes("video_to_360", CLIP_PROMPT, known_map())}
    return Graph(with_the_clips_sound(nodes), VIDEO_NOTE)


def image_to_360() -> Graph:
    known = {
        "load": Node("LoadImage", {"image": "sample_photo.png"}),
        "place": place_node(Link("load", "IMAGE"), LENGTH),
    }
    return Graph({**known, **generation_nodes("image_to_360", CLIP_PROMPT, known_map())}, IMAGE_NOTE)


def text_to_360() -> Graph:
    return Graph(generation_nodes("text_to_360", TEXT_PROMPT, {}), TEXT_NOTE)


def tiny_graph(name: str, title: str, source: str, view: dict[str, Node], place: Node) -> Graph:
    """Video or image to 360 with the models that come with the pack: no captions, few steps."""
    prompt = Link("prompt", "conditioning")
    conditioned = {part: Link("conditioning", part) for part in ("positive", "negative", "latent")}
    sizes = {"map_size": TINY_MAP_SIZE, "length": LENGTH}
    sampling = {"seed": 3, "steps": 8, "cfg": 1.0, "sampler_name": "euler", "scheduler": "simple", "shift": 1.25}
    decode = {"samples": Link("sampler", "latent"), "vae": Link("vae", "VAE")}
    nodes = {
        **view,
        "place": place,
        "model": Node("UNETLoader", {"unet_name": TINY_UNET, "weight_dtype": "default"}),
        "vae": Node("VAELoader", {"vae_name": TINY_VAE}),
        "prompt": Node("ViewPointEmptyPrompt"),
        "conditioning": Node(
            "ViewPointConditioning",
            {"positive": prompt, "negative": prompt, "vae": Link("vae", "VAE"), **sizes, **known_map()},
        ),
        "sampler": Node("ViewPointSampler", {"model": Link("model", "MODEL"), **conditioned, **sampling}),
        "decode": Node("VAEDecode", decode),
        "erp": Node("ViewPointToERP", {"viewpoint": Link("decode", "IMAGE")}),
        "save": Node(
            "ViewPointSave360Video", {"erp": Link("erp", "erp"), "filename_prefix": f"viewpoint/{name}", "fps": FPS}
        ),
    }
    return Graph(nodes, TINY_NOTE.format(title=title, source=source))


def tiny_place(view: Link, length: int) -> Node:
    return Node("ViewPointPlaceView", {"view": view, "map_size": TINY_MAP_SIZE, "length": length, "fov_deg": 90.0})


def tiny_video_to_360() -> Graph:
    source = f"`sample_clip.mp4`: any clip longer than {SECONDS} seconds, of any frame rate."
    place = tiny_place(Link("load", "images"), 0)
    graph = tiny_graph("tiny_video", "Video to 360", source, {"load": clip_node()}, place)
    with_the_clips_sound(graph.nodes)
    return graph


def tiny_image_to_360() -> Graph:
    view = {"load": Node("LoadImage", {"image": "sample_photo.png"})}
    source = f"`sample_photo.png`: any RGB photo. It stands still in all {LENGTH} frames."
    return tiny_graph("tiny_image", "Image to 360", source, view, tiny_place(Link("load", "IMAGE"), LENGTH))


def handheld_to_360() -> Graph:
    """A clip whose camera moved: estimated, placed where it looked, and laid over the enlarged result again."""
    frames, path = Link("load", "images"), Link("camera", "camera_path")
    nodes = {
        "load": clip_node(),
        "camera": Node("ViewPointEstimateCamera", {"view": frames, "fov_deg": 90.0}),
        "place": Node("ViewPointPlaceView", {"view": frames, "map_size": MAP_SIZE, "camera_path": path}),
        **generation_nodes("handheld_to_360", CLIP_PROMPT, known_map()),
    }
    sharp = {"view": frames, "camera_path": Link("place", "camera_path")}
    nodes["composite"] = Node("ViewPointComposite", {"erp": Link("erp", "erp"), **sharp}, "Small, for the preview")
    nodes["preview"] = Node("ViewPointPreview360", {"panorama": Link("composite", "erp"), "fps": FPS})
    large = {
        "viewpoint": Link("decode", "IMAGE"),
        "erp_width": ERP_WIDTH,
        "filename_prefix": "viewpoint/handheld_to_360",
    }
    del nodes["save"]  # the editor numbers nodes as they come
    nodes["save"] = Node("ViewPointUpscaleSave360Video", {**large, **sharp})
    return Graph(with_the_clips_sound(nodes), HANDHELD_NOTE)


def two_photos_to_360() -> Graph:
    """Two photos that look different ways, on one map."""
    nodes: dict[str, Node] = {}
    for name, yaw_deg in (("first", 0.0), ("second", 75.0)):
        nodes[f"{name}_photo"] = Node("LoadImage", {"image": "sample_photo.png"})
        place = {"view": Link(f"{name}_photo", "IMAGE"), "map_size": MAP_SIZE, "length": 1, "yaw_deg": yaw_deg}
        nodes[f"{name}_place"] = Node("ViewPointPlaceView", place)
    maps = {
        f"{layer}{part}": Link(f"{name}_place", "mask" if part else "viewpoint")
        for layer, name in (("lower", "first"), ("upper", "second"))
        for part in ("", "_mask")
    }
    nodes["place"] = Node("ViewPointCompose", {**maps, "feather_deg": 6.0})
    nodes |= generation_nodes("two_photos_to_360", CLIP_PROMPT, known_map())
    nodes["conditioning"].inputs["length"] = 1
    nodes["save"] = Node(
        "ViewPointSave360Image", {"erp": Link("erp", "erp"), "filename_prefix": "viewpoint/two_photos_to_360"}
    )
    return Graph(nodes, PHOTOS_NOTE)


def saved_prompt_to_360() -> Graph:
    """Prompts encoded once and kept; then no text encoder is needed. Sampled by the host's own KSampler."""
    nodes = generation_nodes("saved_prompt_to_360", TEXT_PROMPT, {})
    for name, title in (("positive", "The prompt"), ("negative", "The negative prompt")):
        prefix = SAVED_PROMPTS[name].partition("_00001_")[0]
        kept = {"conditioning": Link(name, "CONDITIONING"), "filename_prefix": prefix}
        nodes[f"keep_{name}"] = Node("ViewPointSaveTextEmbedding", kept)
        nodes[f"saved_{name}"] = Node(
            "ViewPointLoadTextEmbedding", {"file": SAVED_PROMPTS[name]}, f"{title}, once it is saved"
        )
        nodes["conditioning"].inputs[name] = Link(f"saved_{name}", "conditioning")
    nodes["patched"] = Node("ViewPointPatchModel", {"model": Link("model", "MODEL")})
    nodes["shifted"] = Node("ModelSamplingSD3", {"model": Link("patched", "model"), "shift": 5.0})
    conditioned = {part: Link("conditioning", part) for part in ("positive", "negative")}
    sampling = {"steps": 30, "cfg": 5.0, "sampler_name": "uni_pc", "scheduler": "simple"}  # as ViewPointSampler's
    latent = {"latent_image": Link("conditioning", "latent")}
    nodes["sampler"] = Node("KSampler", {"model": Link("shifted", "MODEL"), **conditioned, **latent, **sampling})
    nodes["decode"].inputs["samples"] = Link("sampler", "LATENT")
    return Graph(nodes, SAVED_PROMPT_NOTE)


GENERATION_GRAPHS: dict[str, Callable[[], Graph]] = {
    "video_to_360": video_to_360,
    "image_to_360": image_to_360,
    "text_to_360": text_to_360,
    "tiny_video_to_360": tiny_video_to_360,
    "tiny_image_to_360": tiny_image_to_360,
    "handheld_to_360": handheld_to_360,
    "two_photos_to_360": two_photos_to_360,
    "saved_prompt_to_360": saved_prompt_to_360,
}
