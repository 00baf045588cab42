"""Pictures are read right from images, frame folders and videos, whatever a header says."""

import struct
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from tests.panorama_files import HEIGHT, WIDTH, cut_short, numbers_shown, write_frames, write_image, write_video
from viewpoint_core import video
from viewpoint_core.training.data.media import MAX_GAP_SECONDS, natural_key, probe, read_frames, read_image


@pytest.mark.parametrize("suffix", [".mp4", ".mkv", ".mov"])
@pytest.mark.parametrize("fps", [16, 25])
def test_a_constant_rate_video_is_its_frames(tmp_path: Path, suffix: str, fps: int) -> None:
    file = write_video(tmp_path / f"clip{suffix}", 60, fps=fps)
    info = probe(file)
    assert (info.frames, info.width, info.height, info.missing) == (60, WIDTH, HEIGHT, 0)
    assert info.fps == pytest.approx(fps, rel=1e-3)
    assert numbers_shown(read_frames(file, range(60), info.fps)) == list(range(60))


def test_ntsc_rates_do_not_drift(tmp_path: Path) -> None:
    times = [round(number * 1001 / 30) for number in range(60)]
    file = write_video(tmp_path / "clip.mkv", times_ms=times, fps=30)
    info = probe(file)
    assert info.frames == 60
    assert numbers_shown(read_frames(file, [0, 29, 58, 59], info.fps)) == [0, 29, 58, 59]


def test_frames_come_in_the_asked_order_and_again_when_asked_twice(tmp_path: Path) -> None:
    file = write_video(tmp_path / "clip.mp4", 60)
    assert numbers_shown(read_frames(file, [40, 3, 3, 59, 0])) == [40, 3, 3, 59, 0]


