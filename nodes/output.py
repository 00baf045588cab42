"""Nodes that save panoramas as files marked as 360 degrees: MP4 video, PNG and JPEG images."""

import io as buffers
from collections.abc import Iterable, Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
from av.audio.resampler import AudioResampler
from comfy_api.latest import io, ui
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from torch import Tensor

from ..viewpoint_core.bt709 import bt709_frame, tag_bt709
from ..viewpoint_core.conditioning import check_finite
from ..viewpoint_core.pixels import to_uint8
from ..viewpoint_core.resample import check_erp
from ..viewpoint_core.spherical_metadata import (
    add_spherical_metadata,
    gpano_xmp,
    jpeg_with_xmp,
    png_with_xmp,
)
from .convert import FrameStream, image_to_frames
from .host import node_schema, progress_bar, workflow_metadata
from .host_files import new_file
from .inputs import MAX_FPS

CATEGORY = "ViewPoint/output"
CODECS = {"h264": ("libx264", "avc1"), "h265": ("libx265", "hvc1")}  # Apple's players take H.265 as hvc1 only
FEWEST_REORDERED = 4  # frames that x265 may put in another order
FPS_DENOMINATOR = 1001  # broadcast rates are 24000, 30000 and 60000 / 1001, and come from nodes as floats
AUDIO_LAYOUTS = {1: "mono", 2: "stereo", 6: "5.1"}
AUDIO_BITS_PER_CHANNEL = 96_000  # a second
AAC_RATES = (96000, 88200, 64000, 48000, 44100, 32000, 24000, 22050, 16000, 12000, 11025, 8000)
AAC_RATE_DEFAULT = 48000
IMAGE_SUFFIXES = {"png": ".png", "jpeg": ".jpg"}


def erp_to_frames(erp: Tensor) -> Tensor:
    """IMAGE -> frames (T, 3, H, W), a view. Raises ValueError unless it is a 2:1 panorama with even sides."""
    frames = image_to_frames(erp, "erp")
    check_erp(frames)
    return frames


def check_choice(value: str, options: Iterable[str], name: str) -> None:
    """Raise ValueError for a choice that does not exist; the host lets any text pass."""
    if value not in options:
        raise ValueError(f"{name} is {value!r}; expected one of {', '.join(options)}")


def frame_bytes(frame: Tensor) -> np.ndarray:
    """A frame (3, H, W) -> uint8 (H, W, 3), rounded; what lies beyond [0, 1] is cut off."""
    return np.ascontiguousarray(to_uint8(frame).movedim(0, -1).cpu().numpy())


def frame_rate(fps: float) -> Fraction:
    """The exact rate that a number stands for: 29.97003 is 30000/1001."""
    if not 0 < fps <= MAX_FPS:
        raise ValueError(f"fps is {fps}; expected above 0 and at most {MAX_FPS} frames per second")
    rate = Fraction(fps).limit_denominator(FPS_DENOMINATOR)
    if rate == 0:
        raise ValueError(f"fps is {fps}; expected at least 1/{FPS_DENOMINATOR} frames per second")
    return rate


def check_audio(audio: Any) -> tuple[Tensor, int]:
    """AUDIO -> waveform (channels, samples) and samples a second. Raises ValueError for what AAC cannot hold."""
    waveform, rate = audio["waveform"], int(audio["sample_rate"])
    shape, is_float = tuple(waveform.shape), waveform.is_floating_point()
    if len(shape) != 3 or shape[0] != 1 or shape[2] == 0 or rate <= 0 or not is_float:
        raise ValueError(
            f"audio: got a waveform of {waveform.dtype} {shape} (batch, channels, samples) at {rate} Hz; "
            "expected floats, a batch of 1 and at least one sample"
        )
    if shape[1] not in AUDIO_LAYOUTS:
        raise ValueError(f"audio: got {shape[1]} channels; expected 1 (mono), 2 (stereo) or 6 (5.1)")
    check_finite(waveform, "audio")
    return waveform[0].float().cpu(), rate


def open_video_stream(
    container: Any, codec: str, crf: int, width: int, height: int, rate: Fraction, frames: int
) -> Any:
    """A video stream that is ready to encode. Raises ValueError where the encoder does not take the size."""
    encoder, tag = CODECS[codec]
    stream = container.add_stream(encoder, rate=rate)
    context = stream.codec_context
    context.width, context.height, context.pix_fmt = width, height, "yuv420p"
    tag_bt709(context)
    context.codec_tag = tag
    context.gop_size = max(1, round(rate))  # a key frame every second, so that players seek fast
    context.options = {"crf": str(crf)}
    if codec == "h265":
        # x265 gives wrong decoding times, at random, to a video that ends before its frames are reordered
        reordered = "" if frames >= FEWEST_REORDERED else ":bframes=0"
        context.options |= {"x265-params": f"log-level=error{reordered}"}
    try:
        context.open()
    except av.FFmpegError as error:
        raise ValueError(f"{codec} cannot encode {width} x {height} at {float(rate):g} fps ({error})") from error
    return stream


