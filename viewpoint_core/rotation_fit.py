"""How a camera turned between frames, from points that both show: robust fits of one pair, and of all pairs at once.

A point at (x, y) pixels from a frame's centre is the ray (x, y, f) of its camera, f being its focal length in pixels.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from .feature_matches import Matches
from .rotation import cross_matrix, rotation_from_vector

INLIER_PIXELS = 2.5  # at the working size
SCALES = (16.0, 4.0, 1.0)  # pixels: residuals beyond weigh less and less (Cauchy); coarse first, so that loops close
TRIALS = 200
MAX_SCORED = 200  # matches that a trial is scored on
MAX_ITERATIONS = 20
ENOUGH_GAIN = 1e-4  # relative, of a step of the fit of all
MIN_DEPTH = 1e-6


@dataclass(frozen=True)
class Cameras:
    """Camera-to-world rotations (T, 3, 3) and the logarithms of the focal lengths in working pixels (T,), float64."""

    rotation: Tensor
    log_focal: Tensor

    @property
    def focal(self) -> Tensor:
        """Focal lengths in working pixels (T,)."""
        return self.log_focal.exp()


@dataclass(frozen=True)
class PairFit:
    """What a pair's matches say: rotation from j's camera to i's, j's focal length, and which matches agree."""

    rotation: Tensor
    log_focal_j: float
    agrees: Tensor


def rays(position: Tensor, focal: Tensor | float) -> Tensor:
    """Positions (..., 2) in pixels from the centre to rays (..., 3), f deep."""
    depth = torch.as_tensor(focal, dtype=position.dtype).expand(position.shape[:-1])
    return torch.cat([position, depth[..., None]], dim=-1)


def unit(vector: Tensor) -> Tensor:
    """Vectors (..., 3) of length 1."""
    return vector / vector.norm(dim=-1, keepdim=True).clamp(min=1e-12)


def transfer_error(rotation: Tensor, at_i: Tensor, at_j: Tensor, focal_i: Tensor, focal_j: Tensor) -> Tensor:
    """How far j's points (n, 2), turned by (..., 3, 3) into i, lie from i's (n, 2): pixels (..., n)."""
    turned = rays(at_j, focal_j) @ rotation.mT
    depth = turned[..., 2]
    error = (turned[..., :2] / depth.clamp(min=MIN_DEPTH)[..., None] * focal_i[..., None, None] - at_i).norm(dim=-1)
    return torch.where(depth > MIN_DEPTH, error, math.inf)


def turn_between(a: Tensor, b: Tensor) -> Tensor:
    """Rotations (n, 3, 3) that take two rays b (n, 2, 3) to two rays a (n, 2, 3), the first of them exactly."""

    def frame(pair: Tensor) -> Tensor:
        first = unit(pair[:, 0])
        normal = unit(torch.linalg.cross(pair[:, 0], pair[:, 1]))
        return torch.stack([first, normal, torch.linalg.cross(first, normal)], dim=-1)

    return frame(a) @ frame(b).mT


def kabsch(a: Tensor, b: Tensor) -> Tensor:
    """The rotation (3, 3) that takes unit rays b (n, 3) nearest to a (n, 3)."""
    u, _, vt = torch.linalg.svd(a.T @ b)
    flip = torch.ones(3, dtype=a.dtype)
    flip[2] = torch.linalg.det(u @ vt).sign()
    return u @ flip.diag() @ vt


def focal_that_fits(a: Tensor, at_j: Tensor, focal: float) -> Tensor:
    """Log focal lengths (n,) at which points at_j (n, 2, 2) stand as far apart in angle as the rays a (n, 2, 3) do.

    Newton's method from the ratio of the distances in pixels.
    """
    wanted = (unit(a[:, 0]) * unit(a[:, 1])).sum(-1).clamp(-1, 1).acos()
    distance = (at_j[:, 0] - at_j[:, 1]).norm(dim=-1)
    at_i = a[..., :2]
    log_focal = (distance / (at_i[:, 0] - at_i[:, 1]).norm(dim=-1).clamp(min=1e-6)).clamp(0.25, 4).log() + math.log(
        focal
    )

    def apart(value: Tensor) -> Tensor:
        both = unit(rays(at_j, value.exp()[:, None]))
        return 2 * ((both[:, 0] - both[:, 1]).norm(dim=-1) / 2).clamp(max=1).asin()

    start = log_focal
    for _ in range(4):
        slope = (apart(log_focal + 1e-4) - apart(log_focal - 1e-4)) / 2e-4
        log_focal = log_focal - (apart(log_focal) - wanted) / slope.clamp(max=-1e-6)
        log_focal = log_focal.clamp(start - 0.7, start + 0.7)
    return log_focal


def fit_pair(matches: Matches, log_focal_i: float, log_focal_j: float, *, zoom: bool = False) -> PairFit:
    """A rotation that most matches agree with (RANSAC on two points, then least squares on those that agree).

    With zoom, j's focal length is found too.
    """
    count = len(matches)
    focal_i = torch.tensor(log_focal_i, dtype=torch.float64).exp()
    if count < 2:
        return PairFit(torch.eye(3, dtype=torch.float64), log_focal_j, torch.zeros(count, dtype=torch.bool))
    generator = torch.Generator().manual_seed(1000 * matches.i + matches.j)
    first = torch.randint(count, (TRIALS,), generator=generator)
    second = (first + 1 + torch.randint(count - 1, (TRIALS,), generator=generator)) % count
    pairs = torch.stack([first, second], dim=1)
    a = rays(matches.at_i[pairs], focal_i)
    log_focal = torch.full((TRIALS,), log_focal_j, dtype=torch.float64)
    if zoom:
        log_focal = focal_that_fits(a, matches.at_j[pairs], float(focal_i))
    rotations = turn_between(a, rays(matches.at_j[pairs], log_focal.exp()[:, None]))
    scored = matches.only(torch.arange(0, count, math.ceil(count / MAX_SCORED)))
    error = transfer_error(
        rotations, scored.at_i, scored.at_j.expand(TRIALS, -1, -1), focal_i, log_focal.exp()[:, None]
    )
    best = int((INLIER_PIXELS**2 - error**2).clamp(min=0).sum(-1).argmax())
    rotation, focal_j = rotations[best], log_focal[best].exp()
    agrees = transfer_error(rotation, matches.at_i, matches.at_j, focal_i, focal_j) < INLIER_PIXELS
    for _ in range(3):
        if int(agrees.sum()) < 3:
            break
        chosen = matches.only(agrees)
        rotation = kabsch(unit(rays(chosen.at_i, focal_i)), unit(rays(chosen.at_j, focal_j)))
        agrees = transfer_error(rotation, matches.at_i, matches.at_j, focal_i, focal_j) < INLIER_PIXELS
    return PairFit(rotation, float(focal_j.log()), agrees)


# All pairs at once


@dataclass(frozen=True)
class Points:
    """Matches of all pairs in one list: frames i and j (n,), positions (n, 2) in each."""

    i: Tensor
    j: Tensor
    at_i: Tensor
    at_j: Tensor


def gather_points(pairs: list[Matches], most: int) -> Points:
    """At most so many matches of each pair, both ways round."""
    chosen = []
    for pair in pairs:
        step = max(1, math.ceil(len(pair) / most))
        some = pair.only(torch.arange(0, len(pair), step))
        chosen += [some, Matches(some.j, some.i, some.at_j, some.at_i)]
    frames = [torch.cat([torch.full((len(pair),), getattr(pair, side)) for pair in chosen]) for side in ("i", "j")]
    return Points(*frames, torch.cat([pair.at_i for pair in chosen]), torch.cat([pair.at_j for pair in chosen]))


def linearise(cameras: Cameras, points: Points) -> tuple[Tensor, Tensor]:
    """Residuals (n, 2) in pixels and their Jacobian (n, 2, 8): turn of i, turn of j, log focal length of i and of j."""
    relative = cameras.rotation[points.i].mT @ cameras.rotation[points.j]
    focal_i, focal_j = cameras.focal[points.i], cameras.focal[points.j]
    ray = rays(points.at_j, focal_j)
    turned = (relative @ ray[..., None])[..., 0]
    x, y, depth = turned.unbind(-1)
    depth = depth.clamp(min=MIN_DEPTH)
    zero = torch.zeros_like(x)
    shown = torch.stack([x, y], dim=-1) * (focal_i / depth)[:, None]
    project = torch.stack([1 / depth, zero, -x / depth**2, zero, 1 / depth, -y / depth**2], dim=-1).unflatten(
        -1, (2, 3)
    )
    project = project * focal_i[:, None, None]
    zoom_j = relative[..., 2:] * focal_j[:, None, None]
    jacobian = [
        project @ cross_matrix(turned),
        -project @ relative @ cross_matrix(ray),
        shown[..., None],
        project @ zoom_j,
    ]
    return shown - points.at_i, torch.cat(jacobian, dim=-1)


def robust_cost(residual: Tensor, scale: float) -> Tensor:
    """Sum of Cauchy's loss over residuals (n, 2) in pixels."""
    return torch.log1p(residual.square().sum(-1) / scale**2).sum() * scale**2


