"""HDR and wide-gamut video comes as SDR shows it, and SDR video as it always came.

What is expected is computed here from the standards' formulas (ITU-R BT.2100, BT.2020, BT.709, BT.1886).
"""

import math
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from av.video.reformatter import Colorspace

from tests.phone_clips import corners, write_pictures
from viewpoint_core.training.data.media import read_frames
from viewpoint_core.video import read_clip

SIZE = 32
LUMA = {1: (0.2126, 0.0722), 9: (0.2627, 0.0593)}  # red's and blue's share, by matrix
# linear light of BT.2020 (ITU-R BT.2087) and of P3 with the white D65 (SMPTE EG 432-1) -> linear BT.709
TO_BT709 = {
    9: ((1.6605, -0.5876, -0.0728), (-0.1246, 1.1329, -0.0083), (-0.0182, -0.1006, 1.1187)),
    12: ((1.2249, -0.2247, 0), (-0.0420, 1.0419, 0), (-0.0197, -0.0786, 1.0979)),
}
WHITE = 203


def hlg_code(light: float) -> float:
    """BT.2100 table 5: the OETF."""
    return math.sqrt(3 * light) if light <= 1 / 12 else 0.17883277 * math.log(12 * light - 0.28466892) + 0.55991073


def hlg_codes(nits: Sequence[float]) -> list[float]:
    """The codes by which a reference display of 1000 cd/m2 shows a BT.2020 colour."""
    shown = [value / 1000 for value in nits]
    luminance = 0.2627 * shown[0] + 0.6780 * shown[1] + 0.0593 * shown[2]
    return [hlg_code(value * luminance ** (1 / 1.2 - 1)) if value else 0.0 for value in shown]


def pq_code(nits: float) -> float:
    """BT.2100 table 4: the inverse EOTF."""
    power = (nits / 10000) ** 0.1593017578125
    return ((0.8359375 + 18.8515625 * power) / (1 + 18.6875 * power)) ** 78.84375


