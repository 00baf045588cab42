"""The small VAE: how it starts, the scale of its latents, and a run that is stopped and goes on."""

import signal
from pathlib import Path

import pytest
import torch
from torch import Tensor

from tests.training_runs import HEIGHT, WIDTH, write_turning_panorama
from tests.vae_runs import flags, manifest, stop_at_two
from viewpoint_core import train_vae
from viewpoint_core.training import vae_training
from viewpoint_core.training.data.clips import map_to_video
from viewpoint_core.training.data.manifest import Item, read_manifest, write_manifest
from viewpoint_core.training.new_vae import new_vae
from viewpoint_core.training.patch_codes import fit_codes
from viewpoint_core.training.plan import generator_for
from viewpoint_core.training.state import newest_checkpoint
from viewpoint_core.training.vae_training import (
    CONTRAST_FLOOR,
    code_loss,
    draw_crops,
    known_masks,
    motion_loss,
    raw_latents,
    reconstruction_psnr,
    set_latent_scale,
    step_strength,
    vae_loss,
    write_vae,
)
from viewpoint_core.training.wan_vae import encode_video, load_vae

CPU = torch.device("cpu")


def clips(count: int = 3, seed: int = 0) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randint(0, 256, (3, 5, 64, 64), generator=generator, dtype=torch.uint8) for _ in range(count)]


def clips_of_noise(count: int = 4) -> list[Tensor]:
    """Smooth clips of five frames that move."""
    noise = torch.randn(count, 3, 48, 48, generator=torch.Generator().manual_seed(0))
    for _ in range(3):
        noise = torch.nn.functional.avg_pool2d(noise, 5, 1, 2)
    noise = 128 + 50 * noise / noise.std()
    return list(torch.stack([noise[..., :32, t : t + 32] for t in range(5)], dim=2).clamp(0, 255).byte())


def test_a_new_vae_treats_a_still_video_as_its_picture() -> None:
    vae = new_vae(8, 0)
    picture = torch.rand(1, 3, 1, 32, 32, generator=torch.Generator().manual_seed(0)) * 2 - 1
    with torch.no_grad():
        one = vae.encode(picture).latent_dist.mean
        many = vae.encode(picture.expand(-1, -1, 9, -1, -1)).latent_dist.mean
        assert many.shape[2] == 3
        assert (many - one).abs().max() < 1e-5
        assert (vae.decode(many).sample - vae.decode(one).sample).abs().max() < 1e-5


def test_a_new_vae_passes_every_hue_on() -> None:
    """Of each plain colour and its opposite the one channel that differs still does, before any training."""
    vae = new_vae(8, 0)
    for colour in torch.eye(3):
        for sign in (-1, 1):
            picture = (0.8 * sign * (2 * colour - 1))[None, :, None, None, None].expand(-1, -1, 1, 32, 32)
            with torch.no_grad():
                made = vae.decode(vae.encode(picture).latent_dist.mean, return_dict=False)[0]
            middle = made[0, :, 0, 12:20, 12:20].mean((1, 2))
            others, own = (middle * sign)[colour == 0], (middle * sign)[colour == 1]
            assert float(own) > float(others.max()) + 0.3


def test_every_weight_learns_from_videos() -> None:
    vae = new_vae(8, 0)
    for _ in range(2):  # behind a branch that ends in zeros nothing moves in the first step
        video = draw_crops(clips(), known_masks(64, 0), batch=2, size=32, length=5, seed=0, step=0)
        vae_loss(vae, video, torch.randn(2, 16, 2, 4, 4, generator=generator_for("noise")))[0].backward()
        with torch.no_grad():
            for weight in vae.parameters():
                weight -= 0.1 * weight.grad
    assert all(bool(weight.grad.any()) for weight in vae.parameters())


def test_the_latents_get_wans_scale_and_the_video_stays() -> None:
    vae, some = new_vae(8, 0), clips()
    video = some[0][None].float() / 127.5 - 1
    with torch.no_grad():
        before = vae.decode(vae.encode(video).latent_dist.mean, return_dict=False)[0]
        spread = vae.encode(video).latent_dist.std
        set_latent_scale(vae, some, CPU)
        after = vae.decode(vae.encode(video).latent_dist.mean, return_dict=False)[0]
    assert (after - before).abs().max() < 1e-4
    latents = torch.cat([encode_video(vae, clip[None].float() / 127.5 - 1)[0].flatten(1) for clip in some], dim=1)
    assert latents.mean(1).abs().max() < 1e-3
    assert (latents.std(1) - 1).abs().max() < 1e-3
    posterior = vae.encode(video).latent_dist
    raw = torch.cat([latent.flatten(1) for latent in raw_latents(vae, some, CPU)], dim=1)
    assert torch.allclose(raw.std(1), torch.tensor(vae.config.latents_std), rtol=1e-3)
    assert not torch.allclose(posterior.std, spread)