def encode_frame(stream: Any, frame: Tensor) -> list[Any]:
    """Packets after a frame (3, H, W), converted from full-range RGB to limited-range BT.709."""
    return stream.encode(bt709_frame(frame_bytes(frame)))


class AudioTrack:
    """An AAC stream that is fed up to a point in time, so that it lies beside the video in the file."""

    def __init__(self, container: Any, waveform: Tensor, rate: int) -> None:
        """`waveform`: (channels, samples) at `rate` samples a second."""
        self.waveform, self.rate, self.done = waveform, rate, 0
        self.layout = AUDIO_LAYOUTS[len(waveform)]
        coded_rate = rate if rate in AAC_RATES else AAC_RATE_DEFAULT
        self.stream = container.add_stream("aac", rate=coded_rate, layout=self.layout)
        self.stream.bit_rate = AUDIO_BITS_PER_CHANNEL * len(waveform)
        self.resampler = AudioResampler(format="fltp", layout=self.layout, rate=coded_rate)

    def encode_until(self, seconds: Fraction) -> Iterator[Any]:
        """Packets of the sound up to then, or to its end if that comes first."""
        end = min(self.waveform.shape[1], round(seconds * self.rate))
        if end <= self.done:
            return
        samples = np.ascontiguousarray(self.waveform[:, self.done : end].numpy())
        frame = av.AudioFrame.from_ndarray(samples, format="fltp", layout=self.layout)
        frame.sample_rate, frame.time_base, frame.pts = self.rate, Fraction(1, self.rate), self.done
        self.done = end
        for resampled in self.resampler.resample(frame):
            yield from self.stream.encode(resampled)

    def finish(self) -> Iterator[Any]:
        """The last packets."""
        for resampled in self.resampler.resample(None):
            if resampled is not None:  # what a resampler with nothing to do returns
                yield from self.stream.encode(resampled)
        yield from self.stream.encode(None)


def encode_video(
    path: Path,
    frames: Tensor | FrameStream,
    rate: Fraction,
    codec: str,
    crf: int,
    audio: Any,
    metadata: dict[str, str],
    progress: Any = None,
) -> None:
    """Write frames (T, 3, H, W) in [0, 1] and sound as MP4, frame by frame. Sound beyond the last frame is cut off.

    `progress`: a bar that goes on by one for each frame; without it, the node's own.
    """
    sound = None if audio is None else check_audio(audio)
    height, width = frames.shape[-2:]
    progress = progress or progress_bar(len(frames))
    options = {"movflags": "use_metadata_tags"}  # keeps tags of any name, the host's prompt and workflow
    with av.open(str(path), mode="w", format="mp4", options=options) as container:
        container.metadata.update(metadata)
        video = open_video_stream(container, codec, crf, width, height, rate, len(frames))
        track = None if sound is None else AudioTrack(container, *sound)
        for number, frame in enumerate(frames, start=1):
            container.mux(encode_frame(video, frame))
            if track is not None:
                container.mux(list(track.encode_until(number / rate)))
            progress.update(1)
        container.mux(video.encode(None))
        if track is not None:
            container.mux(list(track.finish()))


def encode_image(frame: Tensor, kind: str, quality: int, metadata: dict[str, str]) -> bytes:
    """A frame (3, H, W) as a PNG or JPEG file with GPano XMP, and in PNG the workflow."""
    image = Image.fromarray(frame_bytes(frame))
    xmp = gpano_xmp(image.width, image.height)
    buffer = buffers.BytesIO()
    if kind == "jpeg":
        image.save(buffer, "JPEG", quality=quality, subsampling="4:4:4")
        return jpeg_with_xmp(buffer.getvalue(), xmp)
    text = PngInfo()
    for name, value in metadata.items():
        text.add_text(name, value)
    image.save(buffer, "PNG", pnginfo=text, compress_level=4)
    return png_with_xmp(buffer.getvalue(), xmp)


def erp_input() -> io.Image.Input:
    """The panorama."""
    return io.Image.Input("erp", tooltip="Equirectangular panorama, width = 2 x height, both even. Cut off to [0, 1].")


def prefix_input(default: str, size: str = "%width%, %height%, ") -> io.String.Input:
    """Where to save; `size` names what of a picture's size is filled in."""
    return io.String.Input(
        "filename_prefix",
        default=default,
        tooltip=f"Where to save below ComfyUI's output folder. Filled in: {size}%year%, %month%, %day%, %hour%, "
        "%minute%, %second%; in the editor also %date:yyyy-MM-dd% and another node's value by its type or title, as in "
        "%ViewPointSampler.seed%.",
    )