def write_colour(
    file: Path, codes: Sequence[float], trc: int, primaries: int = 9, matrix: int = 9, stated: int | None = None
) -> Path:
    """A 10-bit video of one colour, tagged so; the matrix that it states may be another than its own."""
    red, green, blue = codes
    share = LUMA[matrix]
    luma = share[0] * red + (1 - sum(share)) * green + share[1] * blue
    chroma = ((blue - luma) / (2 - 2 * share[1]), (red - luma) / (2 - 2 * share[0]))
    values = [4 * (16 + 219 * luma), *(4 * (128 + 224 * value) for value in chroma)]
    with av.open(str(file), "w") as container:
        stream = container.add_stream("libx264", rate=16, options={"qp": "0"})
        stream.width = stream.height = SIZE
        stream.pix_fmt = "yuv420p10le"
        context = stream.codec_context
        context.color_trc, context.color_primaries, context.color_range = trc, primaries, 1
        context.colorspace = matrix if stated is None else stated
        frame = av.VideoFrame(SIZE, SIZE, "yuv420p10le")
        for plane, value in zip(frame.planes, values, strict=True):
            plane.update(np.full((plane.height, plane.line_size // 2), round(value), np.uint16))
        frame.pts, frame.time_base = 0, Fraction(1, 16)
        container.mux([*stream.encode(frame), *stream.encode(None)])
    return file


def colour_read(file: Path) -> list[int]:
    """The colour that the trainer and the nodes read; they agree."""
    trained, (loaded,) = read_frames(file, [0], 16)[0], read_clip(file, start_s=0, length=1, fps=16)[0]
    assert torch.equal(trained, loaded)
    assert int(trained.flatten(1).amax(1).sub(trained.flatten(1).amin(1)).max()) == 0
    return trained[:, 5, 5].tolist()


def sdr_colour(light: Sequence[float], primaries: int = 9) -> list[float]:
    """Light, 1 for white and nowhere above the shoulder's beginning, as codes of a BT.709 file."""
    converted = [sum(a * b for a, b in zip(row, light, strict=True)) for row in TO_BT709[primaries]]
    return [255 * min(1, max(0, value)) ** (1 / 2.4) for value in converted]


def write_nits(file: Path, nits: Sequence[float], transfer: str) -> Path:
    codes = hlg_codes(nits) if transfer == "hlg" else [pq_code(value) for value in nits]
    return write_colour(file, codes, {"hlg": 18, "pq": 16}[transfer])


@pytest.mark.parametrize("transfer", ["hlg", "pq"])
@pytest.mark.parametrize(
    "nits",
    [(36.5, 36.5, 36.5), (2, 2, 2), (0, 0, 0), (90, 40, 20), (20, 60, 100), (12, 90, 30)],
    ids=["mid grey", "shadow", "black", "orange", "blue", "a green beyond BT.709"],
)
def test_hdr_below_white_is_the_colour_that_an_sdr_display_shows(
    tmp_path: Path, transfer: str, nits: Sequence[float]
) -> None:
    expected = sdr_colour([value / WHITE for value in nits])
    assert colour_read(write_nits(tmp_path / "a.mp4", nits, transfer)) == pytest.approx(expected, abs=2)


@pytest.mark.parametrize("transfer", ["hlg", "pq"])
def test_hdr_white_is_about_white_and_brighter_greys_keep_apart_up_to_the_displays_peak(
    tmp_path: Path, transfer: str
) -> None:
    greys = [colour_read(write_nits(tmp_path / "a.mp4", (nits,) * 3, transfer)) for nits in (100, 203, 300, 500, 1000)]
    assert all(max(grey) - min(grey) <= 1 for grey in greys)
    levels = [grey[1] for grey in greys]
    assert levels[0] == pytest.approx(255 * (100 / 203) ** (1 / 2.4), abs=2)
    assert 235 <= levels[1] <= 245
    assert np.diff(levels).min() >= 2
    assert levels[-1] == 255


def test_a_bright_hdr_colour_keeps_its_hue(tmp_path: Path) -> None:
    """Its largest component is made smaller, and the others by the same factor."""
    red, green, blue = (value / 255 for value in colour_read(write_nits(tmp_path / "a.mp4", (500, 300, 300), "pq")))
    light = [value**2.4 for value in (red, green, blue)]
    expected = [value**2.4 for value in sdr_colour([0.5, 0.3, 0.3])]
    assert light[0] > 0.9
    assert [value / light[0] for value in light] == pytest.approx([value / expected[0] for value in expected], abs=0.02)


def test_pq_light_above_the_reference_displays_peak_is_white(tmp_path: Path) -> None:
    assert colour_read(write_nits(tmp_path / "a.mp4", (4000,) * 3, "pq")) == [255] * 3


def test_hdr_that_states_no_matrix_and_no_primaries_is_bt2020(tmp_path: Path) -> None:
    nits = (90, 40, 20)
    file = write_colour(tmp_path / "a.mp4", hlg_codes(nits), 18)
    bare = write_colour(tmp_path / "b.mp4", hlg_codes(nits), 18, primaries=2, stated=2)
    assert colour_read(bare) == colour_read(file)


@pytest.mark.parametrize(("trc", "primaries", "matrix"), [(1, 9, 9), (14, 9, 9), (15, 9, 9), (1, 12, 1)])
def test_sdr_with_wider_primaries_is_converted_to_bt709s(tmp_path: Path, trc: int, primaries: int, matrix: int) -> None:
    light = (0.5, 0.2, 0.1)
    file = write_colour(tmp_path / "a.mp4", [value ** (1 / 2.4) for value in light], trc, primaries, matrix)
    assert colour_read(file) == pytest.approx(sdr_colour(light, primaries), abs=2)
    white = write_colour(tmp_path / "b.mp4", [1, 1, 1], trc, primaries, matrix)
    assert colour_read(white) == [255] * 3


@pytest.mark.parametrize(("trc", "primaries", "matrix"), [(1, 1, 1), (2, 2, 1), (6, 6, 1), (13, 1, 1)])
def test_sdr_files_come_bit_for_bit_as_ffmpeg_converts_them(
    tmp_path: Path, trc: int, primaries: int, matrix: int
) -> None:
    deep = write_colour(tmp_path / "deep.mp4", (0.7, 0.2, 0.4), trc, primaries, matrix)
    plain = write_pictures(tmp_path / "plain.mp4", [corners(64, 32)])
    for file in (deep, plain):
        with av.open(str(file)) as container:
            frame = next(container.decode(video=0))
            pixels = frame.to_ndarray(
                format="rgb24", src_color_range=frame.color_range, dst_colorspace=Colorspace.ITU601
            )
        assert torch.equal(read_frames(file, [0], 16)[0], torch.from_numpy(pixels).movedim(-1, 0))


def test_an_hdr_clip_of_odd_size_coded_as_rgb_keeps_its_place_and_is_scaled_like_any_other(tmp_path: Path) -> None:
    file = tmp_path / "a.mkv"
    with av.open(str(file), "w") as container:
        stream = container.add_stream("ffv1", rate=16)
        stream.width, stream.height, stream.pix_fmt = 131, 67, "gbrp10le"
        stream.codec_context.color_trc, stream.codec_context.color_primaries = 18, 9
        frame = av.VideoFrame.from_ndarray(corners(131, 67), format="rgb24").reformat(format="gbrp10le")
        frame.pts, frame.time_base = 0, Fraction(1, 16)
        container.mux([*stream.encode(frame), *stream.encode(None)])
    picture = read_frames(file, [0], 16)[0]
    assert picture.shape == (3, 67, 131)
    left, right, below = picture[:, 10, 10].tolist(), picture[:, 10, 120].tolist(), picture[:, 60, 60].tolist()
    assert left[0] > max(left[1:]) + 50
    assert right[2] > max(right[:2]) + 50
    assert max(below) - min(below) <= 1
    (small,) = read_clip(file, start_s=0, length=1, fps=16, longest_side=66)[0]
    assert small.shape == (3, 34, 66)
    assert small[:, 5, 5].tolist() == pytest.approx(left, abs=1)
