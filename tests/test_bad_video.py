"""Footage as it comes: turned, at any rate, of odd size, without sound, damaged. Read right, or refused by name."""

import math
import uuid
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import torch

from scripts.comfy_client import PromptFailed, PromptRefused, Workflow
from scripts.comfy_server import ComfyServer, make_base_directory
from scripts.host import provide_host
from tests.panorama_files import HEIGHT, WIDTH, cut_short, numbers_shown, picture
from tests.phone_clips import BLUE, RED, SOUND_RATE, TURNS, corners, set_turn, write_pictures
from viewpoint_core.training.data.media import probe, read_frames
from viewpoint_core.video import read_clip, to_rgb

VARIABLE_MS = [round(1000 * (n / 30 + 0.012 * math.sin(1.7 * n) + (0.4 if n > 40 else 0))) for n in range(90)]


def numbered(count: int) -> list[np.ndarray]:
    """Pictures that say which they are."""
    return [picture(number) for number in range(count)]


def shown(turn: tuple[int, int, int, int], width: int, height: int) -> np.ndarray:
    """The corner picture as a player shows it, pixel by pixel."""
    a, b, c, d = turn
    given = corners(width, height)
    across, down = (height, width) if a == 0 else (width, height)
    out = np.zeros((down, across, 3), np.uint8)
    for y in range(height):
        for x in range(width):
            # a mirrored axis counts from its far end: -1 is its first pixel, not its zeroth
            to_x = a * x + c * y + (-1 if min(a, c) < 0 else 0)
            to_y = b * x + d * y + (-1 if min(b, d) < 0 else 0)
            out[to_y % down, to_x % across] = given[y, x]
    return out


