"""What a run shows while it trains: losses on held-out clips at fixed noise levels, and sample panoramas as video."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import torch
from diffusers import AutoencoderKLWan
from torch import Tensor, nn

from ..conditioning import video_frames
from ..cubemap import FACE_YAW_PITCH
from ..map_layout import erp_width_for_map
from ..views import render_view
from .config import TrainingConfig
from .data.cache import CachedClips
from .data.clips import map_to_video
from .data.video_file import write_video
from .flow_matching import add_noise, euler_sample, fixed_sigmas, flow_loss, sampling_sigmas, velocity
from .known_view import FACE_OF, View, known_channels, mask_cells, view_masks
from .layouts import VIEWPOINT, faces_to_picture, to_erp
from .plan import Buckets, generator_for
from .spread import spread
from .wan import predict_velocity, short_text
from .wan_vae import decode_latent

SAMPLE_VIEW = View()  # 90 degrees straight ahead, the first of the paper's
SAMPLE_FACE = FACE_OF[SAMPLE_VIEW]


def longest_first(buckets: Buckets) -> list[Sequence[int]]:
    """The buckets' clips, those with the most frames first."""
    return [buckets[shape] for shape in sorted(buckets, reverse=True)]


def loss_clips(buckets: Buckets, count: int) -> list[int]:
    """The clips that held-out losses are measured on, spread over each bucket: as many of one as of another while they
    last, so that neither many images hide a few videos nor the other way round."""
    order = longest_first(buckets)
    turns = sorted((turn, place) for place, items in enumerate(order) for turn in range(len(items)))
    shares = Counter(place for _, place in turns[:count])
    return [index for place, items in enumerate(order) for index in spread(items, shares[place])]


def sample_clips(buckets: Buckets, count: int) -> list[int]:
    """The clips that samples are made of, spread over the bucket with the most frames, then over the next."""
    chosen: list[int] = []
    for items in longest_first(buckets):
        chosen += spread(items, count - len(chosen))
    return chosen


def known_of(vae: AutoencoderKLWan, item: dict, layout: str, device: torch.device) -> Tensor:
    """The condition channels (1, C + 1, t, h, w) of a cached clip seen straight ahead: as the cache has them, or
    encoded here."""
    if "known" in item:
        latent = item["known"][SAMPLE_FACE]
        cells = mask_cells(SAMPLE_VIEW, item["map_size"], video_frames(latent.shape[1]), layout)
        return torch.cat([latent, cells])[None].to(device)
    masks = view_masks([SAMPLE_VIEW], item["map_size"], layout)
    return known_channels(vae, map_to_video(item["map"][None].to(device)), masks.to(device))


@torch.no_grad()
def heldout_losses(
    model: nn.Module, vae: AutoencoderKLWan, clips: CachedClips, config: TrainingConfig, device: torch.device
) -> dict[float, float]:
    """Mean loss over held-out clips at each fixed noise level: the same clips, noise and view every time, so that
    numbers compare from step to step and from run to run."""
    levels = fixed_sigmas(config.heldout_levels, config.sigmas, config.shift)
    chosen = loss_clips(clips.buckets(), config.heldout_clips)
    total = torch.zeros(len(levels))
    for index in chosen:
        item = clips[index]
        latent, text = item["latent"][None].to(device), short_text(item["text"][None]).to(device)
        known = known_of(vae, item, config.layout, device)
        noise = torch.randn(latent.shape, generator=generator_for("heldout", index)).to(device)
        for place, sigma in enumerate(levels):
            sigmas = sigma[None].to(device)
            predicted = predict_velocity(model, add_noise(latent, noise, sigmas), known, sigmas, text)
            total[place] += flow_loss(predicted, velocity(latent, noise)).cpu()[0] / len(chosen)
    return dict(zip(levels.tolist(), total.tolist(), strict=True))


@torch.no_grad()
def sample_map(
    model: nn.Module,
    vae: AutoencoderKLWan,
    item: dict,
    empty_text: Tensor,
    config: TrainingConfig,
    device: torch.device,
    seed: int,
) -> Tensor:
    """Generate a map video (3, T, S, S) in [0, 1] from a clip's straight-ahead view and its caption."""
    known, text = known_of(vae, item, config.layout, device), short_text(item["text"][None]).to(device)
    nothing = short_text(empty_text[None]).to(text)
    noise = torch.randn(item["latent"][None].shape, generator=generator_for("sample video", seed)).to(device)

    def predict(x: Tensor, sigma: Tensor) -> Tensor:
        guided = predict_velocity(model, x, known, sigma, text)
        if config.sample_cfg == 1:
            return guided
        free = predict_velocity(model, x, known, sigma, nothing)
        return free + config.sample_cfg * (guided - free)

    latent = euler_sample(predict, noise, sampling_sigmas(config.sample_steps, config.shift))
    return (decode_latent(vae, latent.float())[0].float() / 2 + 0.5).clamp(0, 1)


def six_faces(erp: Tensor) -> Tensor:
    """ERP frames (T, 3, H, 2H) -> their six faces, F R B over L U D: (T, 3, 2 a, 3 a), a = H / 3 made even."""
    size = max(2, erp.shape[-2] // 6 * 2)
    views = [
        render_view(erp, size, size, yaw_deg=yaw_deg, pitch_deg=pitch_deg)
        for yaw_deg, pitch_deg in FACE_YAW_PITCH.values()
    ]
    return faces_to_picture(torch.stack(views, dim=1)).clamp(0, 1)


def write_sample(video: Tensor, folder: Path, name: str, layout: str = VIEWPOINT, *, fps: float) -> list[Path]:
    """The map (or another layout), its panorama and six faces of a map video (3, T, S, S), as three files."""
    frames = video.transpose(0, 1).cpu()
    width = erp_width_for_map(frames.shape[-1]) if layout == VIEWPOINT else frames.shape[-1] // 4 * 4
    erp = to_erp(frames, layout, width).clamp(0, 1)
    shown = {"map": frames, "erp": erp, "faces": six_faces(erp)}
    files = [folder / f"{name}_{kind}.mp4" for kind in shown]
    folder.mkdir(parents=True, exist_ok=True)
    for file, picture in zip(files, shown.values(), strict=True):
        write_video(picture, file, fps, crf=18, pix_fmt="yuv420p")
    return files
