"""What can be made of a known view without any model: its mean colour, the view stretched, the view mirrored."""

import math

import torch
from torch import Tensor

from ..camera import direction_to_view
from ..resample import check_erp, sample_erp
from ..sphere import direction_to_lonlat, erp_area, erp_directions, lonlat_to_direction

MEAN, STRETCHED, MIRRORED = "mean colour", "stretched view", "mirrored view"
HALF_VIEW = math.pi / 4


def view_seen(height: int, width: int) -> Tensor:
    """Which pixels of an ERP image the 90-degree view straight ahead shows: bool (height, width)."""
    return direction_to_view(erp_directions(height, width), height, height)[2]


def inside_view(lon: Tensor, lat: Tensor) -> Tensor:
    """Directions (..., 3) of longitudes within 45 degrees, with latitudes brought to where the view still sees."""
    limit = torch.atan(lon.cos()) - 1e-3
    return lonlat_to_direction(lon, torch.minimum(torch.maximum(lat, -limit), limit))


def folded(angle: Tensor) -> Tensor:
    """Angles mirrored into [-45, 45] degrees, at both ends again and again."""
    return (torch.remainder(angle - HALF_VIEW, 4 * HALF_VIEW) - 2 * HALF_VIEW).abs() - HALF_VIEW


def filled(erp: Tensor, direction: Tensor) -> Tensor:
    """ERP images (..., C, H, 2H) that show everywhere what they show in the given directions (H, 2H, 3)."""
    return sample_erp(erp, direction, interpolation="bilinear")


def fills(erp: Tensor) -> dict[str, Tensor]:
    """Panoramas (..., C, H, 2H) made of the 90-degree view straight ahead of the given ones, by name.

    They use nothing but what the view sees. Raises ValueError for images that are not 2:1.
    """
    check_erp(erp)
    height, width = erp.shape[-2:]
    seen = view_seen(height, width)
    weight = (erp_area(height, width) * seen).to(erp)
    mean = (erp * weight).sum((-2, -1), keepdim=True) / weight.sum()
    lon, lat = direction_to_lonlat(erp_directions(height, width))
    made = {
        MEAN: mean.expand_as(erp),
        STRETCHED: filled(erp, inside_view(lon / 4, lat / 2)),
        MIRRORED: filled(erp, inside_view(folded(lon), folded(lat))),
    }
    seen = seen.to(erp.device)
    return {name: torch.where(seen, erp, picture) for name, picture in made.items()}