def test_crops_are_a_function_of_seed_and_step_and_some_are_partly_grey() -> None:
    some, masks = clips(), known_masks(64, 0)
    crops = [draw_crops(some, masks, batch=8, size=32, length=5, seed=0, step=step) for step in (0, 0, 1)]
    assert torch.equal(crops[0], crops[1])
    assert not torch.equal(crops[0], crops[2])
    grey = torch.cat([(crop == 0).flatten(1).float().mean(1) for crop in crops[1:]])
    assert 0 < int((grey > 0.05).sum()) < len(grey)


def test_the_written_file_is_the_vae(tmp_path: Path) -> None:
    vae = new_vae(8, 0)
    write_vae(vae, tmp_path / "models" / "vae.safetensors")
    loaded = load_vae(tmp_path / "models" / "vae.safetensors")
    for name, weight in vae.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], weight), name
    assert reconstruction_psnr(loaded, clips(1), CPU) == reconstruction_psnr(vae.eval(), clips(1), CPU)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_stopped_run_goes_on_exactly(number: signal.Signals, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C among the single frames, when part of the weights has not been reached yet."""
    manifest(tmp_path)
    assert train_vae.main(flags(tmp_path, "whole")) == 0
    with monkeypatch.context() as stopping:
        stop_at_two(stopping, number)
        assert train_vae.main(flags(tmp_path, "stopped")) == 130
    assert newest_checkpoint(tmp_path / "stopped").name == "step_00000002"
    assert train_vae.main(flags(tmp_path, "stopped")) == 0
    whole, stopped = ((tmp_path / name / train_vae.FILE).read_bytes() for name in ("whole", "stopped"))
    assert whole == stopped


def test_a_finished_run_does_not_train_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    manifest(tmp_path)
    assert train_vae.main(flags(tmp_path, "vae")) == 0
    before = (tmp_path / "vae" / train_vae.FILE).read_bytes()
    monkeypatch.delattr(train_vae, "train_step")
    assert train_vae.main(flags(tmp_path, "vae")) == 0
    assert (tmp_path / "vae" / train_vae.FILE).read_bytes() == before


def test_full_memory_is_said_with_what_takes_less(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fill(run: train_vae.VaeRun) -> float:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB\nmore")

    manifest(tmp_path)
    monkeypatch.setattr(train_vae, "train_step", fill)
    assert train_vae.main(flags(tmp_path, "vae")) == 2
    said = capsys.readouterr().err.splitlines()[-1]
    assert "A smaller --batch-size goes on" in said
    assert said.endswith("Tried to allocate 2.00 GiB)")


def test_told_the_code_encoder_and_decoder_each_come_to_it() -> None:
    """From half of what a code of zeros leaves wrong, in forty steps."""
    some = clips_of_noise()
    codes, vae = fit_codes(some), new_vae(8, 0)
    video = torch.stack([map_to_video(clip) for clip in some])
    code = codes(video)
    optimizer = torch.optim.AdamW(vae.parameters(), lr=3e-3)
    errors = []
    for step in range(40):
        loss, error = code_loss(vae, video, torch.randn(code.shape, generator=generator_for("noise", step)), code)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        errors.append(float(error))
    with torch.no_grad():
        wrong = (vae.encode(video).latent_dist.mean - code).square().mean()
    assert float(wrong / code.square().mean()) < 0.5
    assert errors[-1] < 0.5 * float(video.square().mean())


def test_lost_motion_costs_its_steps_and_a_blur_that_stands_costs_nothing() -> None:
    moving = torch.stack([clip.float() / 127.5 - 1 for clip in clips_of_noise()])
    held = moving.mean(2, keepdim=True).expand_as(moving)
    steps = float(moving.diff(dim=2).square().mean())
    assert steps > 0.01
    assert float(motion_loss(held - moving)) == pytest.approx(steps, rel=1e-4)
    assert float(motion_loss(0.5 * held)) == 0
    assert float(motion_loss(moving[:, :, :1])) == 0


def test_a_vaes_loss_counts_lost_motion(monkeypatch: pytest.MonkeyPatch) -> None:
    video = torch.stack([clip.float() / 127.5 - 1 for clip in clips_of_noise()])
    vae = new_vae(8, 0)
    noise = torch.zeros_like(vae.encode(video).latent_dist.mean)
    with torch.no_grad():
        loss = float(vae_loss(vae, video, noise)[0])
        wrong = vae.decode(vae.encode(video).latent_dist.mean, return_dict=False)[0] - video
        monkeypatch.setattr(vae_training, "MOTION_WEIGHT", 0.0)
        without = float(vae_loss(vae, video, noise)[0])
    assert float(motion_loss(wrong)) > 0.01
    assert loss - without == pytest.approx(float(motion_loss(wrong)), rel=1e-3)


def test_a_blur_has_less_contrast_and_a_moved_picture_as_much() -> None:
    video = torch.rand(1, 3, 4, 32, 32, generator=torch.Generator().manual_seed(0)) * 2 - 1
    blurred = torch.nn.functional.avg_pool3d(video, (1, 3, 3), 1, (0, 1, 1))
    for axis in (-1, -2):
        sharp, soft, moved = (step_strength(v, axis).mean() for v in (video, blurred, video.roll(4, axis)))
        assert float(soft) < 0.5 * float(sharp)
        assert float(moved) == pytest.approx(float(sharp), rel=0.05)
    assert float(step_strength(video[:, :, :1].expand_as(video), -3).max()) == pytest.approx(CONTRAST_FLOOR)


def test_the_decoder_alone_leaves_latents_as_they_were(tmp_path: Path) -> None:
    manifest(tmp_path)
    settings = {"still-steps": 0, "code-steps": 1, "decoder-steps": 2, "steps": 4}
    run = train_vae.start(train_vae.parse(flags(tmp_path, "out", **settings)))
    train_vae.train_step(run)
    train_vae.train_step(run)
    before = {name: weight.clone() for name, weight in run.vae.state_dict().items()}
    train_vae.train_step(run)
    train_vae.train_step(run)
    moved = {name for name, weight in run.vae.state_dict().items() if not torch.equal(weight, before[name])}
    assert {name.split(".")[0] for name in moved} == {"decoder", "post_quant_conv"}


def test_crops_of_several_lengths_take_turns_and_shorter_videos_give_the_shorter_ones(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Of a video of seven frames the VAE takes five: its latents stand for 4k + 1."""
    file = manifest(tmp_path)
    videos = [
        Item(write_turning_panorama(tmp_path / name, 70, frames), 0, frames, 16.0, WIDTH, HEIGHT, "", "CC0", split)
        for name, frames, split in (("long", 9, "train"), ("short", 7, "train"), ("seen", 7, "heldout"))
    ]
    short = read_manifest(file)
    write_manifest([*short, *videos], file)
    lengths = ["--crop-length", "1", "9"]
    arguments = [*flags(tmp_path, "out", **{"length": 9, "still-steps": 1}), *lengths]
    run = train_vae.start(train_vae.parse(arguments))
    assert sorted(clip.shape[1] for clip in run.clips) == [5, 5, 5, 9]
    assert [train_vae.crops_at(run, step).shape[2] for step in range(5)] == [1, 9, 1, 9, 1]
    assert train_vae.main(arguments) == 0
    assert train_vae.main([*flags(tmp_path, "out", **{"length": 9, "still-steps": 1}), "--crop-length", "5"]) == 2
    assert "crop_length" in capsys.readouterr().err
    write_manifest(short, file)
    assert train_vae.main([*flags(tmp_path, "other", length=9), *lengths]) == 2
    assert "one or more of them of 9 frames" in capsys.readouterr().err


def test_options_that_cannot_be_are_refused_before_anything_is_read(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for options, reason in (
        ({"crop": 36}, "multiple of 8"),
        ({"crop": 128}, "do not fit"),
        ({"crop-length": 4}, "4k + 1"),
        ({"steps": 0}, "above 0"),
        ({"width": 4}, "8 or more"),
        ({"decoder-steps": 5}, "fewer than --steps"),
    ):
        assert train_vae.main(flags(tmp_path, "out", **options)) == 2
        assert reason in capsys.readouterr().err
    write_manifest([], tmp_path / "manifest.jsonl")
    assert train_vae.main(flags(tmp_path, "out")) == 2


@pytest.mark.parametrize(("option", "value"), [("fps", 0), ("fps", -1), ("still-steps", -1), ("code-steps", -1)])
def test_numbers_that_cannot_be_are_refused_before_anything_is_read(
    option: str, value: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    missing = ["--manifest", str(tmp_path / "none.jsonl"), "--output", str(tmp_path)]
    assert train_vae.main([*missing, f"--{option}", str(value)]) == 2
    assert f"--{option}" in capsys.readouterr().err
