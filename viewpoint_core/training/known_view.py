"""The known view of a training sample (paper 3.3, 4.1): drawn at random, marked on the map, encoded as condition."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import torch
from diffusers import AutoencoderKLWan
from torch import Tensor

from ..camera import direction_to_view
from ..conditioning import fill_unknown, mask_to_latent, pack_known
from ..cubemap import FACE_YAW_PITCH
from .layouts import VIEWPOINT, layout_directions
from .wan_vae import encode_video

PAPER, WIDE = "paper", "wide"
VIEW_HEIGHT = 1024  # only the aspect matters: the view is cut from the map itself


@dataclass(frozen=True)
class View:
    """A perspective view: angles in degrees as everywhere, horizontal field of view, width over height."""

    yaw_deg: float = 0.0
    pitch_deg: float = 0.0
    roll_deg: float = 0.0
    fov_deg: float = 90.0
    aspect: float = 1.0


@dataclass(frozen=True)
class ViewRange:
    """What the wide mode draws uniformly from, in degrees, and the aspects it chooses from.

    The longer side's field of view is drawn, so that an upright view is a level one turned: a phone's main camera sees
    about 67 x 40 degrees level and 40 x 67 upright.
    """

    yaw_deg: tuple[float, float] = (-180.0, 180.0)
    pitch_deg: tuple[float, float] = (-45.0, 45.0)
    roll_deg: tuple[float, float] = (-15.0, 15.0)
    longer_fov_deg: tuple[float, float] = (45.0, 115.0)
    aspects: tuple[float, ...] = (1.0, 4 / 3, 3 / 4, 16 / 9, 9 / 16)


WIDE_RANGE = ViewRange()
FACE_OF = {View(*angles): face for face, angles in FACE_YAW_PITCH.items()}  # the paper's views


def draw_number(low: float, high: float, generator: torch.Generator | None) -> float:
    """A uniform random number in [low, high)."""
    return low + (high - low) * float(torch.rand((), generator=generator, dtype=torch.float64))


def draw_face(faces: Sequence[str], generator: torch.Generator | None) -> View:
    """A 90-degree view of one of these cube faces, as the paper trains on."""
    face = faces[int(torch.randint(len(faces), (), generator=generator))]
    yaw_deg, pitch_deg = FACE_YAW_PITCH[face]
    return View(yaw_deg, pitch_deg)


def horizontal_fov(longer_fov_deg: float, aspect: float) -> float:
    """A view's horizontal field of view from that of its longer side, in degrees."""
    return math.degrees(2 * math.atan(math.tan(math.radians(longer_fov_deg) / 2) * min(1.0, aspect)))


def draw_wide(ranges: ViewRange, generator: torch.Generator | None) -> View:
    """A view anywhere in the ranges."""
    bounds = (ranges.yaw_deg, ranges.pitch_deg, ranges.roll_deg, ranges.longer_fov_deg)
    *angles, longer_fov_deg = [draw_number(low, high, generator) for low, high in bounds]
    aspect = ranges.aspects[int(torch.randint(len(ranges.aspects), (), generator=generator))]
    return View(*angles, horizontal_fov(longer_fov_deg, aspect), aspect)


def draw_view(
    how: str = PAPER,
    *,
    dropout: float = 0.0,
    faces: Sequence[str] = "FRBL",
    generator: torch.Generator | None = None,
) -> View | None:
    """A random known view; None, with probability `dropout`, for nothing known.

    how: "paper" (one of `faces`, 90 degrees) or "wide" (anywhere in WIDE_RANGE). Uses as many random numbers whether or
    not the view is dropped. Raises ValueError for another mode or face.
    """
    unknown = [face for face in faces if face not in FACE_YAW_PITCH]
    if how not in (PAPER, WIDE) or unknown or not faces:
        raise ValueError(f"known view {how!r} of faces {list(faces)}; expected paper or wide, faces of FRBLUD")
    dropped = draw_number(0, 1, generator) < dropout
    view = draw_face(faces, generator) if how == PAPER else draw_wide(WIDE_RANGE, generator)
    return None if dropped else view


@lru_cache(8)
def view_mask(view: View | None, map_size: int, layout: str = VIEWPOINT) -> Tensor:
    """1 where a view shows the centre of a map pixel, in both places where the map shows it twice: float32 (S, S), or
    as another layout's picture is. The last few are kept: not to be changed in place."""
    directions = layout_directions(layout, map_size)
    if view is None:
        return torch.zeros(directions.shape[:2])
    seen = direction_to_view(
        directions,
        VIEW_HEIGHT,
        round(VIEW_HEIGHT * view.aspect),
        yaw_deg=view.yaw_deg,
        pitch_deg=view.pitch_deg,
        roll_deg=view.roll_deg,
        fov_deg=view.fov_deg,
    )[2]
    return seen.float()


def view_masks(views: Sequence[View | None], map_size: int, layout: str = VIEWPOINT) -> Tensor:
    """Masks of a batch of views: float32 (B, S, S)."""
    return torch.stack([view_mask(view, map_size, layout) for view in views])


@lru_cache(32)
def mask_cells(view: View | None, map_size: int, frames: int, layout: str = VIEWPOINT) -> Tensor:
    """A view's mask as the latent of so many frames has it: (1, t, S/8, S/8). Kept: not to be changed in place."""
    return mask_to_latent(view_mask(view, map_size, layout).expand(1, frames, -1, -1))[0]


def known_video(video: Tensor, masks: Tensor) -> Tensor:
    """Map videos (B, 3, T, S, S) in [-1, 1] with grey, 0, wherever the mask (B, S, S) is 0; any other picture too."""
    return fill_unknown(video.transpose(1, 2), masks[:, None].to(video.device), fill=0.0).transpose(1, 2)


def known_channels(vae: AutoencoderKLWan, video: Tensor, masks: Tensor) -> Tensor:
    """The C + 1 channels behind the noisy latent: map videos (B, 3, T, S, S) in [-1, 1] and masks (B, S, S) of what is
    known of them -> (B, C + 1, t, S/8, S/8), float32, by a VAE on the video's device."""
    latent = encode_video(vae, known_video(video, masks))
    return pack_known(latent, masks[:, None].expand(-1, video.shape[2], -1, -1).to(latent))
