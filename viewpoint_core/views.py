"""Perspective views: placed on the ViewPoint map, and rendered out of an ERP image."""

import math
from collections.abc import Callable, Iterator
from itertools import repeat

import torch
import torch.nn.functional as F
from torch import Tensor

from .camera import check_fov, direction_to_view, focal_length, view_directions
from .camera_path import CameraPath, check_path_fits, still_path
from .kept import Kept
from .map_layout import check_map_size, map_directions, unit_pixels
from .resample import (
    GREY,
    Grid,
    averages,
    banded_grid,
    check_erp,
    check_image,
    erp_filtering,
    filtering,
    row_bands,
    sample,
)
from .sphere import direction_to_erp

MAX_SAMPLES = 6144  # along a map's side: wide lenses on large maps would otherwise need tens of GB


def view_filtering(
    target_density: float, target_side: int, height: int, width: int, fov_deg: float, *, filtered: bool = True
) -> tuple[int, int]:
    """(factor, reduction) for a view drawn on a picture of this density (pixels per radian) and side."""
    focal = focal_length(width, fov_deg)
    # a flat view grows finer toward its edges by 1 / cos^2, and so does the map, but only up to 2, at 45 degrees
    at_edge = focal * (1 + (max(width, height) / 2 / focal) ** 2)
    factor, reduction = filtering(focal, target_density, min(height, width), at_edge / 2, filtered=filtered)
    return max(1, min(factor, MAX_SAMPLES // target_side)), reduction


def pixel_directions(map_size: int, factor: int) -> Iterator[Tensor]:
    """Directions of f x f points inside each of the map's pixels, float64 (n, f, f, 3), some rows of pixels at a
    time."""
    for rows in row_bands(map_size, map_size * factor**2):
        fine = map_directions(map_size, factor, slice(rows.start * factor, rows.stop * factor))
        yield fine.unflatten(0, (-1, factor)).unflatten(2, (map_size, factor)).transpose(1, 2).flatten(0, 1)


def all_pixel_directions(map_size: int, factor: int) -> Tensor:
    """The same of all pixels, float64 (S S, f, f, 3)."""
    out, done = torch.empty(map_size**2, factor, factor, 3, dtype=torch.float64), 0
    for band in pixel_directions(map_size, factor):
        out[done : done + len(band)] = band
        done += len(band)
    return out


def locate_on_view(
    direction: Tensor, height: int, width: int, factor: int, reduction: int, **camera: float
) -> tuple[Grid, Tensor]:
    """Where directions (h, w, 3) lie on a view, and a float32 (h, w): 1 where the view sees them."""
    x, y, seen = direction_to_view(direction, height, width, **camera)
    return Grid(x.float(), y.float(), factor, reduction), seen.float()


def locate_pixels(
    pixels: Tensor, index: Tensor, height: int, width: int, reduction: int, **camera: float
) -> tuple[Grid, Tensor]:
    """`locate_on_view` of the pixels (m, f, f, 3) of these indices (n,), below one another: (n f, f)."""
    factor = pixels.shape[1]
    x, y, seen = torch.empty(3, len(index) * factor, factor)
    for band in row_bands(len(index), factor**2):
        rows = slice(band.start * factor, band.stop * factor)
        x[rows], y[rows], seen[rows] = direction_to_view(pixels[index[band]].flatten(0, 1), height, width, **camera)
    return Grid(x, y, factor, reduction), seen


def nearby(ahead: Tensor, directions: Tensor, reach: float) -> Tensor:
    """Indices of the unit directions (n, 3) at most `reach` radians from a camera's axis (3,)."""
    return (directions @ ahead >= math.cos(min(reach, math.pi))).nonzero()[:, 0]


def view_grids(
    map_size: int, height: int, width: int, path: CameraPath, filtered: bool
) -> Iterator[tuple[Tensor, Grid, Tensor, float]]:
    """Where the map's pixels near the view lie on it, for each camera of a path.

    Yields the flat indices (n,) of those pixels, for them below one another a Grid and 1 where the view sees them,
    (n f, f) each, and the field of view. What all cameras share is computed once, and so is a camera that stands still.
    """
    unit = unit_pixels(map_size)
    centres = torch.cat([F.normalize(band[:, 0, 0], dim=-1) for band in pixel_directions(map_size, 1)])
    fine, of_camera, shown = centres.new_empty(0, 0, 0, 3), None, ()
    for frame, rotation in enumerate(path.rotations()):
        camera = path.camera(frame)
        if camera != of_camera:
            focal = focal_length(width, camera["fov_deg"])
            factor, reduction = view_filtering(unit, map_size, height, width, camera["fov_deg"], filtered=filtered)
            if factor != fine.shape[1]:
                fine = all_pixel_directions(map_size, factor)
            index = nearby(rotation[:, 2], centres, math.atan(math.hypot(height, width) / 2 / focal) + 4 / unit)
            shown = index, *locate_pixels(fine, index, height, width, reduction, **camera), camera["fov_deg"]
            of_camera = camera
        yield shown


def every_fov(fov_deg: float | Tensor) -> list[float]:
    """The different fields of view of a camera or of a path (T,)."""
    return torch.as_tensor(fov_deg, dtype=torch.float64).unique().tolist()


def place_samples(map_size: int, height: int, width: int, fov_deg: float | Tensor) -> int:
    """How many positions `place_view` looks up at most at once, for the field of view of a camera, or of a path's
    cameras (T,)."""
    unit = unit_pixels(map_size)
    return max((map_size * view_filtering(unit, map_size, height, width, fov)[0]) ** 2 for fov in every_fov(fov_deg))


def place_view(
    view: Tensor,
    map_size: int,
    *,
    yaw_deg: float = 0,
    pitch_deg: float = 0,
    roll_deg: float = 0,
    fov_deg: float = 90,
    path: CameraPath | None = None,
    interpolation: str = "bicubic",
    fill: float = GREY,
    on_frame: Callable[[], None] = lambda: None,
) -> tuple[Tensor, Tensor]:
    """Draw views (..., C, h, w) on the map wherever the sphere shows their directions (paper 3.3, 4.1).

    Returns maps (..., C, S, S), `fill` where unknown, and the mask (S, S): the part of each pixel that the view covers.
    fov_deg is horizontal, in (0, 180); pixels are square, so the vertical one follows from the aspect.
    With a path the views are (T, C, h, w), one for each of its cameras, and the masks (T, S, S). Then the path's fields
    of view count, and yaw, pitch and roll turn it as a whole. `on_frame` is called once a view. Raises ValueError where
    lengths differ.
    """
    check_image(view, "view")
    check_map_size(map_size)
    angles = {"yaw_deg": yaw_deg, "pitch_deg": pitch_deg, "roll_deg": roll_deg}
    if path is None:
        check_fov(fov_deg)
        cameras = still_path(1, **angles, fov_deg=fov_deg)
    else:
        check_frames(view, path, "view")
        cameras = path.turned(**angles)
    grids = view_grids(map_size, *view.shape[-2:], cameras, averages(interpolation))
    lead, size = view.shape[:-3], view.shape[-3:]
    maps = view.new_full((lead.numel(), size[0], map_size, map_size), fill)
    masks = view.new_zeros(len(cameras), map_size, map_size)
    every_mask = masks.expand(len(maps), -1, -1)
    every_grid = repeat(next(grids)) if path is None else grids
    placing = zip(view.reshape(-1, *size), maps, every_mask, every_grid, strict=False)  # one camera's grid has no end
    for frame, out, mask, (index, grid, seen, of_fov_deg) in placing:
        placed, cover = sample_view(frame, grid, seen, map_size, of_fov_deg, interpolation, fill)
        out.flatten(-2)[:, index.to(out.device)] = placed[..., 0]
        mask.flatten()[index.to(out.device)] = cover[:, 0]
        on_frame()
    return maps.reshape(*lead, *maps.shape[1:]), masks[0] if path is None else masks


def sample_view(
    view: Tensor, grid: Grid, seen: Tensor, map_size: int, fov_deg: float, interpolation: str, fill: float
) -> tuple[Tensor, Tensor]:
    """Sample views at a grid of a map's pixels: their values and the part of each that the view covers."""
    work = view if view.dtype == torch.float64 else view.float()
    seen = seen.to(work)
    cover = F.avg_pool2d(seen[None], grid.factor)[0] if grid.factor > 1 else seen
    if not bool((cover > 0).any()):
        raise ValueError(f"a view of {fov_deg} degrees covers no pixel of a map of side {map_size}; use a larger map")
    placed = sample(work, grid, interpolation=interpolation, weight=seen)
    return (placed + fill * (1 - cover)).to(view.dtype), cover.to(view.dtype)


def check_frames(video: Tensor, path: CameraPath, name: str) -> None:
    """Raise ValueError unless a video (T, C, H, W) has one frame for each camera of the path."""
    if video.ndim != 4:
        raise ValueError(f"{name}: with a camera path expected frames (T, C, H, W), got {tuple(video.shape)}")
    check_path_fits(path, len(video), name)


def build_erp_view_grid(
    erp_width: int,
    height: int,
    width: int,
    yaw_deg: float,
    pitch_deg: float,
    roll_deg: float,
    fov_deg: float,
    filtered: bool,
) -> Grid:
    """ERP positions of a view's pixels (uncached)."""
    factor, reduction = erp_filtering(erp_width, focal_length(width, fov_deg), filtered=filtered)
    size = (height * factor, width * factor)
    camera = {"yaw_deg": yaw_deg, "pitch_deg": pitch_deg, "roll_deg": roll_deg, "fov_deg": fov_deg}

    def locate(rows: slice) -> tuple[Tensor, Tensor]:
        return direction_to_erp(view_directions(*size, **camera, rows=rows), erp_width // 2, erp_width)

    return banded_grid(*size, locate, factor, reduction)


erp_view_grid = Kept(build_erp_view_grid)


def check_view_size(width: int, height: int) -> None:
    """Raise ValueError for a view without pixels."""
    if width < 1 or height < 1:
        raise ValueError(f"the view's size is {width} x {height}; expected positive width and height")


def render_samples(erp_width: int, height: int, width: int, fov_deg: float | Tensor) -> int:
    """How many positions `render_view` looks up at most at once, for a field of view or those of a path (T,)."""
    return max(
        height * width * erp_filtering(erp_width, focal_length(width, fov))[0] ** 2 for fov in every_fov(fov_deg)
    )


def render_view(
    erp: Tensor,
    height: int,
    width: int,
    *,
    yaw_deg: float = 0,
    pitch_deg: float = 0,
    roll_deg: float = 0,
    fov_deg: float = 90,
    path: CameraPath | None = None,
    interpolation: str = "bicubic",
    on_frame: Callable[[], None] = lambda: None,
) -> Tensor:
    """Perspective views (..., C, height, width) of ERP images (..., C, H, 2H). fov_deg is horizontal, in (0, 180).

    With a path the ERP is a video (T, C, H, 2H) with a frame for each of its cameras, or one frame (1, C, H, 2H) that
    all of them look at; the path's fields of view count, and yaw, pitch and roll turn it as a whole. `on_frame` is
    called once a view.
    """
    check_erp(erp)
    check_view_size(width, height)
    filtered = averages(interpolation)
    angles = {"yaw_deg": yaw_deg, "pitch_deg": pitch_deg, "roll_deg": roll_deg}
    if path is None:
        grid = erp_view_grid(erp.shape[-1], height, width, *angles.values(), fov_deg, filtered)
        return sample(erp, grid, interpolation=interpolation, border="erp", on_frame=on_frame)
    if erp.ndim != 4 or len(erp) != 1:
        check_frames(erp, path, "erp")
    views = erp.new_empty(len(path), erp.shape[1], height, width)
    path, of_camera = path.turned(**angles), None
    for frame, source in enumerate(erp.expand(len(path), -1, -1, -1)):
        camera = path.camera(frame)
        if camera != of_camera:  # past the cache: cameras of one use would put out the grids that are used again
            grid, of_camera = build_erp_view_grid(erp.shape[-1], height, width, **camera, filtered=filtered), camera
        views[frame] = sample(source, grid, interpolation=interpolation, border="erp")
        on_frame()
    return views