@dataclass(frozen=True)
class Fit:
    """The cameras and the covariance of what was fitted, in radians and in logarithms of the focal length, laid out as
    `parameters` says."""

    cameras: Cameras
    place: Tensor
    covariance: Tensor

    def deviation(self, column: int) -> Tensor:
        """Standard deviations (T,) of each frame's unknown: 0 to 2 turns, 3 log focal length; 0 where it is fixed."""
        padded = torch.cat([self.covariance.diagonal().clamp(min=0), torch.zeros(1, dtype=torch.float64)])
        return padded[self.place[:, column]].sqrt()


def parameters(count: int, reference: int, focal: str) -> tuple[Tensor, int]:
    """Where the normal equations keep each frame's four unknowns (T, 4), -1 for what is fixed; and how many there are.

    focal: "fixed", "shared" (one for all frames), "zoom" (each frame's but the reference's) or "free" (each frame's).
    """
    place = torch.full((count, 4), -1)
    turning = torch.arange(count) != reference
    place[turning, :3] = torch.arange(3 * (count - 1)).view(-1, 3)
    used = 3 * (count - 1)
    if focal == "shared":
        place[:, 3] = used
        used += 1
    elif focal in ("zoom", "free"):
        zooming = turning if focal == "zoom" else torch.ones_like(turning)
        place[zooming, 3] = used + torch.arange(int(zooming.sum()))
        used += int(zooming.sum())
    return place, used


