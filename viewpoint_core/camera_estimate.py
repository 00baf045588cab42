"""A camera path from a clip whose camera turned in place: matched features, one rotation fit over the whole clip.

Nothing in a clip says where north or up is, so the reference frame gets yaw, pitch and roll 0. The camera is taken for
a pinhole on one spot: what it travels, a lens's distortion and what moves in the picture are noise, kept small by
robust fits.
"""

import heapq
import math
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from .camera import check_fov, focal_length
from .camera_path import path_from_rotations, segments, slerp
from .choices import check_choice
from .clip_matches import STEPS, Clip
from .estimate_report import Estimate, grouped
from .feature_matches import Matches, opencv, working_size
from .resample import check_image
from .rotation import rotation_angle
from .rotation_fit import INLIER_PIXELS, Cameras, Fit, PairFit, fit_all, transfer_error

WHEN_UNSURE = ("stop", "hold")
MAX_FRAMES = 600  # the fit's normal equations grow with the square of the frames, its time with the cube
MIN_FEATURES = 24
MIN_AGREEING = 14  # matches; by chance two random frames reach five
MIN_SHARE = 0.2  # of a pair's matches
MIN_SAME = 0.15  # of two frames' features: fewer matches say that they show something else
MIN_CONFIDENCE = 0.2
MIN_FAR_AGREEING = 30  # matches of frames far apart that may speak about drift
MAX_CONTRADICTION = 0.1  # part of the links between far frames that may disagree with the path
FEW_POINTS, MANY_POINTS = 24, 100  # matches of each pair that the first fits take, and the last one
FOV_GUESSES = (40.0, 70.0, 100.0)
MAX_FOV_DEVIATION = 0.021  # relative, of the focal length
KEY_ANGLE = 0.3  # of the field of view: a frame turned further from all key frames becomes one
KEY_LINKS = 4  # key frames that each frame is matched with
SEEN_TOGETHER = 0.75  # of the field of view: frames turned further apart are not matched


def estimate_camera(
    frames: Tensor,
    fov_deg: float | None = None,
    *,
    zoom: bool = False,
    reference: int = 0,
    when_unsure: str = "stop",
    on_frame: Callable[[], None] = lambda: None,
    on_step: Callable[[], None] = lambda: None,
) -> Estimate:
    """The path of the camera that took frames (T, 3, H, W) in [0, 1]; the reference frame looks at 0, 0, 0.

    fov_deg: horizontal, of the reference frame; None finds it out, which needs a camera that turns enough. zoom: each
    frame has a field of view of its own. when_unsure: "stop" raises ValueError where frames cannot be told, "hold"
    keeps the camera still there, or between its neighbours, with confidence 0; a path that frames far apart
    contradict is kept with little confidence. `on_frame` is called once a frame, and then `on_step` at
    each step of the fit.
    Raises ValueError for fewer than two frames or more than MAX_FRAMES, and where the field of view is asked for but
    cannot be told.
    """
    check_request(frames, fov_deg, reference, when_unsure)
    opencv()
    clip = Clip.of(frames, on_frame)
    width = working_size(*frames.shape[-2:])[1]
    focal_mode = {(True, False): "fixed", (True, True): "zoom", (False, False): "shared", (False, True): "free"}
    mode = focal_mode[fov_deg is not None, zoom]
    fit, reached = solve(clip, fov_deg, width, reference, mode, on_step)
    return summarise(clip, fit, reached, width, reference, mode, when_unsure)


def check_request(frames: Tensor, fov_deg: float | None, reference: int, when_unsure: str) -> None:
    """Raise ValueError for what cannot be estimated."""
    check_image(frames, "frames")
    if frames.ndim != 4 or frames.shape[1] != 3:
        raise ValueError(f"frames: expected RGB frames (T, 3, H, W), got {tuple(frames.shape)}")
    if len(frames) < 2:
        raise ValueError("the clip has 1 frame; a camera's path is estimated from two frames or more")
    if len(frames) > MAX_FRAMES:
        raise ValueError(f"the clip has {len(frames)} frames; at most {MAX_FRAMES} are fitted at once: cut the clip")
    if fov_deg is not None:
        check_fov(fov_deg)
    if not 0 <= reference < len(frames):
        raise ValueError(f"the reference frame is {reference}; expected 0 to {len(frames) - 1}")
    check_choice(when_unsure, WHEN_UNSURE, "when_unsure")


def holds(fit: PairFit) -> bool:
    """Whether a pair's matches agree on a rotation beyond what chance would do."""
    agreeing = int(fit.agrees.sum())
    return agreeing >= MIN_AGREEING and agreeing >= MIN_SHARE * len(fit.agrees)