def test_seeking_gives_what_decoding_from_the_start_gives(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = write_video(tmp_path / "clip.mp4", 60)
    wanted = [33, 41, 59]
    sought = read_frames(file, wanted, 16)
    monkeypatch.setattr("viewpoint_core.video.SEEK_SECONDS", 1e9)
    assert (sought == read_frames(file, wanted, 16)).all()


def test_where_seeking_breaks_off_all_is_decoded_from_the_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file, wanted, decode_at = write_video(tmp_path / "clip.mp4", 60), [33, 41, 59], video.decode_at
    sought = read_frames(file, wanted, 16)

    def broken(*args: Any, seek: bool, in_sync: bool) -> Iterator[Tensor]:
        for number, picture in enumerate(decode_at(*args, seek=seek, in_sync=in_sync)):
            if seek and number == 2:
                return
            yield picture if not seek else torch.zeros_like(picture)

    monkeypatch.setattr(video, "decode_at", broken)
    assert (sought == read_frames(file, wanted, 16)).all()


@pytest.mark.parametrize("suffix", [".mp4", ".mkv"])
def test_at_a_variable_rate_a_picture_is_the_one_on_screen_at_its_time(tmp_path: Path, suffix: str) -> None:
    times = [0, 100, 200, 900, 910, 920, 930, 940, 2000, 2100, 2200, 2300]
    file = write_video(tmp_path / f"clip{suffix}", times_ms=times)
    info = probe(file)
    assert (info.frames, info.missing) == (24, 0)
    assert info.fps == pytest.approx(10)
    shown = [max(number for number, time in enumerate(times) if time < 100 * index + 50) for index in range(24)]
    assert numbers_shown(read_frames(file, range(24), info.fps)) == shown


def test_a_header_that_promises_too_many_frames_is_not_believed(tmp_path: Path) -> None:
    file = write_video(tmp_path / "clip.avi", 60, codec="mpeg4")
    data = bytearray(file.read_bytes())
    for chunk, offset in ((b"strh", 40), (b"avih", 24)):
        struct.pack_into("<I", data, data.find(chunk) + offset, 1000)
    file.write_bytes(data)
    with av.open(str(file)) as container:
        assert container.streams.video[0].frames == 1000
    info = probe(file)
    assert (info.frames, info.fps, info.missing) == (60, 16, 940)


@pytest.mark.parametrize("suffix", [".mp4", ".mkv"])
def test_a_video_that_ends_early_has_the_frames_that_decode(tmp_path: Path, suffix: str) -> None:
    file = cut_short(write_video(tmp_path / f"clip{suffix}", 60, faststart=suffix == ".mp4"), 0.7)
    info = probe(file)
    assert 5 < info.frames < 60
    assert info.frames + info.missing == pytest.approx(60, abs=1)
    last = info.frames - 1
    assert numbers_shown(read_frames(file, [0, last], info.fps)) == [0, last]
    with pytest.raises(ValueError, match=f"picture {last + 1} at .* ends before it"):
        read_frames(file, [0, last + 1], info.fps)


@pytest.mark.parametrize("index", [60, 61, 1000])
def test_pictures_past_the_end_are_an_error_and_not_repeated(tmp_path: Path, index: int) -> None:
    file = write_video(tmp_path / "clip.mp4", 60)
    with pytest.raises(ValueError, match="ends before it"):
        read_frames(file, [59, index], 16)


def test_a_long_hole_in_a_video_is_an_error(tmp_path: Path) -> None:
    hole = round(1000 * MAX_GAP_SECONDS) + 500
    file = write_video(tmp_path / "clip.mkv", times_ms=[0, 40, 80, hole, hole + 40])
    with pytest.raises(ValueError, match=r"no frame comes for 5\.4 s"):
        probe(file)


@pytest.mark.parametrize("colorspace", [1, 5])
@pytest.mark.parametrize("full_range", [False, True])
def test_colours_follow_the_space_and_range_that_the_video_states(
    tmp_path: Path, colorspace: int, full_range: bool
) -> None:
    red, green, blue = colour = (200, 40, 90)
    weights = {1: (0.2126, 0.0722), 5: (0.299, 0.114)}[colorspace]
    luma = weights[0] * red + (1 - sum(weights)) * green + weights[1] * blue
    chroma = ((blue - luma) / (2 - 2 * weights[1]), (red - luma) / (2 - 2 * weights[0]))
    scale, offset, chroma_scale = (1, 0, 1) if full_range else (219 / 255, 16, 224 / 255)
    planes = [np.full((HEIGHT, WIDTH), luma * scale + offset)]
    planes += [np.full((HEIGHT // 2, WIDTH // 2), value * chroma_scale + 128) for value in chroma]
    yuv = np.concatenate([plane.reshape(-1, WIDTH) for plane in planes]).round().astype(np.uint8)
    file = tmp_path / "clip.mkv"
    with av.open(str(file), "w") as container:
        stream = container.add_stream("libx264", rate=16, options={"qp": "0"})
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        stream.codec_context.colorspace, stream.codec_context.color_range = colorspace, 2 if full_range else 1
        frame = av.VideoFrame.from_ndarray(yuv, format="yuv420p")
        frame.pts, frame.time_base = 0, Fraction(1, 16)
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    assert read_frames(file, [0], 16)[0, :, 8, 8].tolist() == pytest.approx(colour, abs=3)


def test_a_frame_folder_is_ordered_by_number(tmp_path: Path) -> None:
    for number in range(12):
        write_image(tmp_path / f"frame{number}.png", number)
    assert probe(tmp_path)[:4] == (12, 0, WIDTH, HEIGHT)
    assert numbers_shown(read_frames(tmp_path, [2, 10, 11])) == [2, 10, 11]


@pytest.mark.parametrize("names", [["a", "b2", "b10"], ["2x", "10x"], ["1", "x1"], ["a1b2", "a1b10"]])
def test_natural_order_compares_any_two_names(names: list[str]) -> None:
    assert sorted(reversed(names), key=natural_key) == names


def test_a_gap_in_numbered_frames_is_named(tmp_path: Path) -> None:
    write_frames(tmp_path, 30)
    (tmp_path / "00017.png").unlink()
    with pytest.raises(ValueError, match=r"missing between 00016\.png and 00018\.png"):
        probe(tmp_path)


def test_a_broken_or_odd_frame_is_named(tmp_path: Path) -> None:
    write_frames(tmp_path, 10)
    write_image(tmp_path / "00004.png", 4, 128, 64)
    with pytest.raises(ValueError, match=r"00004\.png is 128 x 64"):
        probe(tmp_path)
    cut_short(tmp_path / "00004.png", 0.5)
    with pytest.raises(ValueError, match=r"00004\.png: the image cannot be read"):
        probe(tmp_path)


def test_an_image_is_turned_as_its_exif_says(tmp_path: Path) -> None:
    image = Image.fromarray(np.zeros((WIDTH, HEIGHT, 3), np.uint8))
    exif = image.getexif()
    exif[0x0112] = 6
    image.save(tmp_path / "turned.jpg", exif=exif)
    assert read_image(tmp_path / "turned.jpg").shape == (3, HEIGHT, WIDTH)


def test_images_that_would_be_changed_by_reading_are_refused(tmp_path: Path) -> None:
    Image.fromarray(np.zeros((HEIGHT, WIDTH), np.uint16)).save(tmp_path / "deep.png")
    with pytest.raises(ValueError, match="8 bits a channel"):
        read_image(tmp_path / "deep.png")
    Image.fromarray(np.zeros((HEIGHT, WIDTH, 4), np.uint8)).save(tmp_path / "clear.png")
    with pytest.raises(ValueError, match="transparent"):
        read_image(tmp_path / "clear.png")


def test_what_is_no_panorama_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.mp4").write_bytes(b"no video")
    (tmp_path / "a.txt").write_text("text")
    for name, reason in (("a.mp4", "cannot be opened"), ("a.txt", "expected a folder"), ("b.mp4", "no such file")):
        with pytest.raises(ValueError, match=reason):
            probe(tmp_path / name)
    image = write_image(tmp_path / "a.png")
    for indices, reason in (([1], "there are 1"), ([], "one or more"), ([-1], "one or more")):
        with pytest.raises(ValueError, match=reason):
            read_frames(image, indices)