def normal_equations(cameras: Cameras, points: Points, place: Tensor, size: int, scale: float) -> tuple[Tensor, Tensor]:
    """Hessian (size, size) and gradient (size,) of the robust cost, by Gauss and Newton."""
    residual, jacobian = linearise(cameras, points)
    weight = 1 / (1 + residual.square().sum(-1) / scale**2)
    columns = torch.cat([place[points.i, :3], place[points.j, :3], place[points.i, 3:], place[points.j, 3:]], dim=1)
    columns = torch.where(columns < 0, size, columns)
    weighed = jacobian * weight[:, None, None]
    hessian = torch.zeros((size + 1) ** 2, dtype=torch.float64)
    blocks = weighed.mT @ jacobian
    hessian.index_add_(0, (columns[:, :, None] * (size + 1) + columns[:, None]).flatten(), blocks.flatten())
    gradient = torch.zeros(size + 1, dtype=torch.float64)
    gradient.index_add_(0, columns.flatten(), (weighed.mT @ residual[..., None])[..., 0].flatten())
    return hessian.view(size + 1, size + 1)[:size, :size], gradient[:size]


def stepped(cameras: Cameras, step: Tensor, place: Tensor) -> Cameras:
    """The cameras after a step in the unknowns."""
    padded = torch.cat([step, step.new_zeros(1)])
    change = padded[place]
    return Cameras(cameras.rotation @ rotation_from_vector(change[:, :3]), cameras.log_focal + change[:, 3])


def fit_all(
    pairs: list[Matches],
    cameras: Cameras,
    reference: int,
    focal: str,
    points_each: int,
    on_step: Callable[[], None] = lambda: None,
) -> Fit:
    """Cameras that all matches agree with best: robust least squares (Levenberg and Marquardt, Cauchy's loss).

    The reference frame's rotation stays. Every frame must hang on it by some chain of pairs. `on_step` is called at
    each step of the fit.
    """
    points = gather_points(pairs, points_each)
    place, size = parameters(len(cameras.rotation), reference, focal)
    for scale in SCALES:
        cameras, cost = descend(cameras, points, place, size, scale, on_step)
    hessian, _ = normal_equations(cameras, points, place, size, SCALES[-1])
    # each match stands in the points twice, which doubles cost and curvature alike; it has two residuals
    variance = cost / max(1, len(points.i) - size)
    covariance = torch.linalg.inv(hessian + 1e-9 * torch.eye(size, dtype=torch.float64)) * variance
    return Fit(cameras, place, covariance)


def descend(
    cameras: Cameras, points: Points, place: Tensor, size: int, scale: float, on_step: Callable[[], None]
) -> tuple[Cameras, float]:
    """Cameras of less cost, and that cost, by Levenberg's and Marquardt's steps."""
    damping, cost = 1e-4, float(robust_cost(linearise(cameras, points)[0], scale))
    for _ in range(MAX_ITERATIONS):
        on_step()
        hessian, gradient = normal_equations(cameras, points, place, size, scale)
        damped = hessian + damping * hessian.diagonal().clamp(min=1e-9).diag()
        trial = stepped(cameras, -torch.linalg.solve(damped, gradient), place)
        trial_cost = float(robust_cost(linearise(trial, points)[0], scale))
        if trial_cost > cost:
            damping *= 10
            if damping > 1e6:
                break
            continue
        gain, cost, cameras, damping = cost - trial_cost, trial_cost, trial, damping / 5
        if gain < ENOUGH_GAIN * cost:
            break
    return cameras, cost
