"""A generated panorama video against the true one: the known view, the rest of the sphere, motion."""

import math

import cv2
import numpy as np
from torch import Tensor

from ..pixels import to_uint8
from ..sphere import erp_area
from .fills import fills, view_seen

VIEW, REST, FLOW = "known view", "rest of the sphere", "flow"
FARNEBACK = {"pyr_scale": 0.5, "levels": 3, "winsize": 15, "iterations": 3, "poly_n": 5, "poly_sigma": 1.2, "flags": 0}


def weighted_psnr(made: Tensor, true: Tensor, weight: Tensor) -> float:
    """PSNR in dB of videos (T, 3, H, W) in [0, 1], each pixel counted by its weight (H, W)."""
    error = ((made - true).square() * weight.to(made)).sum((-2, -1)).mean() / weight.sum()
    return -10 * math.log10(max(float(error), 1e-12))


def mean_flow(erp: Tensor, weight: Tensor) -> float:
    """Mean length in pixels of Farneback's optical flow between neighbouring ERP frames (T, 3, H, 2H) in [0, 1], pixels
    counted by weight (H, 2H)."""
    grey = to_uint8(erp.mean(1)).cpu().numpy()
    wide = [np.concatenate([frame[:, -32:], frame, frame[:, :32]], axis=1) for frame in grey]
    lengths = [
        np.linalg.norm(cv2.calcOpticalFlowFarneback(first, second, None, **FARNEBACK), axis=-1)[:, 32:-32]
        for first, second in zip(wide, wide[1:], strict=False)
    ]
    share = (weight / weight.sum()).cpu().numpy()
    return float(sum((length * share).sum() for length in lengths) / len(lengths))


def panorama_scores(made: Tensor, true: Tensor) -> dict[str, float]:
    """Scores of ERP frames (T, 3, H, 2H) in [0, 1] made from the 90-degree view straight ahead of the true ones.

    PSNR in dB on the view and on the rest of the sphere, by area; that of each fill on the rest; mean optical flow
    outside the view over the truth's (T > 1).
    """
    height, width = true.shape[-2:]
    seen, weight = view_seen(height, width), erp_area(height, width)
    inside, outside = weight * seen, weight * ~seen
    scores = {VIEW: weighted_psnr(made, true, inside), REST: weighted_psnr(made, true, outside)}
    scores |= {name: weighted_psnr(fill, true, outside) for name, fill in fills(true).items()}
    if len(true) > 1:
        scores[FLOW] = mean_flow(made, outside) / max(mean_flow(true, outside), 1e-6)
    return scores
