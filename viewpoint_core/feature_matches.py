"""Features of frames and which of them are the same in two frames. OpenCV finds them; it is imported when needed."""

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from .pixels import fit_size, to_uint8

WORKING_SIDE = 640  # pixels along the longer side of a frame that features are sought in
MAX_FEATURES = 1000
CONTRAST = 0.012  # a third of OpenCV's own threshold, for night and blur
RATIO = 0.8  # a match must be this much nearer than the second best (Lowe)
NEAR_PIXELS = 10.0  # from where a feature is predicted
MIN_SIMILARITY = 0.75  # cosine of descriptors, for predicted features
LUMA = (0.2126, 0.7152, 0.0722)


@dataclass(frozen=True)
class Features:
    """Features of a frame: positions (n, 2) in pixels from its centre, x right, y down; unit descriptors (n, 128)."""

    position: Tensor
    descriptor: Tensor


@dataclass(frozen=True)
class Matches:
    """The same points in frames i and j: positions (n, 2) in each, in pixels from the centre."""

    i: int
    j: int
    at_i: Tensor
    at_j: Tensor

    def __len__(self) -> int:
        return len(self.at_i)

    def only(self, chosen: Tensor) -> "Matches":
        """Those of the matches that an index or a mask chooses."""
        return Matches(self.i, self.j, self.at_i[chosen], self.at_j[chosen])


def opencv() -> Any:
    """The module cv2. Raises RuntimeError that says how to get it."""
    try:
        import cv2
    except ImportError as error:
        raise RuntimeError(
            f"estimating a camera needs OpenCV, and it does not load ({error}). In the Python that runs ComfyUI: pip "
            "install opencv-python, or opencv-python-headless where there is no display"
        ) from error
    return cv2


def working_size(height: int, width: int) -> tuple[int, int]:
    """Height and width of a frame at which features are sought: never larger than it is."""
    return fit_size(width, height, WORKING_SIDE)[::-1]


def working_picture(frame: Tensor) -> Tensor:
    """A frame (3, H, W) in [0, 1] to a grey uint8 (h, w) of the working size, its contrast stretched."""
    luma = (frame.float() * torch.tensor(LUMA, device=frame.device)[:, None, None]).sum(0)
    small = F.interpolate(luma[None, None], size=working_size(*luma.shape), mode="area")[0, 0].cpu()
    low, high = torch.quantile(small.flatten()[:: max(1, small.numel() // 50_000)], torch.tensor([0.01, 0.99]))
    gain = 1 / max(float(high - low), 0.1)  # a flat frame's noise is not to become a picture
    return to_uint8((small - low) * gain)


def find_features(frame: Tensor) -> Features:
    """SIFT features of a frame (3, H, W), with Hellinger-normalised descriptors (RootSIFT)."""
    picture = working_picture(frame)
    found, descriptors = (
        opencv().SIFT_create(MAX_FEATURES, contrastThreshold=CONTRAST).detectAndCompute(picture.numpy(), None)
    )
    if not found:
        return Features(torch.empty(0, 2, dtype=torch.float64), torch.empty(0, 128))
    height, width = picture.shape
    centre = torch.tensor([(width - 1) / 2, (height - 1) / 2], dtype=torch.float64)  # OpenCV counts from pixel centres
    position = torch.tensor([point.pt for point in found], dtype=torch.float64) - centre
    values = torch.from_numpy(descriptors)
    return Features(position, (values / values.sum(1, keepdim=True).clamp(min=1e-9)).sqrt())


def match_features(i: int, j: int, features: list[Features], predicted: Tensor | None = None) -> Matches:
    """Pairs of features of frames i and j that are each other's nearest, and clearly nearer than the next.

    With `predicted`, where i's features should lie in j (n, 2), only features near there are looked at, so that more of
    them are told apart.
    """
    a, b = features[i], features[j]
    if min(len(a.position), len(b.position)) < 2:
        return Matches(i, j, a.position[:0], b.position[:0])
    similarity = a.descriptor @ b.descriptor.T
    if predicted is not None:
        away = torch.cdist(predicted.float(), b.position.float()) > NEAR_PIXELS
        similarity = similarity.masked_fill(away | (similarity < MIN_SIMILARITY), 0)
    best, forward = similarity.topk(2, dim=1)
    distance = (2 - 2 * best).clamp(min=0).sqrt()
    mutual = similarity.argmax(0)[forward[:, 0]] == torch.arange(len(a.position))
    chosen = (mutual & (best[:, 0] > 0) & (distance[:, 0] < RATIO * distance[:, 1])).nonzero()[:, 0]
    return Matches(i, j, a.position[chosen], b.position[forward[chosen, 0]])
