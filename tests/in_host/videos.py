"""The nodes that take video files, as the host calls them: python videos.py HOST PACK, as in checks.py."""

import asyncio
import io
import os
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from checks import comfy, host, load, pack, torch
from memory_peak import peak_bytes
from running import expect_error, run_checks

# isort: split
# found once checks has put the host and the pack on the path
import sys

import av
import execution
import numpy as np
import pack.nodes.host_files as host_files
import pack.nodes.memory as memory
import pack.viewpoint_core.kept as kept
from comfy_api.latest import InputImpl
from comfy_execution.caching import CacheKeySetInputSignature, HierarchicalCache
from comfy_execution.graph import DynamicPrompt
from comfy_extras.nodes_primitive import String as PrimitiveString
from pack.nodes.clip import PIXEL_BYTES, ViewPointLoadClip
from pack.nodes.output import encode_image
from pack.nodes.preview import ViewPointPreview360
from pack.nodes.video_encoder import check_audio, encode_video
from pack.viewpoint_core.sound import read_sound
from pack.viewpoint_core.video import to_rgb
from PIL import Image

sys.path.append(str(pack / "tests"))
from panorama_files import cut_short, numbers_shown, picture, trimmed, write_video
from phone_clips import write_pictures


@contextmanager
def own_folder() -> Iterator[Path]:
    """The host's input and temp folder for a check."""
    paths = host_files.folder_paths
    before = paths.get_input_directory(), paths.get_temp_directory()
    with tempfile.TemporaryDirectory() as work:
        paths.set_input_directory(work)
        paths.set_temp_directory(work)
        try:
            yield Path(work)
        finally:
            paths.set_input_directory(before[0])
            paths.set_temp_directory(before[1])


@contextmanager
def free_bytes(size: int) -> Iterator[None]:
    """So many bytes are free."""
    before = memory.free_bytes
    memory.free_bytes = lambda: size
    try:
        yield
    finally:
        memory.free_bytes = before


def check_a_clip_beyond_memory_is_refused_before_it_is_decoded() -> None:
    with own_folder() as folder:
        write_video(folder / "a.mp4", 20, width=256, height=128)
        with free_bytes(1 << 30):
            words = "4097 frames of 256 x 128 need 1.9 GiB of memory, 1.0 GiB are free; load fewer"
            expect_error(lambda: ViewPointLoadClip.execute("a.mp4", 0.0, 4097, 16.0, 0), words)
            expect_error(lambda: ViewPointLoadClip.execute("a.mp4", 0.0, 4097, 16.0, 64), "has 20 until it ends")
            images, audio, fps = ViewPointLoadClip.execute("a.mp4", 0.0, 17, 16.0, 0).args
            peak = peak_bytes(lambda: ViewPointLoadClip.execute("a.mp4", 0.0, 17, 16.0, 0))
        assert (tuple(images.shape), audio, fps) == ((17, 128, 256, 3), None, 16.0)
        assert images.is_contiguous()
        assert peak < 1.1 * PIXEL_BYTES * 17 * 128 * 256


def check_kept_lookups_are_given_up_before_anything_is_refused() -> None:
    lookup, before = kept.Kept(torch.zeros), memory.free_bytes
    lookup(100 << 20)  # 400 MiB
    memory.free_bytes = lambda: (1 << 30) - lookup.nbytes()
    try:
        memory.check_room(1 << 30, "frames", "give fewer")
    finally:
        memory.free_bytes = before
    assert lookup.nbytes() == 0


def check_the_host_gives_up_models_before_anything_is_refused() -> None:
    management = comfy.model_management
    model = load(33)  # the host lists only what somebody holds
    management.load_models_gpu([model])
    loaded = len(management.current_loaded_models)
    before = memory.free_bytes
    memory.free_bytes = lambda: 0 if management.current_loaded_models else 1 << 62
    try:
        assert loaded
        memory.check_room(1 << 61, "all frames", "give fewer")
    finally:
        memory.free_bytes = before
    with free_bytes(1 << 30):
        words = "all frames need 2.0 GiB of memory, 1.0 GiB are free; give fewer, or unload models (Edit > "
        expect_error(lambda: memory.check_room(2 << 30, "all frames", "give fewer"), words)
        memory.check_room(1 << 30, "all frames", "give fewer")


async def settled(value: Any) -> Any:
    """What a method of the host's cache gives: newer hosts' are coroutines."""
    return await value if asyncio.iscoroutine(value) else value


