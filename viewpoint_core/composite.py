"""The sharp input view over a generated panorama: where its camera looked, edge feathered, colours matched."""

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate, groupby

import torch
import torch.nn.functional as F
from torch import Tensor

from .camera import focal_length, view_rotation
from .camera_path import CameraPath, hold_path, still_path
from .choices import check_choice
from .compose import channels_last, check_feather
from .resample import Grid, averages, check_erp, check_image, check_interpolation, row_bands, sample
from .smoothstep import smoothstep
from .sphere import direction_to_erp, direction_to_lonlat, erp_area, erp_directions
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
    """Rows and columns of a panorama, where their pixels (H, W) lie on a view, what each sample of them weighs
    (factor H, factor W), and the weight of each pixel (H, W)."""

    rows: slice
    columns: slice
    grid: Grid
    samples: Tensor
    weight: Tensor

    def draw(self, view: Tensor, interpolation: str) -> Tensor:
        """A view (C, h, w) drawn there times the weight, (C, H, W)."""
        return sample(view, self.grid, interpolation=interpolation, weight=self.samples)


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


def rectangles_near(erp_height: int, height: int, width: int, camera: dict[str, float]) -> list[tuple[slice, slice]]:
    """Rows and columns of a panorama that a view may reach, whatever its roll: two rectangles across the seam."""
    erp_width = 2 * erp_height
    ahead = view_rotation(camera["yaw_deg"], camera["pitch_deg"], camera["roll_deg"])[:, 2]
    column, row = (float(position) for position in direction_to_erp(ahead, erp_height, erp_width))
    lat = float(direction_to_lonlat(ahead)[1])
    reach = math.atan(math.hypot(height, width) / 2 / focal_length(width, camera["fov_deg"]))
    over = reach / math.pi * erp_height + 1
    rows = slice(max(0, math.floor(row - over)), min(erp_height, math.ceil(row + over)))
    if abs(lat) + reach >= math.pi / 2:
        return [(rows, slice(0, erp_width))]
    over = math.asin(math.sin(reach) / math.cos(lat)) / (2 * math.pi) * erp_width + 1
    left, right = math.floor(column - over), math.ceil(column + over)
    if right - left >= erp_width:
        return [(rows, slice(0, erp_width))]
    left, right = left % erp_width, left % erp_width + right - left
    parts = [slice(left, min(right, erp_width)), slice(0, max(0, right - erp_width))]
    return [(rows, columns) for columns in parts if columns.stop > columns.start]


def view_bands(
    view: Tensor, erp_height: int, camera: dict[str, float], feather: float, filtered: bool
) -> Iterator[Band]:
    """Where views (..., h, w) of one camera lie on a panorama of this height, some rows at a time; feather in
    radians."""
    erp_width, (height, width) = 2 * erp_height, view.shape[-2:]
    factor, reduction = view_filtering(
        erp_width / (2 * math.pi), erp_height, height, width, camera["fov_deg"], filtered=filtered
    )
    for rows, columns in rectangles_near(erp_height, height, width, camera):
        fine_columns = slice(columns.start * factor, columns.stop * factor)
        samples = (columns.stop - columns.start) * factor**2  # of a row
        for band in row_bands(rows.stop - rows.start, samples, BAND_SAMPLES):
            part = slice(rows.start + band.start, rows.start + band.stop)
            fine = slice(part.start * factor, part.stop * factor)
            direction = erp_directions(erp_height * factor, erp_width * factor, fine, fine_columns)
            grid, weight = locate_on_view(direction, height, width, factor, reduction, **camera)
            if not bool(weight.any()):
                continue
            if feather > 0:
                weight = weight * smoothstep(inside_angle(direction, height, width, camera) / feather).float()
            weight = weight.to(view.device)
            cover = F.avg_pool2d(weight[None], factor)[0] if factor > 1 else weight
            yield Band(part, columns, grid, weight, cover)


def cameras_and_frames(path: CameraPath) -> list[tuple[dict[str, float], slice]]:
    """Each camera of a path with the frames that it took, neighbours with the same one together."""
    runs = [(camera, len(list(run))) for camera, run in groupby(map(path.camera, range(len(path))))]
    ends = list(accumulate(count for _, count in runs))
    return [(camera, slice(end - count, end)) for (camera, count), end in zip(runs, ends, strict=True)]


