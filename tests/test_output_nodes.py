"""The save and preview nodes on the real ComfyUI server: what is in the files, and what is refused."""

import json
import shutil
import subprocess
import uuid
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from PIL import Image

from scripts.comfy_client import PromptFailed, PromptInterrupted, PromptRefused, Workflow
from scripts.comfy_server import ComfyServer, make_base_directory
from scripts.host import provide_host
from tests.workflow_runs import interrupt

pytestmark = pytest.mark.host
needs_ffprobe = pytest.mark.skipif(not shutil.which("ffprobe"), reason="ffprobe is not installed (package ffmpeg)")
needs_exiftool = pytest.mark.skipif(
    not shutil.which("exiftool"), reason="exiftool is not installed (package libimage-exiftool-perl)"
)
WIDTH, HEIGHT = 128, 64
COLOURS = np.array(
    [
        [255, 0, 0],
        [0, 255, 0],
        [0, 0, 255],
        [255, 255, 255],
        [0, 0, 0],
        [128, 128, 128],
        [200, 100, 50],
        [12, 240, 190],
    ],
    dtype=np.uint8,
)
GPANO = "{http://ns.google.com/photos/1.0/panorama/}"
NTSC = Fraction(30000, 1001)
SOUND_RATE = 44100


def write_colours(file: Path) -> None:
    """A panorama of eight upright bars."""
    bars = np.repeat(np.repeat(COLOURS[None], HEIGHT, axis=0), WIDTH // len(COLOURS), axis=1)
    Image.fromarray(bars).save(file)


def write_clip(file: Path, frames: int = 40, seconds: float = 1.5) -> None:
    """A clip at 29.97 fps with another tone on each side, longer than the picture: 500 Hz left, 1500 Hz right."""
    with av.open(str(file), "w") as container:
        video = container.add_stream("libx264", rate=NTSC)
        video.width, video.height, video.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        sound = container.add_stream("aac", rate=SOUND_RATE, layout="stereo")
        for number in range(frames):
            pixels = np.full((HEIGHT, WIDTH, 3), 6 * number, np.uint8)
            container.mux(video.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        time = np.arange(int(seconds * SOUND_RATE)) / SOUND_RATE
        tones = 0.3 * np.sin(2 * np.pi * np.array([[500.0], [1500.0]]) * time)
        frame = av.AudioFrame.from_ndarray(tones.astype(np.float32), format="fltp", layout="stereo")
        frame.sample_rate = SOUND_RATE
        container.mux([*video.encode(None), *sound.encode(frame), *sound.encode(None)])


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ComfyServer]:
    """A server with a picture of known colours and a clip with sound."""
    base = make_base_directory(tmp_path_factory.mktemp("comfy"))
    write_colours(base / "input" / "colours.png")
    write_clip(base / "input" / "clip.mp4")
    with ComfyServer(provide_host(), base, flags=("--cpu",)) as running:
        yield running


def node(class_type: str, **inputs: Any) -> dict[str, Any]:
    return {"class_type": class_type, "inputs": inputs}


def empty(width: int = WIDTH, height: int = HEIGHT, frames: int = 1) -> dict[str, Any]:
    """A node that makes a grey video."""
    return node("EmptyImage", width=width, height=height, batch_size=frames, color=0x808080)


def save_video(erp: dict[str, Any], others: Workflow | None = None, **inputs: Any) -> Workflow:
    """A workflow that saves the pictures of one node, each time under another name."""
    settings = {"fps": 16.0, "codec": "h264", "crf": 18, "filename_prefix": f"video/{uuid.uuid4().hex}"}
    return {"erp": erp, **(others or {}), "save": node("ViewPointSave360Video", erp=["erp", 0], **settings | inputs)}


def save_image(erp: dict[str, Any], **inputs: Any) -> Workflow:
    """Likewise, as images."""
    settings = {"format": "png", "jpeg_quality": 95, "filename_prefix": f"images/{uuid.uuid4().hex}"}
    return {"erp": erp, "save": node("ViewPointSave360Image", erp=["erp", 0], **settings | inputs)}


def saved(server: ComfyServer, workflow: Workflow) -> list[Path]:
    """Run a workflow; the files that the save node reports."""
    return server.client.outputs(server.client.run(workflow), "save")


def clip_with_sound(**inputs: Any) -> Workflow:
    """The clip, taken apart by the host's own node and saved with its sound and rate."""
    others = {"load": node("LoadVideo", file="clip.mp4")}
    workflow = save_video(node("GetVideoComponents", video=["load", 0]), others)
    workflow["save"]["inputs"] |= {"audio": ["erp", 1], "fps": ["erp", 2], **inputs}
    return workflow


def sound_of(file: Path) -> tuple[np.ndarray, int]:
    """Sound (channels, samples) of a file, and its rate."""
    with av.open(str(file)) as container:
        samples = np.concatenate([frame.to_ndarray() for frame in container.decode(audio=0)], axis=1)
        return samples, container.streams.audio[0].rate


def tone(samples: np.ndarray, rate: int) -> float:
    """The loudest frequency in Hz."""
    return float(np.abs(np.fft.rfft(samples)).argmax() * rate / len(samples))


def leftovers(server: ComfyServer) -> list[Path]:
    """Unfinished files in the output folder."""
    return list((server.base / "output").rglob(".*"))


# Video


@pytest.mark.parametrize(("codec", "name", "tag"), [("h264", "h264", "avc1"), ("h265", "hevc", "hvc1")])
def test_a_saved_video_has_its_frames_rate_and_codec(server: ComfyServer, codec: str, name: str, tag: str) -> None:
    events: list[dict[str, Any]] = []
    workflow = save_video(empty(frames=21), fps=16.0, codec=codec)
    prompt = server.client.run(workflow, lambda kind, data: events.append(data) if kind == "progress" else None)
    (file,) = server.client.outputs(prompt)
    assert file.parent == server.base / "output" / "video"
    with av.open(str(file)) as container:
        stream = container.streams.video[0]
        assert (stream.codec_context.name, stream.codec_context.codec_tag) == (name, tag)
        assert (stream.width, stream.height, stream.average_rate) == (WIDTH, HEIGHT, 16)
        times = [frame.time for frame in container.decode(video=0)]
    np.testing.assert_allclose(times, np.arange(21) / 16, atol=1e-6)
    assert {(data["value"], data["max"]) for data in events} >= {(21, 21)}
    assert leftovers(server) == []


@pytest.mark.parametrize("codec", ["h264", "h265"])
def test_colours_are_bt709_in_limited_range_as_tagged(server: ComfyServer, codec: str) -> None:
    (file,) = saved(server, save_video(node("LoadImage", image="colours.png"), codec=codec, crf=1))
    with av.open(str(file)) as container:
        context = container.streams.video[0].codec_context
        tags = (context.color_primaries, context.color_trc, context.colorspace, context.color_range)
        frame = next(container.decode(video=0))
        planes = frame.to_ndarray(format="yuv420p")  # the format it is in: no conversion
    assert (frame.format.name, tags) == ("yuv420p", (1, 1, 1, 1))
    red, green, blue = COLOURS.T / 255
    luma = 0.2126 * red + 0.7152 * green + 0.0722 * blue
    expected = [16 + 219 * luma, 128 + 224 * (blue - luma) / 1.8556, 128 + 224 * (red - luma) / 1.5748]
    middle = WIDTH // 16 + WIDTH // 8 * np.arange(8)
    chroma = planes[HEIGHT:].reshape(2, HEIGHT // 2, WIDTH // 2)[:, HEIGHT // 4, middle // 2]
    np.testing.assert_allclose([planes[HEIGHT // 2, middle], *chroma], expected, atol=2)


def test_a_loaded_clips_rate_sound_and_length_are_kept(server: ComfyServer) -> None:
    (file,) = saved(server, clip_with_sound())
    samples, rate = sound_of(file)
    assert rate == SOUND_RATE
    assert [round(tone(channel, rate), -1) for channel in samples] == [500, 1500]
    with av.open(str(file)) as container:
        video, sound = container.streams.video[0], container.streams.audio[0]
        assert (video.frames, video.average_rate) == (40, NTSC)
        assert float(video.duration * video.time_base) == pytest.approx(40 / NTSC, abs=1e-4)
        assert sound.codec_context.name == "aac"
        first = next(container.decode(audio=0))
        assert abs(first.time) < 1024 / rate
    # longer sound is cut where the picture ends, to a packet of 1024 samples
    assert samples.shape[1] / rate == pytest.approx(40 / NTSC, abs=1100 / rate)


def with_sound(channels: int = 1, rate: int = SOUND_RATE, seconds: float = 1.0) -> Workflow:
    """32 frames at 16 fps with silence."""
    sound = {"sound": node("EmptyAudio", duration=seconds, sample_rate=rate, channels=channels)}
    return save_video(empty(frames=32), sound, audio=["sound", 0])


@pytest.mark.parametrize(
    ("channels", "rate", "saved_rate"), [(1, 16000, 16000), (2, 48000, 48000), (2, 50000, 48000), (1, 192000, 48000)]
)
def test_sound_of_any_rate_keeps_its_length(server: ComfyServer, channels: int, rate: int, saved_rate: int) -> None:
    (file,) = saved(server, with_sound(channels, rate, seconds=1.0))
    samples, found = sound_of(file)
    assert (len(samples), found) == (channels, saved_rate)
    assert samples.shape[1] / found == pytest.approx(1.0, abs=1100 / found)
    with av.open(str(file)) as container:
        assert container.streams.video[0].frames == 32


def test_without_sound_there_is_no_sound_track(server: ComfyServer) -> None:
    (file,) = saved(server, save_video(empty()))
    with av.open(str(file)) as container:
        assert [stream.type for stream in container.streams] == ["video"]


def test_crf_sets_the_quality(server: ComfyServer) -> None:
    sizes = []
    for crf in (1, 45):
        (file,) = saved(server, save_video(node("LoadImage", image="colours.png"), crf=crf))
        sizes.append(file.stat().st_size)
    assert sizes[0] > sizes[1]


def queue_with_workflow(server: ComfyServer, prompt: Workflow, workflow: dict[str, Any]) -> Path:
    """Run a prompt as the editor sends it, with the graph beside it; the file."""
    body = {
        "prompt": prompt,
        "client_id": server.client.client_id,
        "extra_data": {"extra_pnginfo": {"workflow": workflow}},
    }
    prompt_id = server.client.request("POST", "/prompt", json=body).json()["prompt_id"]
    server.client.wait(prompt_id)
    (file,) = server.client.outputs(prompt_id)
    return file


GRAPH = {"nodes": [{"id": 1, "title": "Grüße 360°"}], "links": []}


def test_the_workflow_is_in_the_video_where_the_editor_looks_for_it(server: ComfyServer) -> None:
    prompt = save_video(empty())
    file = queue_with_workflow(server, prompt, GRAPH)
    with av.open(str(file)) as container:
        found = {name: json.loads(container.metadata[name]) for name in ("prompt", "workflow")}
    assert found == {"prompt": prompt, "workflow": GRAPH}
    data = file.read_bytes()  # the editor reads the first 64 MiB of a file
    assert data[4:8] == b"ftyp"
    assert data[int.from_bytes(data[:4], "big") :][4:8] == b"moov"


def test_the_workflow_is_in_the_png(server: ComfyServer) -> None:
    prompt = save_image(empty())
    with Image.open(queue_with_workflow(server, prompt, GRAPH)) as image:
        assert {name: json.loads(image.text[name]) for name in ("prompt", "workflow")} == {
            "prompt": prompt,
            "workflow": GRAPH,
        }


@pytest.mark.slow
def test_nothing_is_embedded_where_the_host_was_told_so(tmp_path: Path) -> None:
    flags = ("--cpu", "--disable-metadata")
    with ComfyServer(provide_host(), make_base_directory(tmp_path / "comfy"), flags=flags) as silent:
        video = queue_with_workflow(silent, save_video(empty()), GRAPH)
        image = queue_with_workflow(silent, save_image(empty()), GRAPH)
    assert b"ViewPointSave360Video" not in video.read_bytes()
    assert b"ViewPointSave360Image" not in image.read_bytes()
    assert b"GSpherical:Spherical" in video.read_bytes()


@needs_ffprobe
@pytest.mark.parametrize("codec", ["h264", "h265"])
def test_ffprobe_reports_an_equirectangular_video(server: ComfyServer, codec: str) -> None:
    (file,) = saved(server, clip_with_sound(codec=codec))
    command = ["ffprobe", "-v", "warning", "-of", "json", "-show_streams", str(file)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    video, sound = json.loads(done.stdout)["streams"]
    kinds = {side["side_data_type"]: side for side in video["side_data_list"]}
    assert kinds["Spherical Mapping"]["projection"] == "equirectangular"
    assert kinds["Stereo 3D"]["type"] == "2D"
    assert {video[f"color_{name}"] for name in ("space", "primaries", "transfer")} == {"bt709"}
    assert (sound["codec_name"], done.stderr) == ("aac", "")


def exiftool(file: Path) -> dict[str, Any]:
    """Tags as "Group:Name"."""
    command = ["exiftool", "-json", "-G1", str(file)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    return json.loads(done.stdout)[0]


@needs_exiftool
def test_exiftool_reads_the_marks_of_all_files(server: ComfyServer) -> None:
    (video,) = saved(server, clip_with_sound())
    tags = exiftool(video)
    assert (tags["XMP-GSpherical:Spherical"], tags["XMP-GSpherical:ProjectionType"]) == (True, "equirectangular")
    assert "Track1:ProjectionBoundsTop" in tags
    for kind in ("png", "jpeg"):
        (image,) = saved(server, save_image(empty(), format=kind))
        assert exiftool(image)["XMP-GPano:ProjectionType"] == "equirectangular"


# Images


def test_png_keeps_every_pixel_and_jpeg_nearly(server: ComfyServer) -> None:
    source = np.asarray(Image.open(server.base / "input" / "colours.png"), dtype=int)
    for kind, error in (("png", 0), ("jpeg", 12)):
        (file,) = saved(server, save_image(node("LoadImage", image="colours.png"), format=kind))
        assert file.suffix == {"png": ".png", "jpeg": ".jpg"}[kind]
        with Image.open(file) as image:
            assert image.format == kind.upper()
            assert np.abs(np.asarray(image, dtype=int) - source).max() <= error


@pytest.mark.parametrize("kind", ["png", "jpeg"])
def test_a_batch_becomes_one_marked_file_a_frame(server: ComfyServer, kind: str) -> None:
    files = saved(server, save_image(empty(frames=3), format=kind, filename_prefix=f"batch/{kind}_%width%"))
    assert [file.name for file in files] == [f"{kind}_{WIDTH}_{n:05}_{files[0].suffix}" for n in (1, 2, 3)]
    for file in files:
        with Image.open(file) as image:
            image.load()
            tags = ElementTree.fromstring(image.info["xmp"]).find(".//{*}Description").attrib
        assert tags[f"{GPANO}ProjectionType"] == "equirectangular"
        assert (tags[f"{GPANO}FullPanoWidthPixels"], tags[f"{GPANO}FullPanoHeightPixels"]) == (str(WIDTH), str(HEIGHT))
    assert leftovers(server) == []


def test_a_second_run_overwrites_nothing(server: ComfyServer) -> None:
    for workflow in (save_video(empty()), save_image(empty())):
        first = saved(server, workflow)
        workflow["erp"] = empty(frames=2)
        second = saved(server, workflow)
        assert set(first).isdisjoint(second)
        assert all(file.is_file() for file in first + second)


# What is refused


def test_a_cancelled_save_leaves_no_file(server: ComfyServer) -> None:
    workflow = save_video(empty(256, 128, frames=600), codec="h265", filename_prefix="cancelled/a")

    def cancel(kind: str, data: dict[str, Any]) -> None:
        if kind == "progress" and 2 <= data["value"] < data["max"] and data["node"] == "save":
            interrupt(server.client)

    with pytest.raises(PromptInterrupted):
        server.client.run(workflow, cancel)
    assert list((server.base / "output" / "cancelled").iterdir()) == []
    assert saved(server, save_video(empty()))[0].exists()


def rgba() -> Workflow:
    """A panorama with alpha."""
    workflow = save_video(node("JoinImageWithAlpha", image=["grey", 0], alpha=["mask", 0]))
    return workflow | {"grey": empty(), "mask": node("SolidMask", value=1.0, width=WIDTH, height=HEIGHT)}


BAD = {
    "not 2:1": (save_video(empty(100, 64)), "2:1 with an even height; got 100 x 64"),
    "odd height": (save_video(empty(102, 51)), "2:1 with an even height; got 102 x 51"),
    "image not 2:1": (save_image(empty(64, 64)), "2:1 with an even height; got 64 x 64"),
    "codec": (save_video(empty(), codec="vp9"), "'vp9'; expected one of h264, h265"),
    "image format": (save_image(empty(), format="gif"), "'gif'; expected one of png, jpeg"),
    "alpha": (rgba(), "Split Image with Alpha"),
    "too small for the encoder": (save_video(empty(8, 4), codec="h265"), "h265 cannot encode 8 x 4"),
    "no sound in the sound": (with_sound(seconds=0.0), "at least one sample"),
    "outside the output folder": (save_video(empty(), filename_prefix="../../away"), "outside the output folder"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_refused_in_plain_words(server: ComfyServer, name: str) -> None:
    workflow, words = BAD[name]
    with pytest.raises(PromptFailed, match=words):
        server.client.run(workflow)
    assert leftovers(server) == []


@pytest.mark.parametrize("inputs", [{"crf": 52}, {"crf": 0}, {"fps": 0.0}])
def test_settings_out_of_range_do_not_pass_validation(server: ComfyServer, inputs: dict[str, Any]) -> None:
    with pytest.raises(PromptRefused):
        server.client.run(save_video(empty(), **inputs))


# Preview


def preview(source: dict[str, Any], others: Workflow | None = None, **inputs: Any) -> Workflow:
    """A workflow that looks around in the pictures of one node."""
    settings = {"projection": "erp", "fps": 16.0}
    view = node("ViewPointPreview360", panorama=["erp", 0], **settings | inputs)
    return {"erp": source, **(others or {}), "save": view}


def previewed(server: ComfyServer, workflow: Workflow) -> tuple[Path, dict[str, Any]]:
    """Run a workflow; the file for the viewer, and what the viewer is told of it."""
    prompt = server.client.run(workflow)
    (file,) = server.client.outputs(prompt, "save")
    entry = server.client.history(prompt)
    assert entry
    return file, entry["outputs"]["save"]["viewpoint_360"][0]


def test_a_preview_of_one_frame_is_its_pixels_in_the_temp_folder(server: ComfyServer) -> None:
    file, told = previewed(server, preview(node("LoadImage", image="colours.png")))
    assert file.parent == server.base / "temp"
    np.testing.assert_array_equal(np.array(Image.open(file)), np.array(Image.open(server.base / "input/colours.png")))
    assert {key: told[key] for key in ("media", "projection", "audio")} == {
        "media": "image",
        "projection": "erp",
        "audio": False,
    }


def test_a_preview_of_frames_is_a_video_at_the_given_rate(server: ComfyServer) -> None:
    file, told = previewed(server, preview(empty(128, 128, 5), projection="viewpoint", fps=8.0))
    with av.open(str(file)) as container:
        stream = container.streams.video[0]
        assert (stream.codec_context.name, stream.width, stream.height) == ("h264", 128, 128)
        assert (stream.average_rate, sum(1 for _ in container.decode(video=0))) == (8, 5)
    assert (told["media"], told["projection"], told["fps"]) == ("video", "viewpoint", 8)


def test_a_preview_of_a_video_keeps_its_own_rate_and_sound(server: ComfyServer) -> None:
    file, told = previewed(server, preview(node("LoadVideo", file="clip.mp4"), fps=5.0))
    with av.open(str(file)) as container:
        assert container.streams.video[0].average_rate == NTSC
        assert container.streams.audio[0].rate == SOUND_RATE
    assert told["audio"]
    assert told["fps"] == pytest.approx(float(NTSC))


def test_two_previews_never_share_a_file(server: ComfyServer) -> None:
    first, _ = previewed(server, preview(empty(128, 64)))
    second, _ = previewed(server, preview(empty(64, 32)))
    assert first != second
    assert first.exists()


@pytest.mark.parametrize(
    ("source", "inputs", "message"),
    [
        (empty(100, 64), {}, "100 x 64"),
        (empty(128, 64), {"projection": "viewpoint"}, "square"),
        (empty(100, 100), {"projection": "viewpoint"}, "multiple of 32"),
    ],
)
def test_a_preview_of_what_is_no_panorama_is_refused(
    server: ComfyServer, source: dict[str, Any], inputs: dict[str, Any], message: str
) -> None:
    before = set((server.base / "temp").rglob("*"))
    with pytest.raises(PromptFailed, match=message):
        server.client.run(preview(source, **inputs))
    assert set((server.base / "temp").rglob("*")) == before
