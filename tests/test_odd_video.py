"""Videos as editors, recorders and broadcasts leave them: cut without encoding, with odd times, with damaged sound."""

from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import av
import numpy as np
import pytest
from av.video.frame import PictureType

from tests.panorama_files import HEIGHT, WIDTH, copied, numbers_shown, picture, trimmed, write_video
from tests.phone_clips import corners, write_pictures
from tests.test_sound import write_levels
from viewpoint_core import sound as sound_module
from viewpoint_core import video
from viewpoint_core.sound import read_sound
from viewpoint_core.training.data.media import probe, read_frames
from viewpoint_core.video import clean_frames, pick_frames, read_clip, timed_frames


def write_open_gops(file: Path) -> Path:
    """60 pictures, a key frame every 12, before which frames are shown that lean on the group before."""
    options = {"x264-params": "keyint=12:min-keyint=12:open-gop=1:bframes=3:b-adapt=0:scenecut=0:log-level=error"}
    with av.open(str(file), "w") as container:
        stream = container.add_stream("libx264", rate=16, options=options)
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        for number in range(60):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture(number), format="rgb24")))
        container.mux(stream.encode(None))
    return file


@pytest.mark.parametrize("suffix", [".mp4", ".mkv"])
def test_a_video_that_was_cut_within_open_groups_begins_with_its_first_whole_picture(
    tmp_path: Path, suffix: str
) -> None:
    file = copied(write_open_gops(tmp_path / f"whole{suffix}"), tmp_path / f"cut{suffix}", from_key=1)
    with av.open(str(file)) as container:
        stamps = [packet.pts for packet in container.demux(video=0) if packet.size]
    assert sum(stamp < stamps[0] for stamp in stamps) == 3
    clip, _ = read_clip(file, start_s=0, length=9, fps=16)
    first = numbers_shown(clip)[0]
    assert 9 <= first <= 12
    assert numbers_shown(clip) == list(range(first, first + 9))
    info = probe(file)
    assert (info.frames, info.missing) == (60 - first, 0)
    assert numbers_shown(read_frames(file, [0, 20, 40], info.fps)) == [first, first + 20, first + 40]


def test_seeking_into_open_groups_decodes_little(tmp_path: Path) -> None:
    file, steps = write_open_gops(tmp_path / "a.mp4"), []
    clip, _ = read_clip(file, start_s=3, length=5, fps=16, on_step=lambda: steps.append(1))
    assert numbers_shown(clip) == [48, 49, 50, 51, 52]
    assert len(steps) < 30


def test_damage_behind_the_first_clean_frame_ends_a_video() -> None:
    """Packets are numbers here: negative ones do not decode, 0 gives nothing yet."""

    def decode(packet: Any) -> list[Any]:
        if packet.number < 0:
            raise av.InvalidDataError(1, "damaged")
        return [SimpleNamespace(is_corrupt=False, number=packet.number)] if packet.number else []

    stream = SimpleNamespace(codec_context=SimpleNamespace(decode=decode))
    for packets, shown in (([-1, 0, -1, 1, 2], [1, 2]), ([1, 2, -1, 3], [1, 2]), ([-1, -1], [])):
        demuxed = [SimpleNamespace(is_corrupt=False, number=number) for number in packets]
        container = SimpleNamespace(demux=lambda stream, demuxed=demuxed: iter(demuxed))
        assert [frame.number for frame in clean_frames(container, stream)] == shown


def test_a_recording_that_mostly_stands_still_stays_in_sync() -> None:
    """60 frames a second, then pauses of five seconds: the mean rate says nothing of either."""
    times = [number / 60 for number in range(60)] + [1 + 5 * number for number in range(1, 5)]
    tick, wanted = times[-1] / len(times), [0.0, 0.05, 0.2, 5.9, 6.0, 10.95]
    timed = list(zip(times, range(len(times)), strict=True))
    exact = [max(number for number, time in enumerate(times) if time <= moment + 1e-9) for moment in wanted]
    assert list(pick_frames(timed, wanted, tick, in_sync=True)) == exact
    assert list(pick_frames(timed, wanted, tick)) != exact
    rounded = [(time, number) for number, time in enumerate([0, 0.033, 0.0335, 0.067, 0.1])]
    assert list(pick_frames(rounded, [0, 0.03, 0.09], 1 / 30, in_sync=True)) == [0, 2, 4]  # no rate of 2000


def times_of(monkeypatch: pytest.MonkeyPatch, stamps: list[int | None]) -> list[float]:
    """The times of frames with these time stamps in milliseconds, at a mean rate of 5 a second."""
    monkeypatch.setattr(video, "clean_frames", lambda *_: (SimpleNamespace(pts=stamp, dts=None) for stamp in stamps))
    stream = SimpleNamespace(average_rate=5, time_base=Fraction(1, 1000))
    return [time for time, _ in timed_frames(SimpleNamespace(format=SimpleNamespace(name="mov")), stream)]