def check_a_host_that_counts_one_picture_where_no_header_tells_does_not_make_a_still_of_a_video() -> None:
    from pack.nodes.preview_video import frame_count

    def video(count: int, seconds: float) -> SimpleNamespace:
        told = {"get_frame_count": count, "get_duration": seconds, "get_frame_rate": Fraction(24)}
        return SimpleNamespace(**{name: lambda value=value: value for name, value in told.items()})

    assert [frame_count(video(*told)) for told in ((1, 2.0), (1, 1 / 24), (1, 0.0), (50, 2.0))] == [48, 1, 1, 50]


def check_the_shortest_h265_videos_have_no_frames_in_another_order() -> None:
    """x265 gives them wrong decoding times, at random."""
    bar = SimpleNamespace(update=lambda value: None)
    with tempfile.TemporaryDirectory() as work:
        file = Path(work) / "short.mp4"
        for frames in (1, 2, 3, 9):
            encode_video(file, torch.rand(frames, 3, 64, 128), Fraction(16), "h265", 20, None, {}, bar)
            with av.open(str(file)) as container:
                times = [(packet.dts, packet.pts) for packet in container.demux(video=0) if packet.size]
            assert len(times) == frames
            assert any(dts != pts for dts, pts in times) == (frames == 9), times


def served_from_the_cache(graphs: list[dict[str, Any]], node: str) -> list[bool]:
    """Whether the host, running graphs one after another, takes a node's result of the run before."""

    async def serve() -> list[bool]:
        cache, found = HierarchicalCache(CacheKeySetInputSignature), []
        for graph in graphs:
            prompt = DynamicPrompt(graph)
            await cache.set_prompt(prompt, list(graph), execution.IsChangedCache("run", prompt, cache))
            found.append(await settled(cache.get(node)) is not None)
            await settled(cache.set(node, "a result"))
        return found

    return asyncio.run(serve())


def clip_graph(file: Any) -> dict[str, Any]:
    """A node that could give a file name, and one that loads a clip."""
    settings = {"start_s": 0.0, "length": 5, "fps": 16.0, "longest_side": 0}
    return {
        "name": {"class_type": "PrimitiveString", "inputs": {"value": "a.mp4"}},
        "clip": {"class_type": "ViewPointLoadClip", "inputs": {"file": file, **settings}},
    }


def check_a_clip_with_a_linked_name_is_read_every_time_and_a_chosen_one_once_it_changed() -> None:
    known = execution.nodes.NODE_CLASS_MAPPINGS
    kept = dict(known)
    known |= {"ViewPointLoadClip": ViewPointLoadClip, "PrimitiveString": PrimitiveString}
    try:
        with own_folder() as folder:
            file = write_video(folder / "a.mp4", 5)
            chosen = [clip_graph("a.mp4") for _ in range(2)]
            assert served_from_the_cache(chosen, "clip") == [False, True]
            os.utime(file, (1, 1))  # the host noted the time before in the graphs that it has seen
            assert served_from_the_cache([*chosen, clip_graph("a.mp4")], "clip") == [False, True, False]
            assert served_from_the_cache([clip_graph(["name", 0]) for _ in range(3)], "clip") == [False] * 3
            assert served_from_the_cache([clip_graph(["name", 0]) for _ in range(3)], "name") == [False, True, True]
    finally:
        known.clear()
        known.update(kept)


class Unloaded(InputImpl.VideoFromFile):
    """A VIDEO whose pictures must not be loaded."""

    def get_components(self) -> None:
        raise ValueError("the whole video is loaded")


class Part(Unloaded):
    """A part of a file, as newer hosts make them."""

    def get_duration(self) -> float:
        return super().get_duration() / 2


class Cropped(Unloaded):
    """Pictures of a file cropped, as newer hosts do it."""

    def get_dimensions(self) -> tuple[int, int]:
        width, height = super().get_dimensions()
        return width, height // 2


def look(video: Any, folder: Path, projection: str = "erp") -> tuple[Path, dict[str, Any]]:
    """The file for the viewer, and what the viewer is told."""
    (shown,) = ViewPointPreview360.execute(video, projection, 5.0).ui["viewpoint_360"]
    assert (shown["type"], shown["subfolder"]) == ("temp", "")
    return folder / shown["filename"], shown