def solve(
    clip: Clip, fov_deg: float | None, width: int, reference: int, mode: str, on_step: Callable[[], None]
) -> tuple[Fit, Tensor]:
    """Cameras of all frames, and which of them (T,) hang together with the reference frame."""
    guesses = FOV_GUESSES if fov_deg is None else (fov_deg,)
    by_pair = partial(own_agreement, clip)
    best: tuple[int, Fit, Tensor] | None = None
    for guess in guesses:
        start = still(len(clip), math.log(focal_length(width, guess)))
        cameras, reached = chain(clip, start, torch.arange(len(clip)) == reference, mode in ("zoom", "free"), on_step)
        fit, score = refine(list(clip.pairs.values()), cameras, reached, reference, mode, by_pair, FEW_POINTS, on_step)
        if best is None or score > best[0]:
            best = score, fit, reached
    assert best is not None
    _, fit, reached = best
    link_key_frames(clip, fit.cameras, reached, width, on_step)
    cameras, reached = chain(clip, fit.cameras, reached, mode in ("zoom", "free"), on_step)
    fit, _ = refine(list(clip.pairs.values()), cameras, reached, reference, mode, by_pair, FEW_POINTS, on_step)
    again = clip.match_again(fit.cameras, reached, on_step)
    return refine(again, fit.cameras, reached, reference, mode, agreement, MANY_POINTS, on_step)[0], reached


def still(count: int, log_focal: float) -> Cameras:
    """Cameras that do not turn."""
    return Cameras(
        torch.eye(3, dtype=torch.float64).repeat(count, 1, 1), torch.full((count,), log_focal, dtype=torch.float64)
    )


def chain(clip: Clip, start: Cameras, known: Tensor, zoom: bool, on_step: Callable[[], None]) -> tuple[Cameras, Tensor]:
    """Follow the best matches from the known frames (T,) to all that they lead to, one frame at a time."""
    rotation, log_focal, reached = start.rotation.clone(), start.log_focal.clone(), known.clone()
    waiting: list[tuple[int, int, int, Tensor, float]] = []

    def offer(i: int) -> None:
        for pair in clip.partners(i):
            if not reached[pair.j] and len(pair) >= MIN_AGREEING:
                fit = clip.fit(pair, float(log_focal[i]), float(log_focal[pair.j]), zoom=zoom)
                if holds(fit):
                    turn = rotation[i] @ fit.rotation
                    heapq.heappush(waiting, (-int(fit.agrees.sum()), i, pair.j, turn, fit.log_focal_j))

    for frame in known.nonzero()[:, 0].tolist():
        offer(frame)
    while waiting:
        _, _, j, turn, focal = heapq.heappop(waiting)
        if not reached[j]:
            on_step()
            rotation[j], log_focal[j], reached[j] = turn, focal, True
            offer(j)
    return Cameras(rotation, log_focal), reached


def agreement(pair: Matches, cameras: Cameras) -> Tensor:
    """Which of a pair's matches agree with the cameras."""
    relative = cameras.rotation[pair.i].T @ cameras.rotation[pair.j]
    focal = cameras.focal
    return transfer_error(relative, pair.at_i, pair.at_j, focal[pair.i], focal[pair.j]) < INLIER_PIXELS


def own_agreement(clip: Clip, pair: Matches, cameras: Cameras) -> Tensor:
    """Which of a pair's matches agree with the rotation that most of them ask for, whatever the cameras' are."""
    fit = clip.fit(pair, float(cameras.log_focal[pair.i]), float(cameras.log_focal[pair.j]))
    return fit.agrees if holds(fit) else torch.zeros_like(fit.agrees)


def refine(
    pairs: list[Matches],
    cameras: Cameras,
    reached: Tensor,
    reference: int,
    mode: str,
    choose: Callable[[Matches, Cameras], Tensor],
    points: int,
    on_step: Callable[[], None],
) -> tuple[Fit, int]:
    """Fit all frames that were reached to the chosen matches; and how many of all matches agree then."""
    pairs = [pair for pair in pairs if reached[pair.i] and reached[pair.j]]
    chosen = [pair.only(choose(pair, cameras)) for pair in pairs]
    chosen = [pair for pair in chosen if len(pair) >= MIN_AGREEING]
    if not chosen:
        return Fit(cameras, torch.full((len(reached), 4), -1), torch.zeros(0, 0, dtype=torch.float64)), 0
    index = reached.nonzero()[:, 0]
    place = torch.full((len(reached),), -1)
    place[index] = torch.arange(len(index))
    own = [Matches(int(place[pair.i]), int(place[pair.j]), pair.at_i, pair.at_j) for pair in chosen]
    part = Cameras(cameras.rotation[index], cameras.log_focal[index])
    fit = fit_all(own, part, int(place[reference]), mode, points, on_step)
    rotation, log_focal = cameras.rotation.clone(), cameras.log_focal.clone()
    rotation[index], log_focal[index] = fit.cameras.rotation, fit.cameras.log_focal
    everywhere = torch.full((len(reached), 4), -1)
    everywhere[index] = fit.place
    whole = Fit(Cameras(rotation, log_focal), everywhere, fit.covariance)
    return whole, sum(int(agreement(pair, whole.cameras).sum()) for pair in pairs)


