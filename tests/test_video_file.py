"""Video files of computed pictures: in the colours that they are tagged with."""

from pathlib import Path

import av
import pytest
import torch

from viewpoint_core.pixels import to_uint8
from viewpoint_core.training.data.video_file import write_video
from viewpoint_core.video import colours_of, open_video, timed_frames, to_rgb

BT709, LIMITED = 1, 1
COLOURS = torch.tensor([[1, 0, 0], [0, 1, 0], [0, 0, 1], [1, 1, 1], [0, 0, 0], [0.5, 0.5, 0.5], [0.8, 0.4, 0.2]])


@pytest.mark.parametrize("pix_fmt", ["yuv420p", "yuv444p"])
def test_a_video_is_tagged_bt709_and_its_colours_come_back(pix_fmt: str, tmp_path: Path) -> None:
    bars = COLOURS.T[:, None].repeat_interleave(16, -1).expand(3, 64, -1)
    write_video([bars] * 3, tmp_path / "a.mp4", 16, crf=8, pix_fmt=pix_fmt)
    with av.open(str(tmp_path / "a.mp4")) as container:
        context = container.streams.video[0].codec_context
        next(container.decode(video=0))
        assert [context.color_primaries, context.color_trc, context.colorspace] == [BT709] * 3
        assert context.color_range == LIMITED
        assert context.pix_fmt == pix_fmt
    container, stream = open_video(tmp_path / "a.mp4")
    with container:
        found = to_rgb(next(timed_frames(container, stream))[1], colours=colours_of(stream))
    middles = found[:, 32, 8::16].T.float() / 255
    torch.testing.assert_close(middles, COLOURS, rtol=0, atol=5 / 255)


def test_values_are_rounded_to_pixels_and_cut_off_beyond_white_and_black() -> None:
    values = torch.tensor([-1, 0, 0.4 / 255, 0.6 / 255, 1, 7], dtype=torch.float64)
    assert to_uint8(values).tolist() == [0, 0, 0, 1, 255, 255]