@pytest.mark.parametrize("name", TURNS)
def test_a_clip_comes_upright_as_its_flag_says(tmp_path: Path, name: str) -> None:
    file = set_turn(write_pictures(tmp_path / "a.mp4", [corners(64, 32)] * 5), TURNS[name])
    expected = torch.from_numpy(shown(TURNS[name], 64, 32)).movedim(-1, 0)
    pictures, _ = read_clip(file, start_s=0, length=5, fps=16)
    assert pictures.shape[1:] == expected.shape
    assert float((pictures[0].float() - expected).abs().mean()) < 4
    smaller, _ = read_clip(file, start_s=0, length=1, fps=16, longest_side=32)
    assert smaller.shape[1:] == (3, expected.shape[1] // 2, expected.shape[2] // 2)
    info = probe(file)
    assert (info.height, info.width) == tuple(expected.shape[1:])
    assert torch.equal(read_frames(file, [0], 16)[0], pictures[0])


def test_a_turn_by_any_other_angle_is_refused(tmp_path: Path) -> None:
    file = set_turn(write_pictures(tmp_path / "a.mp4", [corners(64, 32)] * 5), (0.8, 0.6, -0.6, 0.8))
    with pytest.raises(ValueError, match=r"a\.mp4: .*expected quarter turns"):
        read_clip(file, start_s=0, length=1, fps=16)


@pytest.mark.parametrize(("start", "fps"), [(0.0, 16), (0.5, 16), (1.4, 24), (0.0, 60)])
def test_a_variable_rate_keeps_its_time(tmp_path: Path, start: float, fps: float) -> None:
    """Every picture is one that was on screen less than a frame away from its time."""
    file = write_pictures(tmp_path / "a.mp4", numbered(62), times_ms=VARIABLE_MS[:62])
    pictures, _ = read_clip(file, start_s=start, length=17, fps=fps)
    for index, number in enumerate(numbers_shown(pictures)):
        time, begin = 1000 * (start + index / fps), VARIABLE_MS[0]
        until = VARIABLE_MS[number + 1] - begin
        assert VARIABLE_MS[number] - begin - 26 < time < until + 26, (index, number)


def test_60_frames_a_second_give_the_nearest_frame(tmp_path: Path) -> None:
    times = [round(1000 * number / 60) for number in range(62)]
    file = write_pictures(tmp_path / "a.mp4", numbered(62), times_ms=times)
    pictures, _ = read_clip(file, start_s=0, length=13, fps=16)
    assert numbers_shown(pictures) == pytest.approx([60 / 16 * index for index in range(13)], abs=0.51)


def test_sound_belongs_to_its_pictures(tmp_path: Path) -> None:
    pictures = [np.full((HEIGHT, WIDTH, 3), 250 if number == 24 else 5, np.uint8) for number in range(48)]
    file = write_pictures(tmp_path / "a.mov", pictures, beep_s=1.5)
    for start in (0.0, 0.5, 1.25):
        clip, sound = read_clip(file, start_s=start, length=17, fps=16)
        assert sound is not None
        samples, rate = sound
        assert (rate, samples.shape) == (SOUND_RATE, (1, round(17 / 16 * SOUND_RATE)))
        at = 1.5 - start
        if at < 17 / 16:
            assert int(clip.float().mean((1, 2, 3)).argmax()) == round(16 * at)
            assert int(samples[0].abs().gt(0.3).nonzero()[0]) == pytest.approx(at * rate, abs=2)
        else:
            assert float(samples.abs().max()) < 0.01


@pytest.mark.parametrize(
    ("sound_s", "length"),
    [((0.0, 0.5), 0.5), ((0.25, 3.0), 17 / 16), ((2.5, 3.0), None)],
    ids=["short", "late", "none"],
)
def test_sound_that_starts_late_or_ends_early_stays_in_its_place(
    tmp_path: Path, sound_s: tuple[float, float], length: float | None
) -> None:
    file = write_pictures(tmp_path / "a.mkv", numbered(48), beep_s=sound_s[0] + 0.1, sound_s=sound_s)
    _, sound = read_clip(file, start_s=0, length=17, fps=16)
    if length is None:
        assert sound is None
        return
    assert sound is not None
    assert sound[0].shape[1] == pytest.approx(length * SOUND_RATE, abs=32)
    beep = int(sound[0][0].abs().gt(0.3).nonzero()[0])
    assert beep == pytest.approx((sound_s[0] + 0.1) * SOUND_RATE, abs=32)


def test_sound_that_cannot_be_decoded_is_named(tmp_path: Path) -> None:
    file = write_pictures(tmp_path / "a.mkv", numbered(24), beep_s=0.5)
    unknown = tmp_path / "unknown.mkv"
    unknown.write_bytes(file.read_bytes().replace(b"A_PCM/INT/LIT", b"A_XYZ/XYZ/XYZ"))
    with pytest.raises(ValueError, match=r"unknown\.mkv: the sound cannot be decoded \(it is of no known kind\)"):
        read_clip(unknown, start_s=0, length=1, fps=16)


@pytest.mark.parametrize("start", [0.0, 1.5])
def test_each_picture_is_told_and_loading_can_be_stopped(tmp_path: Path, start: float) -> None:
    file, told = write_pictures(tmp_path / "a.mkv", numbered(48)), []

    def stop() -> None:
        told.append(1)
        if len(told) > 12:
            raise InterruptedError

    read_clip(file, start_s=start, length=9, fps=16, on_frame=lambda: told.append(1))
    assert len(told) == 9
    with pytest.raises(InterruptedError):
        read_clip(file, start_s=start, length=9, fps=16, on_frame=stop)
    assert len(told) == 13


def test_loading_can_be_stopped_while_frames_are_decoded_that_are_not_asked_for(tmp_path: Path) -> None:
    """As where the beginning lies beyond the end."""
    file, steps = write_pictures(tmp_path / "a.mkv", numbered(200)), []

    def stop() -> None:
        steps.append(1)
        if len(steps) > 20:
            raise InterruptedError

    with pytest.raises(InterruptedError):
        read_clip(file, start_s=60, length=9, fps=16, on_step=stop)
    assert len(steps) == 21


def test_pixels_that_are_not_square_become_square(tmp_path: Path) -> None:
    file = write_pictures(tmp_path / "a.mp4", [corners(48, 32)] * 5, aspect=Fraction(4, 3))
    assert read_clip(file, start_s=0, length=1, fps=16)[0].shape == (1, 3, 32, 64)


def test_what_is_too_short_or_damaged_is_named(tmp_path: Path) -> None:
    whole = write_pictures(tmp_path / "whole.mkv", numbered(48))
    with pytest.raises(ValueError, match=r"whole\.mkv: asked for 49 pictures at 16 fps from 0 s on, .* has 48 until"):
        read_clip(whole, start_s=0, length=49, fps=16)
    with pytest.raises(ValueError, match="has 0 until"):
        read_clip(whole, start_s=60, length=1, fps=16)
    with pytest.raises(ValueError, match=r"4k \+ 1"):
        read_clip(whole, start_s=0, length=16, fps=16)
    with pytest.raises(ValueError, match=r"cut\.mkv: asked for 45 pictures"):
        read_clip(cut_short(write_pictures(tmp_path / "cut.mkv", numbered(48)), 0.6), start_s=0, length=45, fps=16)
    (tmp_path / "text.mp4").write_bytes(b"this is no video" * 100)
    with pytest.raises(ValueError, match=r"text\.mp4: the video cannot be opened \(Invalid data"):
        read_clip(tmp_path / "text.mp4", start_s=0, length=1, fps=16)


# On the server

MAP = 128


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ComfyServer]:
    """A server with clips of every kind."""
    base = make_base_directory(tmp_path_factory.mktemp("comfy"))
    files = base / "input"
    write_pictures(files / "odd.mp4", [corners(639, 357)] * 5, pix_fmt="yuv444p")
    set_turn(write_pictures(files / "turned.mp4", [corners(64, 32)] * 5), TURNS["a quarter to the right"])
    write_pictures(files / "variable.mp4", numbered(62), times_ms=VARIABLE_MS[:62])
    write_pictures(files / "sound.mov", numbered(24), beep_s=0.5)
    (files / "corrupt.mp4").write_bytes(b"this is no video" * 100)
    cut_short(write_pictures(files / "headless.mp4", numbered(24)), 0.5)
    with ComfyServer(provide_host(), base, flags=("--cpu",)) as running:
        yield running