def test_frames_that_share_a_time_do_not_move_those_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    times = times_of(monkeypatch, [0, 0, 33, 67, 67, 66, 100])
    assert times == pytest.approx([0, 0, 0.033, 0.067, 0.067, 0.067, 0.1], abs=1e-4)
    assert (np.diff(times) > 0).all()
    assert times_of(monkeypatch, [0, None, 400]) == pytest.approx([0, 0.2, 0.4], abs=1e-4)
    assert times_of(monkeypatch, [5000, 5200, 0, 200]) == pytest.approx([5, 5.2, 5.4, 5.6])


def test_avi_shows_its_frames_in_order_though_it_stores_them_in_another(tmp_path: Path) -> None:
    file = tmp_path / "a.avi"
    with av.open(str(file), "w") as container:
        stream = container.add_stream("libx264", rate=16, options={"bf": "2", "g": "12"})
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        for number in range(60):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture(number), format="rgb24")))
        container.mux(stream.encode(None))
    with av.open(str(file)) as container:
        assert "B" in {PictureType(frame.pict_type).name for frame in container.decode(video=0)}
    for start in (0, 2):
        clip, _ = read_clip(file, start_s=start, length=25, fps=16)
        assert numbers_shown(clip) == list(range(16 * start, 16 * start + 25))
    info = probe(file)
    assert (info.frames, info.missing) == (60, 0)
    assert info.fps == pytest.approx(16)
    assert numbers_shown(read_frames(file, range(60), 16)) == list(range(60))


def test_a_trimmed_or_late_video_does_not_end_early(tmp_path: Path) -> None:
    whole = write_video(tmp_path / "whole.mp4", 60)
    info = probe(trimmed(whole, tmp_path / "trimmed.mp4", 7))
    assert (info.frames, info.missing) == (53, 0)
    late = copied(whole, tmp_path / "late.mkv", later=0.5)
    with av.open(str(late)) as container:
        assert container.start_time > 400_000
    assert (probe(late).frames, probe(late).missing) == (60, 0)


def test_the_trainers_pictures_have_square_pixels_too(tmp_path: Path) -> None:
    file = write_pictures(tmp_path / "a.mp4", [corners(48, 32)] * 5, aspect=Fraction(4, 3))
    assert (probe(file).width, probe(file).height) == (64, 32)
    assert read_frames(file, [0, 3]).shape == (2, 3, 32, 64)


def write_tone(file: Path, damaged: range) -> Path:
    """Three seconds of AAC, the packets of these numbers overwritten."""
    rate = 48000
    tone = 0.5 * np.sin(np.arange(3 * rate) / rate * 2 * np.pi * 440)
    with av.open(str(file), "w") as container:
        stream = container.add_stream("aac", rate=rate, layout="mono")
        frame = av.AudioFrame.from_ndarray(tone.astype(np.float32)[None], format="fltp", layout="mono")
        frame.sample_rate, frame.pts, frame.time_base = rate, 0, Fraction(1, rate)
        container.mux([*stream.encode(frame), *stream.encode(None)])
    with av.open(str(file)) as container:
        places = [(packet.pos, packet.size) for packet in container.demux(audio=0) if packet.size]
    data = bytearray(file.read_bytes())
    for number in damaged:
        place, size = places[number]
        data[place : place + size] = b"\xff" * size
    file.write_bytes(data)
    return file


def test_a_damaged_packet_of_sound_is_silent_and_the_rest_is_heard_in_its_place(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    whole = read_sound(write_tone(tmp_path / "whole.mp4", range(0)), 0.5, 2.0)
    assert caplog.records == []
    holed = read_sound(write_tone(tmp_path / "holed.mp4", range(70, 71)), 0.5, 2.0)
    assert whole is not None
    assert holed is not None
    assert "holed.mp4: damaged packets of the sound are silent: 1 " in caplog.text
    differs = ((whole[0] - holed[0]).abs()[0] > 1e-3).nonzero()[:, 0]
    assert 500 < int(differs[-1] - differs[0]) < 4 * 1024
    assert abs(int(differs[0]) - (70 * 1024 - 24000)) < 3 * 1024


def test_sound_that_is_damaged_from_end_to_end_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"a\.mp4: the sound cannot be decoded \("):
        read_sound(write_tone(tmp_path / "a.mp4", range(130)), 0.5, 2.0)


def test_sound_may_change_its_layout_on_the_way(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As where a broadcast goes from a film in stereo to an advertisement in mono, at another rate here."""
    file, rate = write_levels(tmp_path / "a.mov", [0.25, -0.5], "stereo"), 16000

    def frames(*_: Any) -> Any:
        for begin, layout, values, own_rate in ((0, "stereo", [0.25, -0.5], rate), (0.5, "mono", [0.125], 8000)):
            samples = np.tile(np.array(values, np.float32), own_rate // 2)[None]
            frame = av.AudioFrame.from_ndarray(samples, format="flt", layout=layout)
            frame.sample_rate, frame.pts, frame.time_base = own_rate, round(begin * own_rate), Fraction(1, own_rate)
            yield frame

    monkeypatch.setattr(sound_module, "sound_frames", frames)
    sound = read_sound(file, 0.0, 1.0)
    assert sound is not None
    assert sound[1] == rate
    assert sound[0][:, 4000].tolist() == pytest.approx([0.25, -0.5], abs=1e-3)
    left, right = sound[0][:, 12000].tolist()
    assert left == right == pytest.approx(0.125, rel=0.5)