def encoding_inputs() -> list[io.Input]:
    """Rate, codec, quality and sound of a video."""
    return [
        io.Float.Input(
            "fps",
            default=16.0,
            min=1.0,
            max=MAX_FPS,
            step=0.01,
            round=0.001,
            tooltip="Frames per second. ViewPoint makes 16; connect a loaded video's own to keep its speed.",
        ),
        io.Combo.Input(
            "codec",
            options=list(CODECS),
            tooltip="h264 plays everywhere, on many headsets up to 4096 wide; h265 is smaller, for 4K and up.",
        ),
        io.Int.Input(
            "crf",
            default=18,
            min=1,
            max=51,
            tooltip="Quality as constant rate factor: 1 best and largest, 18 looks like the source, 51 worst.",
        ),
        io.Audio.Input(
            "audio",
            optional=True,
            tooltip="Sound: mono, stereo or 5.1, saved as AAC and cut where the video ends.",
        ),
    ]


def save_video(
    frames: Tensor | FrameStream,
    filename_prefix: str,
    rate: Fraction,
    codec: str,
    crf: int,
    audio: Any,
    metadata: dict[str, str],
    progress: Any = None,
) -> io.NodeOutput:
    """Encode beside the target, mark as 360 degrees, give it its name. What the node shows."""
    with new_file(filename_prefix, ".mp4", frames.shape[-1], frames.shape[-2]) as file:
        encode_video(file.partial, frames, rate, codec, crf, audio, metadata, progress)
        add_spherical_metadata(file.partial, file.partial)
    return io.NodeOutput(ui=ui.PreviewVideo([ui.SavedResult(file.path.name, file.subfolder, io.FolderType.output)]))


class ViewPointSave360Video(io.ComfyNode):
    """ERP and AUDIO -> MP4 file."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Inputs and outputs."""
        return node_schema(
            node_id="ViewPointSave360Video",
            search_aliases=["360", "vr video", "youtube 360", "spherical metadata", "equirectangular", "save mp4"],
            display_name="ViewPoint: save 360 video",
            category=CATEGORY,
            description="Save a panorama video as MP4, marked as 360 degrees for YouTube, headsets and players.",
            inputs=[
                erp_input(),
                prefix_input("video/ViewPoint360"),
                *encoding_inputs(),
            ],
            outputs=[],
            hidden=[io.Hidden.prompt, io.Hidden.extra_pnginfo],
            is_output_node=True,
        )

    @classmethod
    def execute(
        cls, erp: Tensor, filename_prefix: str, fps: float, codec: str, crf: int, audio: Any = None
    ) -> io.NodeOutput:
        """Check, encode, mark, save."""
        check_choice(codec, CODECS, "codec")
        metadata = workflow_metadata(cls.hidden)
        return save_video(erp_to_frames(erp), filename_prefix, frame_rate(fps), codec, crf, audio, metadata)


class ViewPointSave360Image(io.ComfyNode):
    """ERP -> PNG or JPEG files."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Inputs and outputs."""
        return node_schema(
            node_id="ViewPointSave360Image",
            search_aliases=["360", "vr photo", "photo sphere", "gpano", "equirectangular", "save panorama"],
            display_name="ViewPoint: save 360 image",
            category=CATEGORY,
            description="Save panoramas as images marked as 360 degrees for viewers, one file a frame.",
            inputs=[
                erp_input(),
                prefix_input("ViewPoint360"),
                io.Combo.Input(
                    "format",
                    options=list(IMAGE_SUFFIXES),
                    tooltip="png is lossless and holds the workflow; jpeg is smaller and does not.",
                ),
                io.Int.Input(
                    "jpeg_quality",
                    default=95,
                    min=1,
                    max=100,
                    tooltip="JPEG quality from 1 (smallest) to 100 (best). A png has none.",
                ),
            ],
            outputs=[],
            hidden=[io.Hidden.prompt, io.Hidden.extra_pnginfo],
            is_output_node=True,
        )

    @classmethod
    def execute(cls, erp: Tensor, filename_prefix: str, format: str, jpeg_quality: int) -> io.NodeOutput:
        """Check, then encode and write frame by frame."""
        check_choice(format, IMAGE_SUFFIXES, "format")
        frames, metadata = erp_to_frames(erp), workflow_metadata(cls.hidden)
        progress, saved = progress_bar(len(frames)), []
        for frame in frames:
            with new_file(filename_prefix, IMAGE_SUFFIXES[format], *frame.shape[:0:-1]) as file:
                file.partial.write_bytes(encode_image(frame, format, jpeg_quality, metadata))
            saved.append(ui.SavedResult(file.path.name, file.subfolder, io.FolderType.output))
            progress.update(1)
        return io.NodeOutput(ui=ui.SavedImages(saved))