def node(class_type: str, **inputs: Any) -> dict[str, Any]:
    return {"class_type": class_type, "inputs": inputs}


def hosts_loader(file: str) -> Workflow:
    """The host's own way to load a video."""
    return {"file": node("LoadVideo", file=file), "clip": node("GetVideoComponents", video=["file", 0])}


def clip_loader(file: str, **inputs: Any) -> Workflow:
    """This pack's."""
    settings = {"start_s": 0.0, "length": 5, "fps": 16.0, "longest_side": 1920, **inputs}
    return {"clip": node("ViewPointLoadClip", file=file, **settings)}


def placed_and_saved(loader: Workflow) -> Workflow:
    """A clip on the map, and that as a panorama in a file, with the clip's sound and rate."""
    angles = {"yaw_deg": 0.0, "pitch_deg": 0.0, "roll_deg": 0.0, "fov_deg": 90.0}
    place = {"view": ["clip", 0], "map_size": MAP, "length": 0, "interpolation": "bicubic", **angles}
    save = {"fps": ["clip", 2], "codec": "h264", "crf": 10, "filename_prefix": f"video/{uuid.uuid4().hex}"}
    return loader | {
        "place": node("ViewPointPlaceView", **place),
        "erp": node("ViewPointToERP", viewpoint=["place", 0], width=256, fusion=True, interpolation="bicubic"),
        "save": node("ViewPointSave360Video", erp=["erp", 0], audio=["clip", 1], **save),
    }


def run(server: ComfyServer, workflow: Workflow) -> tuple[list[torch.Tensor], list[str]]:
    """Pictures (3, H, W) and kinds of streams of the file that a workflow saves."""
    (file,) = server.client.outputs(server.client.run(workflow), "save")
    with av.open(str(file)) as container:
        kinds = [stream.type for stream in container.streams]
        return [to_rgb(frame) for frame in container.decode(video=0)], kinds


