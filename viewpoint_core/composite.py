"""The sharp input view over a generated panorama: where its camera looked, edge feathered, colours matched."""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from .camera import focal_length, view_rotation
from .camera_path import CameraPath, still_path
from .compose import check_feather, smoothstep
from .resample import check_image, check_interpolation, sample
from .sphere import erp_directions
from .viewpoint_map import check_erp
from .views import check_frames, locate_on_view, view_filtering

COLOUR_MATCHES = ("panorama to clip", "clip to panorama", "off")
BAND_SAMPLES = 1 << 21  # directions worked on at once
MEASURE_HEIGHT = 256  # of the panoramas that colours are compared on
GAINS = (0.5, 2.0)  # beyond these the pictures differ in more than colour


@dataclass(frozen=True)
class ColourMatch:
    """A gain and an offset per channel (C, 1, 1)."""

    gain: Tensor
    offset: Tensor

    def apply(self, image: Tensor) -> Tensor:
        """Images (..., C, H, W) with the colours changed."""
        return image * self.gain.to(image) + self.offset.to(image)


@dataclass(frozen=True)
class Band:
    """Rows of a panorama, the view drawn there times its weight (T, C, h, W), and that weight (h, W)."""

    rows: slice
    colour: Tensor
    weight: Tensor


def inside_angle(direction: Tensor, height: int, width: int, camera: dict[str, float]) -> Tensor:
    """Angle from directions (..., 3) to the nearest edge of a view, in radians; 0 outside it."""
    focal = focal_length(width, camera["fov_deg"])
    rotation = view_rotation(camera["yaw_deg"], camera["pitch_deg"], camera["roll_deg"])
    x, y, z = (direction @ rotation).unbind(-1)
    length = direction.norm(dim=-1)
    sines = []
    for across, half in ((x, width / 2 / focal), (y, height / 2 / focal)):
        sines.append((z * half - across.abs()) / (math.hypot(1, half) * length))
    return torch.minimum(*sines).clamp(0, 1).asin()


def check_feather_fits(feather_deg: float, height: int, width: int, path: CameraPath) -> None:
    """Raise ValueError where the feathers from opposite edges of a view would meet, so that nothing of it is kept."""
    check_feather(feather_deg)
    focal = focal_length(width, float(path.fov_deg.min()))
    half = math.degrees(math.atan(min(height, width) / 2 / focal))
    if feather_deg >= half:
        raise ValueError(
            f"feather_deg is {feather_deg}, but from its centre to its nearest edge the view spans {half:.1f} degrees; "
            "expected less"
        )