def match_colours(source: Tensor, target: Tensor, weight: Tensor) -> ColourMatch:
    """What gives pixels (n, C) of the source the target's mean and spread, weighed (n,). The gain lies in GAINS, and
    is 1 where the source is flat."""
    weight = weight[:, None] / weight.sum()
    means = [(values * weight).sum(0) for values in (source, target)]
    spreads = [((v - m) ** 2 * weight).sum(0).sqrt() for v, m in zip((source, target), means, strict=True)]
    gain = torch.where(spreads[0] > 1e-3, (spreads[1] / spreads[0].clamp(min=1e-3)).clamp(*GAINS), 1.0)
    return ColourMatch(gain[:, None, None], (means[1] - gain * means[0])[:, None, None])


def overlap_colours(
    erp: Tensor, view: Sequence[Tensor], cameras: list[tuple[dict, slice]]
) -> tuple[Tensor, Tensor, Tensor]:
    """Pixels (n, C) of panorama and clip where both show the same, over all frames, and their solid angles (n,), times
    the frames that a pixel is the mean of."""
    height = min(MEASURE_HEIGHT, erp.shape[-2])
    area = erp_area(height, 2 * height).float()
    shown: list[tuple[Tensor, Tensor, Tensor]] = []
    for camera, frames in cameras:
        shown_before = len(shown)
        numbers = range(frames.start, frames.stop)
        size = height, 2 * height
        small = torch.cat([F.interpolate(erp[n : n + 1].float(), size=size, mode="area").cpu() for n in numbers])
        for band in view_bands(view[0], height, camera, 0, True):
            whole = (band.weight >= 1).cpu()
            panorama = small[:, :, band.rows, band.columns][..., whole].mean(0).T
            clip = sum(band.draw(view[n].float(), "bilinear").cpu()[..., whole] for n in numbers).T / len(numbers)
            shown.append((panorama, clip, area[band.rows, band.columns][whole] * len(numbers)))
        if not any(len(weight) for _, _, weight in shown[shown_before:]):
            raise ValueError(
                f"a view of {camera['fov_deg']} degrees is too small to match colours by; give its true field of view, "
                "or choose 'off'"
            )
    return tuple(torch.cat(parts) for parts in zip(*shown, strict=True))


@dataclass(frozen=True)
class Overlay:
    """Views (C, h, w) that are laid over the panoramas of the same number, each by its camera, and how.

    below, above: how the colours of all panoramas change, and those of the views.
    """

    views: list[Tensor]
    path: CameraPath
    below: ColourMatch | None
    above: ColourMatch | None
    feather_deg: float
    interpolation: str

    def recoloured(self, panorama: Tensor) -> Tensor:
        """A panorama as it is below the views."""
        return panorama if self.below is None else self.below.apply(panorama)

    def bands(self, erp_height: int, camera: dict[str, float]) -> Iterator[Band]:
        """Where this camera's views lie on panoramas of this height. Raises ValueError where they cover no pixel."""
        found = False
        filtered, feather = averages(self.interpolation), math.radians(self.feather_deg)
        for band in view_bands(self.views[0], erp_height, camera, feather, filtered):
            found = True
            yield band
        if not found:
            raise ValueError(
                f"a view of {camera['fov_deg']} degrees covers no pixel of a panorama {2 * erp_height} wide; "
                "upscale the panorama first"
            )

    def lay(self, view: Tensor, band: Band, panorama: Tensor) -> None:
        """Lay one band of a view over a panorama (C, H, 2H), in place."""
        colour = band.draw(view, self.interpolation)
        if self.above is not None:  # of the drawn rows, which are less than the clip; the offset counts by weight
            colour = colour * self.above.gain.to(colour) + self.above.offset.to(colour) * band.weight.to(colour)
        below = panorama[:, band.rows, band.columns]
        below.copy_(below * (1 - band.weight).to(below) + colour.to(below))


