"""The known view of a training sample: what is drawn, its mask, and the channels that it becomes."""

import math

import pytest
import torch

from scripts.tiny_models import write_vae
from viewpoint_core.conditioning import mask_to_latent
from viewpoint_core.cubemap import FACE_YAW_PITCH
from viewpoint_core.training import known_view, wan_vae
from viewpoint_core.views import place_view


@pytest.fixture(scope="session")
def vae(tmp_path_factory: pytest.TempPathFactory) -> wan_vae.AutoencoderKLWan:
    """A tiny VAE."""
    path = tmp_path_factory.mktemp("vae") / "vae.safetensors"
    write_vae(path)
    return wan_vae.load_vae(path)


@pytest.mark.parametrize("face", "FRBLUD")
def test_a_faces_mask_is_what_place_view_covers(face: str) -> None:
    yaw_deg, pitch_deg = FACE_YAW_PITCH[face]
    mask = known_view.view_mask(known_view.View(yaw_deg, pitch_deg), 128)
    _, cover = place_view(torch.zeros(3, 32, 32), 128, yaw_deg=yaw_deg, pitch_deg=pitch_deg)
    assert torch.equal(mask, cover.round())


def test_a_wide_views_mask_is_what_place_view_covers() -> None:
    view = known_view.View(30.0, -20.0, 10.0, 75.0, 16 / 9)
    _, cover = place_view(torch.zeros(3, 36, 64), 128, yaw_deg=30, pitch_deg=-20, roll_deg=10, fov_deg=75)
    differs = (known_view.view_mask(view, 128) - cover).abs() > 0.5
    assert float(differs.float().mean()) < 0.002  # rounding of the view's height to pixels


def test_the_papers_views_are_the_chosen_faces() -> None:
    generator = torch.Generator().manual_seed(0)
    views = {known_view.draw_view(generator=generator) for _ in range(60)}
    assert views == {known_view.View(*FACE_YAW_PITCH[face]) for face in "FRBL"}
    assert {known_view.draw_view(faces="U", generator=generator) for _ in range(5)} == {known_view.View(0, 90)}


def wide_views(count: int) -> list[known_view.View]:
    """Views as `views: wide` draws them."""
    generator = torch.Generator().manual_seed(0)
    return [known_view.draw_view("wide", generator=generator) for _ in range(count)]


def sides_deg(view: known_view.View) -> tuple[float, float]:
    """A view's horizontal and vertical fields of view."""
    half = math.tan(math.radians(view.fov_deg) / 2)
    return view.fov_deg, math.degrees(2 * math.atan(half / view.aspect))


def assert_fills(values: list[float], low: float, high: float) -> None:
    """The values lie in the range and reach into a tenth of it at both ends."""
    assert low <= min(values) < low + 0.1 * (high - low)
    assert high >= max(values) > high - 0.1 * (high - low)


def test_wide_views_fill_their_ranges() -> None:
    views, ranges = wide_views(300), known_view.WIDE_RANGE
    for name, most in (("yaw_deg", 180), ("pitch_deg", 45), ("roll_deg", 15)):
        assert_fills([getattr(view, name) for view in views], -most, most)
    assert {view.aspect for view in views} == set(ranges.aspects) == {1, 4 / 3, 3 / 4, 16 / 9, 9 / 16}


@pytest.mark.parametrize("aspect", known_view.WIDE_RANGE.aspects)
def test_a_wide_views_longer_side_sees_45_to_115_degrees_whatever_its_aspect(aspect: float) -> None:
    longer = [max(sides_deg(view)) for view in wide_views(1500) if view.aspect == aspect]
    assert_fills([round(value, 6) for value in longer], 45, 115)


def test_upright_phone_clips_lie_well_inside_the_wide_views() -> None:
    upright = [sides_deg(view) for view in wide_views(1500) if view.aspect == 9 / 16]
    assert sum(abs(x - 40) < 5 and abs(y - 67) < 8 for x, y in upright) > 0.1 * len(upright)
    horizontal, vertical = zip(*upright, strict=True)
    assert min(horizontal) < 30 < 40 < 70 < max(horizontal)
    assert min(vertical) < 50 < 67 < 100 < max(vertical)


def test_dropout_drops_its_share_and_changes_no_other_draw() -> None:
    def draws(dropout: float) -> list[known_view.View | None]:
        generator = torch.Generator().manual_seed(3)
        return [known_view.draw_view("wide", dropout=dropout, generator=generator) for _ in range(200)]

    some, all_of_them, none = draws(0.3), draws(1.0), draws(0.0)
    assert 40 < some.count(None) < 80
    assert all_of_them.count(None) == 200
    assert all(view is None or view == other for view, other in zip(some, none, strict=True))


@pytest.mark.parametrize("options", [{"how": "narrow"}, {"faces": "FX"}, {"faces": ""}])
def test_another_way_to_draw_views_is_refused(options: dict[str, str]) -> None:
    with pytest.raises(ValueError, match="paper or wide"):
        known_view.draw_view(**options)


def test_the_known_channels_are_the_masked_video_and_the_averaged_mask(vae: wan_vae.AutoencoderKLWan) -> None:
    video = torch.rand(2, 3, 5, 64, 64, generator=torch.Generator().manual_seed(0)) * 2 - 1
    masks = torch.stack([known_view.view_mask(view, 64) for view in (known_view.View(), None)])
    known = known_view.known_video(video, masks)
    assert torch.equal(known[0, :, :, masks[0] > 0], video[0, :, :, masks[0] > 0])
    assert not bool(known[0, :, :, masks[0] == 0].any())
    assert not bool(known[1].any())
    channels = known_view.known_channels(vae, video, masks)
    assert channels.shape == (2, 17, 2, 8, 8)
    assert torch.equal(channels[:, 16:], mask_to_latent(masks[:, None].expand(-1, 5, -1, -1)))
    grey = wan_vae.encode_video(vae, torch.zeros(1, 3, 5, 64, 64))[0]
    assert (channels[1, :16] - grey).abs().max() < 1e-5