def draw_bands(
    view: Tensor, erp_height: int, camera: dict[str, float], feather: float, interpolation: str
) -> Iterator[Band]:
    """Draw views (T, C, h, w) of one camera on a panorama of this height, a few rows at a time; feather in radians."""
    erp_width = 2 * erp_height
    factor, reduction = view_filtering(
        erp_width / (2 * math.pi), erp_height, view.shape[-2], view.shape[-1], camera["fov_deg"]
    )
    step = max(1, BAND_SAMPLES // (erp_width * factor**2))
    for top in range(0, erp_height, step):
        rows = slice(top, min(top + step, erp_height))
        fine = slice(rows.start * factor, rows.stop * factor)
        direction = erp_directions(erp_height * factor, erp_width * factor, fine)
        grid, weight = locate_on_view(direction, *view.shape[-2:], factor, reduction, **camera)
        if not bool(weight.any()):
            continue
        if feather > 0:
            weight = weight * smoothstep(inside_angle(direction, *view.shape[-2:], camera) / feather).float()
        weight = weight.to(view.device)
        colour = sample(view, grid, interpolation=interpolation, weight=weight)
        yield Band(rows, colour, F.avg_pool2d(weight[None], factor)[0] if factor > 1 else weight)


def cameras_and_frames(path: CameraPath | None, still: dict[str, float], count: int) -> Iterator[tuple[dict, slice]]:
    """Each camera with the frames that it took: one for all without a path."""
    if path is None:
        yield still, slice(0, count)
    else:
        yield from ((path.camera(frame), slice(frame, frame + 1)) for frame in range(count))


def match_colours(source: Tensor, target: Tensor, weight: Tensor) -> ColourMatch:
    """What gives pixels (n, C) of the source the target's mean and spread, weighed (n,). The gain lies in GAINS, and
    is 1 where the source is flat."""
    weight = weight[:, None] / weight.sum()
    means = [(values * weight).sum(0) for values in (source, target)]
    spreads = [((v - m) ** 2 * weight).sum(0).sqrt() for v, m in zip((source, target), means, strict=True)]
    gain = torch.where(spreads[0] > 1e-3, (spreads[1] / spreads[0].clamp(min=1e-3)).clamp(*GAINS), 1.0)
    return ColourMatch(gain[:, None, None], (means[1] - gain * means[0])[:, None, None])


def overlap_colours(erp: Tensor, view: Tensor, cameras: list[tuple[dict, slice]]) -> tuple[Tensor, Tensor, Tensor]:
    """Pixels (n, C) of panorama and clip where both show the same, over all frames, and their solid angles (n,)."""
    height = min(MEASURE_HEIGHT, erp.shape[-2])
    area = torch.cos(erp_directions(height, 2 * height)[..., 1].asin()).float()
    shown: list[tuple[Tensor, Tensor, Tensor]] = []
    for camera, frames in cameras:
        shown_before = len(shown)
        small = F.interpolate(erp[frames].float(), size=(height, 2 * height), mode="area").cpu()
        for band in draw_bands(view[frames].float(), height, camera, 0, "bilinear"):
            whole = (band.weight >= 1).cpu()
            panorama = small[:, :, band.rows][..., whole].mean(0).T
            clip = band.colour.cpu()[..., whole].mean(0).T
            shown.append((panorama, clip, area[band.rows][whole]))
        if not any(len(weight) for _, _, weight in shown[shown_before:]):
            raise ValueError(
                f"a view of {camera['fov_deg']} degrees is too small to match colours by; give its true field of view, "
                "or choose 'off'"
            )
    return tuple(torch.cat(parts) for parts in zip(*shown, strict=True))


def composite_view(
    erp: Tensor,
    view: Tensor,
    *,
    yaw_deg: float = 0,
    pitch_deg: float = 0,
    roll_deg: float = 0,
    fov_deg: float = 90,
    path: CameraPath | None = None,
    feather_deg: float = 3,
    colour_match: str = "panorama to clip",
    interpolation: str = "bicubic",
) -> tuple[Tensor, Tensor]:
    """Lay views (T, C, h, w) over ERP images (T, C, H, 2H) -> ERP images and the views' weight (T, H, 2H).

    The view fades from its border over `feather_deg` degrees inward. Colours are matched once for all frames, by mean
    and spread per channel where both are known: of the panorama to the clip, or the other way round. Angles, fov_deg
    and path as in `place_view`. Raises ValueError where frames differ in number.
    """
    check_request(erp, view, colour_match, interpolation)
    still = {"yaw_deg": yaw_deg, "pitch_deg": pitch_deg, "roll_deg": roll_deg, "fov_deg": fov_deg}
    check_feather_fits(feather_deg, *view.shape[-2:], still_path(1, **still) if path is None else path)
    if path is not None:
        check_frames(view, path, "view")
        path = path.turned(yaw_deg, pitch_deg, roll_deg)
    cameras = list(cameras_and_frames(path, still, len(view)))
    if colour_match != "off":
        panorama, clip, area = overlap_colours(erp, view, cameras)
        if colour_match == "panorama to clip":
            erp = match_colours(panorama, clip, area).apply(erp)
        else:
            view = match_colours(clip, panorama, area).apply(view)
    out, weights = erp.clone(), erp.new_zeros(len(erp), *erp.shape[-2:])
    for camera, frames in cameras:
        drawn = False
        for band in draw_bands(view[frames], erp.shape[-2], camera, math.radians(feather_deg), interpolation):
            drawn = True
            below = out[frames, :, band.rows]
            out[frames, :, band.rows] = below * (1 - band.weight).to(below) + band.colour.to(below)
            weights[frames, band.rows] = band.weight.to(weights)
        if not drawn:
            raise ValueError(
                f"a view of {camera['fov_deg']} degrees covers no pixel of a panorama {erp.shape[-1]} wide; "
                "upscale the panorama first"
            )
    return out, weights


def check_request(erp: Tensor, view: Tensor, colour_match: str, interpolation: str) -> None:
    """Raise ValueError for what cannot be laid over one another."""
    check_erp(erp)
    check_image(view, "view")
    check_interpolation(interpolation)
    if erp.ndim != 4 or view.ndim != 4 or len(erp) != len(view) or erp.shape[1] != view.shape[1]:
        raise ValueError(
            f"the panorama has {len(erp)} frames {tuple(erp.shape)} and the clip {len(view)} {tuple(view.shape)}; "
            "expected as many: cut the longer one"
        )
    if colour_match not in COLOUR_MATCHES:
        raise ValueError(f"colour_match is {colour_match!r}; expected one of {', '.join(COLOUR_MATCHES)}")