def packets(file: Path) -> list[bytes]:
    """The pictures of a video as they are coded."""
    with av.open(str(file)) as container:
        return [bytes(packet) for packet in container.demux(video=0) if packet.size]


def decoded(file: Path) -> tuple[list[float], torch.Tensor]:
    """Times and pictures (T, 3, H, W)."""
    with av.open(str(file)) as container:
        frames = list(container.decode(video=0))
    return [float(frame.time) for frame in frames], torch.stack([to_rgb(frame) for frame in frames])


def assert_alike(pictures: torch.Tensor, others: torch.Tensor) -> None:
    """The same pictures but for what coding takes away."""
    assert pictures.shape == others.shape
    assert float((pictures.float() - others.float()).abs().mean((1, 2, 3)).max()) < 4


def check_looking_at_a_file_that_browsers_play_copies_it_and_keeps_its_sound() -> None:
    with own_folder() as folder:
        for name in ("a.mp4", "a.mov"):
            pictures = [picture(number) for number in range(24)]
            source = write_pictures(folder / name, pictures, beep_s=0.5 if name == "a.mov" else None)
            file, shown = look(Unloaded(str(source)), folder)
            assert packets(file) == packets(source)
            times, seen = decoded(file)
            assert numbers_shown(seen) == list(range(24))
            assert abs(times[0]) < 1e-3
            assert (shown["media"], round(shown["fps"], 1), shown["note"]) == ("video", 16, "")
            assert shown["audio"] == (name == "a.mov")
            sound = read_sound(file, 0.0, 2.0)
            assert (sound is not None) == (name == "a.mov")
            if sound is not None:
                beep = int(sound[0][0].abs().gt(0.3).nonzero()[0])
                assert abs(beep / sound[1] - 0.5) < 0.02


def check_a_copy_begins_at_0_and_keeps_reordered_frames_in_their_places() -> None:
    with own_folder() as folder:
        source = write_video(folder / "a.mkv", times_ms=[2000 + 62 * number for number in range(30)], fps=16)
        file, _ = look(Unloaded(str(source)), folder)
        times, seen = decoded(file)
        assert numbers_shown(seen) == list(range(30))
        assert all(abs(time - 0.062 * number) < 2e-3 for number, time in enumerate(times))


def check_looking_at_any_other_file_encodes_it_picture_by_picture() -> None:
    with own_folder() as folder:
        for codec, suffix in (("mpeg4", ".avi"), ("libvpx-vp9", ".webm")):
            source = write_video(folder / f"a{suffix}", 20, codec=codec)
            file, shown = look(Unloaded(str(source)), folder)
            with av.open(str(file)) as container:
                assert container.streams.video[0].codec_context.name == "h264"
                assert container.streams.video[0].average_rate == 16
            assert_alike(decoded(file)[1], decoded(source)[1])
            assert (shown["fps"], shown["audio"], shown["note"]) == (16, False, "")


def check_a_damaged_file_is_shown_as_far_as_it_goes_and_that_is_said() -> None:
    with own_folder() as folder:
        source = cut_short(write_video(folder / "a.avi", 60, codec="mpeg4"), 0.8)
        file, shown = look(Unloaded(str(source)), folder)
        count = len(decoded(file)[0])
        assert 10 < count < 50
        assert shown["note"] == f"The file tells of 60 frames, and {count} can be decoded."


def check_frames_that_an_edit_list_hides_are_no_damage() -> None:
    with own_folder() as folder:
        source = write_video(folder / "a.mp4", 60, codec="mpeg4")
        file, shown = look(Unloaded(str(trimmed(source, folder / "b.mp4", 7))), folder)
        assert len(decoded(file)[0]) == 53
        assert shown["note"] == ""


def check_a_rate_of_minutes_a_frame_keeps_its_time() -> None:
    with own_folder() as folder:
        source = folder / "slow.mkv"
        with av.open(str(source), "w") as container:
            stream = container.add_stream("mpeg4", rate=Fraction(1, 1800))
            stream.width, stream.height, stream.pix_fmt = 128, 64, "yuv420p"
            for number in range(4):
                container.mux(stream.encode(av.VideoFrame.from_ndarray(picture(number, 128, 64), format="rgb24")))
            container.mux(stream.encode(None))
        file, _ = look(Unloaded(str(source)), folder)
        with av.open(str(file)) as container:
            assert container.streams.video[0].average_rate == Fraction(1, 1800)