def link_key_frames(clip: Clip, cameras: Cameras, reached: Tensor, width: int, on_step: Callable[[], None]) -> None:
    """Match each frame with the nearest few of those that stand for all directions; lost frames with all of them."""
    fov = 2 * torch.atan(width / 2 / cameras.focal)
    keys: list[int] = []
    for frame in reached.nonzero()[:, 0].tolist():
        apart = [float(rotation_angle(cameras.rotation[key].T @ cameras.rotation[frame])) for key in keys]
        if not keys or min(apart) > KEY_ANGLE * float(fov[frame]):
            keys.append(frame)
    for frame in range(len(clip)):
        on_step()
        apart = rotation_angle(cameras.rotation[keys].mT @ cameras.rotation[frame])
        near = [keys[k] for k in apart.argsort().tolist() if apart[k] < SEEN_TOGETHER * fov[frame]][:KEY_LINKS]
        for key in near if reached[frame] else keys:
            if key != frame:
                clip.match(min(key, frame), max(key, frame))


# What came out


def summarise(
    clip: Clip, fit: Fit, reached: Tensor, width: int, reference: int, mode: str, when_unsure: str
) -> Estimate:
    """The estimate, or ValueError where it must not stand."""
    cameras = fit.cameras
    matched, agreeing = tally(clip, cameras, reached)
    confidence = confidences(clip, cameras, reached)
    unsure = {frame: reason(clip, frame, reached) for frame in range(len(clip)) if confidence[frame] < MIN_CONFIDENCE}
    if unsure and when_unsure == "stop":
        raise ValueError(
            "the camera's path cannot be told. " + "; ".join(grouped(unsure)) + ". Cut the clip, or choose 'hold'"
        )
    if mode in ("shared", "free"):
        check_fov_is_told(fit, reached, reference, width)
    drift, chained, contradicted = drifts(clip, cameras, reached)
    if contradicted > MAX_CONTRADICTION and when_unsure == "stop":
        raise ValueError(
            f"the camera's path cannot be told: {contradicted:.0%} of the links between frames far apart contradict "
            f"it, by up to {drift:.1f} degrees. Cut the clip, or choose 'hold'"
        )
    if contradicted > MAX_CONTRADICTION:  # below what "stop" takes, for all frames: which of them err is unknown
        confidence = confidence.clamp(max=MIN_CONFIDENCE * (1 - contradicted))
    else:
        contradicted = 0.0
    confidence[list(unsure)] = 0
    cameras = held(cameras, confidence > 0, reference)
    fov_deg = (2 * torch.atan(width / 2 / cameras.focal)).rad2deg()
    path = path_from_rotations(cameras.rotation[reference].T @ cameras.rotation, fov_deg, confidence)
    return Estimate(path, drift, chained, agreeing, matched, unsure, contradicted)


def tally(clip: Clip, cameras: Cameras, reached: Tensor) -> tuple[Tensor, Tensor]:
    """Of each frame: its matches with the frames beside it, and how many of them agree with the cameras (T,)."""
    matched, agreeing = torch.zeros(len(clip)), torch.zeros(len(clip))
    for (i, j), pair in clip.pairs.items():
        if j - i == 1:
            agree = int(agreement(pair, cameras).sum()) if reached[i] and reached[j] else 0
            for frame in (i, j):
                matched[frame] += len(pair)
                agreeing[frame] += agree
    return matched, agreeing


