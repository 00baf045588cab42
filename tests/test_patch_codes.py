"""The linear code that a small VAE is told first."""

from pathlib import Path

import pytest
import torch
from torch import Tensor

from viewpoint_core.training import patch_codes
from viewpoint_core.training.data.clips import map_to_video
from viewpoint_core.training.patch_codes import PatchCodes, fit_codes, patches, read_codes, write_codes


def clips(count: int = 6, size: int = 64) -> list[Tensor]:
    """Smooth noise that moves, of 9 frames."""
    generator = torch.Generator().manual_seed(0)
    fields = torch.randn(count, 3, size + 16, size + 16, generator=generator)
    for _ in range(3):
        fields = torch.nn.functional.avg_pool2d(fields, 5, 1, 2)
    fields = 128 + 50 * fields / fields.std()
    frames = [fields[..., t // 2 : t // 2 + size, t : t + size] for t in range(9)]
    return list(torch.stack(frames, dim=2).clamp(0, 255).byte())


@pytest.fixture(scope="module")
def codes() -> PatchCodes:
    return fit_codes(clips())


@pytest.mark.parametrize("count", [63, 64, 65, 127, 128])
def test_codes_are_of_64_clips_at_most(count: int, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[int] = []
    monkeypatch.setattr(patch_codes, "map_to_video", lambda pixels: seen.append(0) or map_to_video(pixels))
    fit_codes([clip.expand(-1, -1, 16, 16) for clip in torch.rand(count, 3, 5, 1, 1).mul(255).byte()])
    assert len(seen) == 2 * min(64, count)  # each clip's first frame, and its later ones


def test_codes_have_mean_0_and_variance_1_and_no_correlation(codes: PatchCodes) -> None:
    code = codes(torch.stack([map_to_video(clip) for clip in clips()]))
    assert code.shape == (6, 16, 3, 8, 8)
    for part in (code[:, :, :1], code[:, :, 1:]):
        rows = part.transpose(0, 1).flatten(1)
        assert rows.mean(1).abs().max() < 1e-2
        assert (rows @ rows.T / rows.shape[1] - torch.eye(16)).abs().max() < 0.02


def test_codes_of_dark_clips_have_mean_0_and_variance_1_too() -> None:
    dark = [clip // 3 for clip in clips()]
    code = fit_codes(dark)(torch.stack([map_to_video(clip) for clip in dark]))
    for part in (code[:, :, :1], code[:, :, 1:]):
        rows = part.transpose(0, 1).flatten(1)
        assert rows.mean(1).abs().max() < 1e-2
        assert (rows.var(1) - 1).abs().max() < 0.02


def test_codes_of_clips_that_are_all_alike_are_finite() -> None:
    grey = [torch.full((3, 5, 16, 16), 100, dtype=torch.uint8)] * 2
    code = fit_codes(grey)(map_to_video(grey[0])[None])
    assert bool(torch.isfinite(code).all())
    assert float(code.abs().max()) < 0.1


def test_no_sixteen_numbers_tell_more_of_a_patch_linearly(codes: PatchCodes) -> None:
    """The best reconstruction from the code is that of the singular value decomposition."""
    video = torch.stack([map_to_video(clip) for clip in clips()])
    rows = patches(video[:, :, 1:], 4).permute(0, 2, 3, 4, 1).flatten(0, 3).double()
    rows = rows - rows.mean(0)
    best = torch.linalg.svdvals(rows)[16:].square().sum()
    code = codes(video)[:, :, 1:].permute(0, 2, 3, 4, 1).flatten(0, 3).double()
    left = rows - code @ torch.linalg.lstsq(code, rows).solution
    assert float(left.square().sum() / best) == pytest.approx(1, rel=1e-3)


def test_of_a_still_video_first_frame_and_groups_say_nearly_the_same(codes: PatchCodes) -> None:
    still = torch.stack([map_to_video(clip[:, :1]).expand(-1, 5, -1, -1) for clip in clips()])
    code = codes(still)
    rows = [code[:, :, t].transpose(0, 1).flatten(1) for t in (0, 1)]
    alike = (rows[0] * rows[1]).sum() / (rows[0].norm() * rows[1].norm())
    assert float(alike) > 0.8


def test_a_single_frame_has_one_code_and_codes_come_back_from_their_file(codes: PatchCodes, tmp_path: Path) -> None:
    write_codes(codes, tmp_path / "new" / "codes.safetensors")
    again = read_codes(tmp_path / "new" / "codes.safetensors")
    video = map_to_video(clips(1)[0])[None]
    assert torch.equal(again(video), codes(video))
    assert torch.allclose(codes(video[:, :, :1]), codes(video)[:, :, :1], atol=1e-6)


def test_single_frames_count_as_still_videos() -> None:
    still = fit_codes([clip[:, :1] for clip in clips()])
    video = map_to_video(clips(1)[0])[None, :, :1]
    code = still(video.expand(-1, -1, 5, -1, -1))
    assert torch.allclose(code[:, :, 0], still(video)[:, :, 0], atol=1e-6)
    assert (code[:, :, 1] - code[:, :, 0]).abs().max() < 0.05