def pixel(picture: torch.Tensor, lon_deg: float, lat_deg: float) -> list[int]:
    """A panorama's colour in a direction."""
    height, width = picture.shape[-2:]
    return picture[:, int((0.5 - lat_deg / 180) * height), int((0.5 + lon_deg / 360) * width)].tolist()


@pytest.mark.host
@pytest.mark.parametrize("loader", [hosts_loader, clip_loader])
def test_an_odd_size_without_sound_is_placed_and_saved(server: ComfyServer, loader: Any) -> None:
    pictures, kinds = run(server, placed_and_saved(loader("odd.mp4")))
    assert (len(pictures), pictures[0].shape, kinds) == (5, (3, 128, 256), ["video"])
    assert pixel(pictures[0], -20, 12) == pytest.approx(RED, abs=12)
    assert pixel(pictures[0], 20, 12) == pytest.approx(BLUE, abs=12)


@pytest.mark.host
def test_a_turned_clip_is_placed_upright(server: ComfyServer) -> None:
    pictures, _ = run(server, placed_and_saved(clip_loader("turned.mp4")))
    # a quarter to the right: the red top left comes to the top right, the blue top right below it
    assert pixel(pictures[0], 25, 30) == pytest.approx(RED, abs=12)
    assert pixel(pictures[0], 25, -30) == pytest.approx(BLUE, abs=12)


@pytest.mark.host
def test_a_variable_rate_and_sound_arrive_at_16_a_second(server: ComfyServer) -> None:
    (file,) = server.client.outputs(server.client.run(placed_and_saved(clip_loader("variable.mp4", length=33))), "save")
    with av.open(str(file)) as container:
        assert (container.streams.video[0].frames, container.streams.video[0].average_rate) == (33, 16)
    pictures, kinds = run(server, placed_and_saved(clip_loader("sound.mov", length=21)))
    assert (len(pictures), kinds) == (21, ["video", "audio"])


@pytest.mark.host
@pytest.mark.parametrize("name", ["corrupt.mp4", "headless.mp4"])
@pytest.mark.parametrize("loader", [hosts_loader, clip_loader])
def test_a_corrupt_file_is_named_in_one_line(server: ComfyServer, name: str, loader: Any) -> None:
    with pytest.raises(PromptFailed, match=name) as raised:
        server.client.run(placed_and_saved(loader(name)))
    assert "\n" not in raised.value.error["exception_message"].strip()
    assert list((server.base / "output").rglob(".*")) == []


@pytest.mark.host
def test_a_clip_that_is_too_short_says_how_long_it_is(server: ComfyServer) -> None:
    with pytest.raises(PromptFailed, match="asked for 49 pictures at 16 fps from 0 s on, and the video has 24"):
        server.client.run(placed_and_saved(clip_loader("sound.mov", length=49)))


@pytest.mark.host
@pytest.mark.parametrize(
    ("file", "length"), [("../secret.mp4", 5), ("/etc/passwd", 5), ("missing.mp4", 5), ("sound.mov", 6)]
)
def test_files_outside_and_lengths_that_do_not_fit_are_refused(server: ComfyServer, file: str, length: int) -> None:
    with pytest.raises(PromptRefused):
        server.client.run(placed_and_saved(clip_loader(file, length=length)))


def linked(server: ComfyServer, length: int, **inputs: Any) -> list[torch.Tensor]:
    """Pictures of a clip whose length comes by a link."""
    workflow = placed_and_saved(clip_loader("sound.mov", length=["number", 0], **inputs))
    return run(server, workflow | {"number": node("PrimitiveInt", value=length)})[0]


@pytest.mark.host
def test_a_linked_length_is_checked_once_it_is_known(server: ComfyServer) -> None:
    assert len(linked(server, 9)) == 9
    for length, words in ((6, r"expected 4k \+ 1"), (4101, "length is 4101; expected at most 4097")):
        with pytest.raises(PromptFailed, match=words):
            linked(server, length)
    with pytest.raises(PromptRefused, match="4101"):
        run(server, placed_and_saved(clip_loader("sound.mov", length=4101)))