def confidences(clip: Clip, cameras: Cameras, reached: Tensor) -> Tensor:
    """In [0, 1] (T,): the share of matches that agree, less where they are few or huddle in a part of the picture."""
    confidence = torch.zeros(len(clip), dtype=torch.float64)
    for frame in reached.nonzero()[:, 0].tolist():
        pairs = [pair for pair in clip.partners(frame) if reached[pair.j]]
        agrees = [agreement(pair, cameras) for pair in pairs]
        points = [pair.at_i[chosen] for pair, chosen in zip(pairs, agrees, strict=True)]
        points = torch.cat(points) if points else torch.empty(0, 2)
        if len(points) < MIN_AGREEING:
            continue
        best = max(int(chosen.sum()) for chosen in agrees)
        share = max(float(chosen.double().mean()) for chosen in agrees if len(chosen) >= MIN_AGREEING)
        spread = float(torch.linalg.eigvalsh(points.T.cov())[0].clamp(min=0).sqrt()) / min(clip.size)
        confidence[frame] = min(1, share / 0.7) * min(1, best / 50) * min(1, spread / 0.1)
    return confidence


def reason(clip: Clip, frame: int, reached: Tensor) -> str:
    """Why a frame's camera cannot be told."""
    if len(clip.features[frame].position) < MIN_FEATURES:
        return f"too little to follow (fewer than {MIN_FEATURES} features: flat, dark or blurred)"
    sizes = [len(features.position) for features in clip.features]
    pairs = [pair for pair in clip.partners(frame) if reached[pair.j] and len(pair)]
    most = max((len(pair) / min(sizes[pair.i], sizes[pair.j]) for pair in pairs), default=0)
    if not reached[frame] and most < MIN_SAME:
        return "not tied to the reference frame (a scene cut, or hardly any overlap with the frames beside it)"
    if not reached[frame]:
        return "what it shows does not move as for a camera that turns in place (it travels, or most of it moves)"
    return "too few points agree, or all of them in a small part of the picture"


def check_fov_is_told(fit: Fit, reached: Tensor, reference: int, width: int) -> None:
    """Raise ValueError where the matches leave the field of view open."""
    if fit.place[reference, 3] < 0:
        raise ValueError(
            "the field of view cannot be told: no frame could be tied to the reference frame. Give fov_deg"
        )
    deviation = float(fit.deviation(3)[reference])
    turned = float(rotation_angle(fit.cameras.rotation[reference].T @ fit.cameras.rotation[reached]).max().rad2deg())
    focal = fit.cameras.focal[reached]
    if deviation > MAX_FOV_DEVIATION or not 0.05 < float(focal.min()) / width or float(focal.max()) / width > 12:
        raise ValueError(
            f"the field of view cannot be told: the camera turns by {turned:.1f} degrees at most, which leaves its "
            f"focal length open by {deviation:.0%}. Give fov_deg"
        )


def drifts(clip: Clip, cameras: Cameras, reached: Tensor) -> tuple[float, float, float]:
    """`drift_deg` and `chained_drift_deg` of an Estimate, and which part of the far links the path contradicts."""
    log_focal = cameras.log_focal
    far, chained, whole = [], torch.eye(3, dtype=torch.float64), bool(reached.all())
    contradicted = 0
    for (i, j), pair in sorted(clip.pairs.items()):
        if not (reached[i] and reached[j]) or (j - i > 1 and j - i < STEPS[-1]):
            continue
        fit = clip.fit(pair, float(log_focal[i]), float(log_focal[j]))
        if j - i == 1:
            whole, chained = whole and holds(fit), chained @ fit.rotation
        elif holds(fit) and int(fit.agrees.sum()) >= MIN_FAR_AGREEING:
            far.append(float(rotation_angle(fit.rotation.T @ cameras.rotation[i].T @ cameras.rotation[j]).rad2deg()))
            contradicted += int(agreement(pair, cameras).sum()) < fit.agrees.sum() / 2
    end = float(rotation_angle(chained.T @ cameras.rotation[0].T @ cameras.rotation[-1]).rad2deg())
    return max(far, default=math.nan), end if whole else math.nan, contradicted / max(1, len(far))


def held(cameras: Cameras, known: Tensor, reference: int) -> Cameras:
    """The cameras with guesses where they are not known (T,): between the known frames beside, or as the nearest."""
    times = known.nonzero()[:, 0].double()
    if not len(times):
        times = torch.tensor([float(reference)], dtype=torch.float64)
    index = times.long()
    frames = torch.arange(len(known), dtype=torch.float64)
    rotation = slerp(times, cameras.rotation[index], frames)
    before, part = segments(times, frames)
    after = (before + 1).clamp(max=len(times) - 1)
    log_focal = torch.lerp(cameras.log_focal[index][before], cameras.log_focal[index][after], part)
    rotation[index], log_focal[index] = cameras.rotation[index], cameras.log_focal[index]
    return Cameras(rotation, log_focal)