def plan_overlay(
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
    hold_last: bool = True,
) -> Overlay:
    """How views (t, C, h, w) are laid over ERP images (T, C, H, 2H), as `composite_view` says it; colours are compared
    on these images, which may be smaller ones than those that the views are then laid over."""
    check_request(erp, view, colour_match, interpolation)
    still = {"yaw_deg": yaw_deg, "pitch_deg": pitch_deg, "roll_deg": roll_deg, "fov_deg": fov_deg}
    path = still_path(len(view), **still) if path is None else path.turned(yaw_deg, pitch_deg, roll_deg)
    check_feather_fits(feather_deg, *view.shape[-2:], path)
    check_frames(view, path, "view")
    shown = len(erp) if hold_last else len(view)
    views = [view[min(number, len(view) - 1)] for number in range(shown)]
    path = hold_path(path, shown)
    changes = colour_changes(erp, views, cameras_and_frames(path), colour_match)
    return Overlay(views, path, *changes, feather_deg, interpolation)


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
    hold_last: bool = True,
    on_frame: Callable[[], None] = lambda: None,
) -> tuple[Tensor, Tensor]:
    """Lay views (t, C, h, w) over ERP images (T, C, H, 2H) -> ERP images and the views' weight (T, H, 2H).

    The view fades from its border over `feather_deg` degrees inward. Colours are matched once for all frames, by mean
    and spread per channel where both are known: of the panorama to the clip, or the other way round. Angles, fov_deg
    and path as in `place_view`, a camera for each view. Where there are fewer views than panoramas (a photo has one),
    the last one and its camera stay, or, without `hold_last`, nothing is laid over the panoramas after it. `on_frame`
    is called once a frame. Raises ValueError where there are more views than panoramas.
    """
    overlay = plan_overlay(
        erp,
        view,
        yaw_deg=yaw_deg,
        pitch_deg=pitch_deg,
        roll_deg=roll_deg,
        fov_deg=fov_deg,
        path=path,
        feather_deg=feather_deg,
        colour_match=colour_match,
        interpolation=interpolation,
        hold_last=hold_last,
    )
    out, weights = channels_last(erp), erp.new_zeros(len(erp), *erp.shape[-2:])
    for target, panorama in zip(out, erp, strict=True):
        target.copy_(overlay.recoloured(panorama))
    for camera, run in cameras_and_frames(overlay.path):
        for band in overlay.bands(erp.shape[-2], camera):
            for panorama, weight, picture in zip(out[run], weights[run], overlay.views[run], strict=True):
                overlay.lay(picture, band, panorama)
                weight[band.rows, band.columns] = band.weight.to(weight)
        for _ in range(run.start, run.stop):
            on_frame()
    for _ in range(len(overlay.views), len(erp)):
        on_frame()
    return out, weights


def overlaid_frames(panoramas: Iterable[Tensor], overlay: Overlay) -> Iterator[Tensor]:
    """ERP images (C, H, 2H) one by one, each changed in place to have its view on it."""
    cameras = [overlay.path.camera(frame) for frame in range(len(overlay.path))]
    bands: list[Band] = []
    for number, panorama in enumerate(panoramas):
        panorama = overlay.recoloured(panorama)
        if number < len(cameras):
            if not number or cameras[number] != cameras[number - 1]:  # of a camera that stands still they are kept
                bands = list(overlay.bands(panorama.shape[-2], cameras[number]))
            for band in bands:
                overlay.lay(overlay.views[number], band, panorama)
        yield panorama


def colour_changes(
    erp: Tensor, view: Sequence[Tensor], cameras: list[tuple[dict, slice]], colour_match: str
) -> tuple[ColourMatch | None, ColourMatch | None]:
    """How the panorama's colours change, and the clip's."""
    if colour_match == "off":
        return None, None
    panorama, clip, area = overlap_colours(erp, view, cameras)
    if colour_match == "panorama to clip":
        return match_colours(panorama, clip, area), None
    return None, match_colours(clip, panorama, area)


def check_request(erp: Tensor, view: Tensor, colour_match: str, interpolation: str) -> None:
    """Raise ValueError for what cannot be laid over one another."""
    check_erp(erp)
    check_image(view, "view")
    check_interpolation(interpolation)
    if erp.ndim != 4 or view.ndim != 4 or not 0 < len(view) <= len(erp) or erp.shape[1] != view.shape[1]:
        raise ValueError(
            f"the panorama has {len(erp)} frames {tuple(erp.shape)} and the clip {len(view)} {tuple(view.shape)}; "
            "expected at most as many of the clip, and the same channels: load fewer"
        )
    check_choice(colour_match, COLOUR_MATCHES, "colour_match")
