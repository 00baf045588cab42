"""Sound of any layout is loaded as one that can be saved: mono, stereo or 5.1."""

from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from av.audio.layout import AudioLayout

from tests.panorama_files import HEIGHT, WIDTH, picture
from tests.phone_clips import SOUND_RATE
from viewpoint_core.sound import read_sound
from viewpoint_core.video import read_clip


def write_levels(file: Path, levels: list[float], layout: str) -> Path:
    """A second of pictures with sound whose channels stand still at these levels."""
    with av.open(str(file), "w") as container:
        video = container.add_stream("libx264", rate=16, options={"bf": "0"})
        video.width, video.height, video.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        sound = container.add_stream("pcm_s16le", rate=SOUND_RATE, layout=layout)
        for number in range(16):
            container.mux(video.encode(av.VideoFrame.from_ndarray(picture(number), format="rgb24")))
        container.mux(video.encode(None))
        samples = np.tile(np.array(levels) * 32768, SOUND_RATE).astype(np.int16)[None]
        frame = av.AudioFrame.from_ndarray(samples, format="s16", layout=layout)
        frame.sample_rate, frame.pts, frame.time_base = SOUND_RATE, 0, Fraction(1, SOUND_RATE)
        container.mux([*sound.encode(frame), *sound.encode(None)])
    return file


@pytest.mark.parametrize(
    ("layout", "levels"),
    [("mono", [0.25]), ("stereo", [0.25, -0.5]), ("5.1", [0.1, 0.2, 0.3, 0.4, 0.5, 0.6])],
)
def test_sound_in_mono_stereo_and_5_1_stays_as_it_is(tmp_path: Path, layout: str, levels: list[float]) -> None:
    _, sound = read_clip(write_levels(tmp_path / "a.mov", levels, layout), start_s=0, length=5, fps=16)
    assert sound is not None
    assert sound[0][:, 100].tolist() == pytest.approx(levels, abs=1e-4)


@pytest.mark.parametrize("suffix", [".mov", ".mkv"])
@pytest.mark.parametrize("layout", ["2.1", "quad", "6.1", "7.1"])
def test_sound_in_any_other_layout_is_mixed_down_to_stereo(tmp_path: Path, layout: str, suffix: str) -> None:
    """The left channel alone is heard on the left alone, and what is loud in all of them is not cut off."""
    channels = AudioLayout(layout).nb_channels
    file = write_levels(tmp_path / f"left{suffix}", [0.5] + [0.0] * (channels - 1), layout)
    _, sound = read_clip(file, start_s=0, length=5, fps=16)
    assert sound is not None
    assert sound[0].shape == (2, round(5 / 16 * SOUND_RATE))
    assert sound[0][0, 100] > 0.1
    assert sound[0][1, 100] == 0
    _, loud = read_clip(
        write_levels(tmp_path / f"loud{suffix}", [0.99] * channels, layout), start_s=0, length=5, fps=16
    )
    assert loud is not None
    assert 0.9 < float(loud[0].abs().max()) <= 1


@pytest.mark.parametrize(("layout", "channels"), [("ambisonic 1", 4), ("ambisonic 2", 9)])
def test_of_ambisonic_sound_the_part_from_all_around_is_kept(tmp_path: Path, layout: str, channels: int) -> None:
    file = tmp_path / "a.mkv"
    with av.open(str(file), "w") as container:
        video = container.add_stream("libx264", rate=16, options={"bf": "0"})
        video.width, video.height, video.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        sound = container.add_stream("libopus", rate=48000, layout=layout, options={"mapping_family": "2"})
        container.mux([*video.encode(av.VideoFrame.from_ndarray(picture(0), format="rgb24")), *video.encode(None)])
        tone = 0.5 * np.sin(np.arange(48000) / 48000 * 2 * np.pi * 440)
        samples = np.stack([tone, *[0 * tone] * (channels - 1)], axis=1).astype(np.float32).reshape(1, -1)
        frame = av.AudioFrame.from_ndarray(samples, format="flt", layout=layout)
        frame.sample_rate, frame.pts, frame.time_base = 48000, 0, Fraction(1, 48000)
        container.mux([*sound.encode(frame), *sound.encode(None)])
    with av.open(str(file)) as container:
        assert container.streams.audio[0].layout.name == layout
    sound = read_sound(file, 0.0, 0.5)
    assert sound is not None
    assert sound[0].shape == (1, 24000)
    assert float(sound[0][:, 4800:].abs().max()) == pytest.approx(0.5, abs=0.1)


@pytest.mark.parametrize(
    ("suffix", "codec", "rate", "least_db"),
    [(".mkv", "pcm_s16le", 44100, 80), (".mkv", "aac", 48000, 18), (".mp4", "aac", 48000, 18)],
)
@pytest.mark.parametrize("begin", [0.0, 0.71])
def test_a_tone_has_no_joints(
    tmp_path: Path, suffix: str, codec: str, rate: int, least_db: float, begin: float
) -> None:
    """Matroska's time stamps are whole milliseconds: placed by them, each frame overlaps the last or leaves a gap."""
    file, tone = tmp_path / f"a{suffix}", 0.5 * np.sin(np.arange(3 * rate) / rate * 2 * np.pi * 440)
    with av.open(str(file), "w") as container:
        stream = container.add_stream(codec, rate=rate, layout="mono")
        resampler = av.AudioResampler(format=stream.format, layout="mono", rate=rate, frame_size=1024)
        frame = av.AudioFrame.from_ndarray(tone.astype(np.float32)[None], format="flt", layout="mono")
        frame.sample_rate, frame.pts, frame.time_base = rate, 0, Fraction(1, rate)
        for part in [*resampler.resample(frame), *resampler.resample(None)]:
            container.mux(stream.encode(part))
        container.mux(stream.encode(None))
    sound = read_sound(file, begin, 2.0)
    assert sound is not None
    assert sound[0].shape == (1, 2 * rate)
    heard = sound[0][0, 4800:].numpy()  # an encoder fades in
    turn = (np.arange(len(heard)) + 4800) / rate * 2 * np.pi * 440
    waves = np.stack([np.sin(turn), np.cos(turn)], axis=1)
    away = heard - waves @ np.linalg.lstsq(waves, heard, rcond=None)[0]
    assert 10 * np.log10((heard**2).mean() / (away**2).mean()) > least_db