def check_narrow_h265_is_encoded_within_its_memory() -> None:
    """x265 wrote beyond it, which ends the process: one of its own here, so that the check sees it."""
    script = """
import sys
from pathlib import Path
target = Path(sys.argv[3])
import checks
import torch
from fractions import Fraction
from types import SimpleNamespace
from pack.nodes.video_encoder import encode_video
for width in (32, 36, 40, 48, 52):
    frames = torch.rand(5, 3, width // 2, width)
    encode_video(target, frames, Fraction(16), "h265", 20, None, {}, SimpleNamespace(update=lambda _: None))
"""
    with tempfile.TemporaryDirectory() as work:
        code = [sys.executable, "-c", script, str(host), str(pack), str(Path(work) / "a.mp4")]
        done = subprocess.run(code, cwd=Path(__file__).parent, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]


def check_sound_is_cut_off_at_full_loudness_and_whole_numbers_are_refused() -> None:
    sound = {"waveform": torch.tensor([[[0.0, 0.5, -3.0, 2.0]]]), "sample_rate": 8000}
    assert check_audio(sound)[0].tolist() == [[0.0, 0.5, -1.0, 1.0]]
    sound["waveform"] *= 32768
    expect_error(lambda: check_audio(sound), "audio: got values up to 98304; expected -1 to 1")


def check_metadata_that_no_png_can_name_is_left_out() -> None:
    metadata = {"prompt": "{}", "\u00e9\u65e5\u672c": "[]", "a" * 80: "x", "workflow": "\u65e5\u672c"}
    data = encode_image(torch.rand(3, 32, 64), "png", 90, metadata)
    with Image.open(io.BytesIO(data)) as image:
        assert {name: image.text.get(name) for name in metadata} == metadata | dict.fromkeys(list(metadata)[1:3])


def check_sound_that_outlasts_the_pictures_is_no_damage() -> None:
    with own_folder() as folder:
        pictures = [np.full((64, 128, 3), 8 * number, np.uint8) for number in range(30)]
        source = write_pictures(folder / "a.mkv", pictures, pix_fmt="yuv444p", beep_s=0.5, sound_s=(0.0, 3.0))
        file, shown = look(Unloaded(str(source)), folder)
        with av.open(str(source)) as container:
            assert container.duration > 2.5e6
        assert len(decoded(file)[0]) == 30
        assert (shown["audio"], shown["note"]) == (True, "")


def check_above_240_frames_a_second_some_are_shown_at_the_right_speed() -> None:
    with own_folder() as folder:
        source = write_video(folder / "a.avi", 48, fps=480, codec="mpeg4")
        file, shown = look(Unloaded(str(source)), folder)
        assert_alike(decoded(file)[1], decoded(source)[1][::2])
        assert shown["fps"] == 240
        assert "480 frames per second" in shown["note"]


def check_a_file_that_is_no_panorama_is_refused_before_anything_is_loaded() -> None:
    with own_folder() as folder:
        source = write_video(folder / "a.mp4", 5, width=96, height=64)
        for kind in (Unloaded, Part):
            expect_error(lambda kind=kind: look(kind(str(source)), folder), "got 96 x 64")
            expect_error(lambda kind=kind: look(kind(str(source)), folder, "viewpoint"), "square")
        assert [file.name for file in folder.iterdir()] == ["a.mp4"]


def check_a_part_of_a_file_goes_by_the_host_if_it_fits_into_memory() -> None:
    with own_folder() as folder:
        source = write_video(folder / "a.mp4", 40, width=512, height=256)
        with free_bytes(100 << 20):
            expect_error(lambda: look(Part(str(source)), folder), "40 frames of 512 x 256 need 0.1 GiB of memory")
        expect_error(lambda: look(Part(str(source)), folder), "the whole video is loaded")


def check_a_cropped_file_goes_by_the_host() -> None:
    with own_folder() as folder:
        source = write_video(folder / "a.mp4", 5, width=128, height=128)
        expect_error(lambda: look(Cropped(str(source)), folder), "the whole video is loaded")
        expect_error(lambda: look(Unloaded(str(source)), folder), "got 128 x 128")


def check_one_picture_is_still_shown_as_a_picture() -> None:
    with own_folder() as folder:
        file, shown = look(InputImpl.VideoFromFile(str(write_video(folder / "a.mp4", 1))), folder)
        assert (file.suffix, shown["media"]) == (".png", "image")


if __name__ == "__main__":
    run_checks(dict(globals()))
