"""The small VAE: how it starts, the scale of its latents, and a run that is stopped and goes on."""

import math
import signal
from dataclasses import fields
from pathlib import Path

import pytest
import torch
from torch import Tensor

from scripts import tiny_budgets, train_tiny
from tests.training_runs import HEIGHT, LENGTH, MAP, WIDTH, write_turning_panorama
from viewpoint_core import train_vae
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


def manifest(folder: Path) -> Path:
    items = [
        Item(
            write_turning_panorama(folder / f"clip{i}", 20 * i), 0, LENGTH, 16.0, WIDTH, HEIGHT, "a yard", "CC0", split
        )
        for i, split in enumerate(("train", "train", "heldout"))
    ]
    write_manifest(items, folder / "manifest.jsonl")
    return folder / "manifest.jsonl"


def flags(folder: Path, output: str, **options: object) -> list[str]:
    values = {"manifest": folder / "manifest.jsonl", "output": folder / output, "map-size": MAP, "length": LENGTH}
    values |= {
        "width": 8,
        "crop": 32,
        "batch-size": 2,
        "steps": 5,
        "still-steps": 3,
        "code-steps": 2,
        "device": "cpu",
        **options,
    }
    return [part for name, value in values.items() for part in (f"--{name}", str(value))]


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


def stop_at_two(monkeypatch: pytest.MonkeyPatch, number: signal.Signals) -> None:
    """A signal in the second step, to every run from here on."""
    real_step = train_vae.train_step

    def step(run: train_vae.VaeRun) -> float:
        if run.step == 1:
            signal.raise_signal(number)
        return real_step(run)

    monkeypatch.setattr(train_vae, "train_step", step)


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


@pytest.mark.parametrize(("start", "optimizer"), [("decoder-of", "adamw"), ("decoder-of", "muon"), ("vae", "muon")])
def test_a_stopped_run_of_a_vae_that_is_there_goes_on_exactly(
    start: str, optimizer: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    manifest(tmp_path)
    write_vae(new_vae(8, 0), tmp_path / "vae.safetensors")
    options = {start: tmp_path / "vae.safetensors", "steps": 3, "optimizer": optimizer}
    assert train_vae.main(flags(tmp_path, "whole", **options)) == 0
    with monkeypatch.context() as stopping:
        stop_at_two(stopping, signal.SIGINT)
        assert train_vae.main(flags(tmp_path, "stopped", **options)) == 130
    assert train_vae.main(flags(tmp_path, "stopped", **options)) == 0
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


def test_a_blur_has_less_contrast_and_a_moved_picture_as_much() -> None:
    video = torch.rand(1, 3, 4, 32, 32, generator=torch.Generator().manual_seed(0)) * 2 - 1
    blurred = torch.nn.functional.avg_pool3d(video, (1, 3, 3), 1, (0, 1, 1))
    for axis in (-1, -2):
        sharp, soft, moved = (step_strength(v, axis).mean() for v in (video, blurred, video.roll(4, axis)))
        assert float(soft) < 0.5 * float(sharp)
        assert float(moved) == pytest.approx(float(sharp), rel=0.05)
    assert float(step_strength(video[:, :, :1].expand_as(video), -3).max()) == pytest.approx(CONTRAST_FLOOR)


def test_every_number_of_a_budgets_vae_reaches_the_trainer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = [field.name for field in fields(train_tiny.Budget) if field.name.startswith("vae_")]
    budget = tiny_budgets.Budget(
        **{name: 1000 + number for number, name in enumerate(names)} | {"vae_steps": 5000, "vae_optimizer": "muon"}
    )
    given: list[object] = []
    monkeypatch.setattr(train_tiny, "call", lambda command, *flags: given.extend(flags))
    train_tiny.train_the_vae(tmp_path, budget)
    assert {getattr(budget, name) for name in names} <= set(given)
    train_vae.check_options(train_vae.parse([str(flag) for flag in given]))


@pytest.mark.parametrize("name", tiny_budgets.BUDGETS)
@pytest.mark.parametrize("share", [1.0, 0.4, 0.001])
def test_a_share_of_a_budget_is_less_of_the_same_training(name: str, share: float) -> None:
    whole = tiny_budgets.BUDGETS[name]
    part = tiny_budgets.share_of(whole, share)
    assert part.steps == math.ceil(share * whole.steps)
    assert part.vae_decoder_steps < part.vae_steps == math.ceil(share * whole.vae_steps)
    for clips, all_clips in (
        (part.videos, whole.videos),
        (part.more, whole.more),
        (part.long, whole.long),
        (part.stills, whole.stills),
    ):
        assert len(clips) == math.ceil(share * len(all_clips))
        assert list(clips) == list(all_clips)[: len(clips)]
    assert (part.batch, part.lr, part.heads, part.vae_width) == (whole.batch, whole.lr, whole.heads, whole.vae_width)
    assert share < 1 or part == whole


@pytest.mark.parametrize("share", ["0", "-1", "1.5", "nan"])
def test_a_share_that_cannot_be_is_refused_before_anything_is_made(
    share: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "made"
    assert train_tiny.main(["--folder", str(folder), "--share", share]) == 1
    assert "expected more than 0 and at most 1" in capsys.readouterr().err
    assert not folder.exists()


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


def test_a_vae_that_is_there_gets_another_decoder_and_keeps_its_latents(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A folder that was begun for another VAE is refused, and so is a VAE that is not there."""
    manifest(tmp_path)
    assert train_vae.main(flags(tmp_path, "first")) == 0
    first = tmp_path / "first" / "vae.safetensors"
    assert train_vae.main(flags(tmp_path, "second", **{"decoder-of": first, "width": 16, "lr": 0.003})) == 0
    one, two = (load_vae(tmp_path / name / "vae.safetensors") for name in ("first", "second"))
    video = map_to_video(clips(1)[0])[None]
    assert torch.equal(encode_video(one, video), encode_video(two, video))
    moved = {
        name.split(".")[0]
        for name, weight in two.state_dict().items()
        if not torch.equal(weight, one.get_parameter(name))
    }
    assert moved == {"decoder", "post_quant_conv"}
    again = flags(tmp_path, "second", **{"decoder-of": tmp_path / "second" / "vae.safetensors", "steps": 6})
    assert train_vae.main(again) == 2
    assert "decoder_of" in capsys.readouterr().err
    assert train_vae.main(flags(tmp_path, "third", **{"decoder-of": tmp_path / "none.safetensors"})) == 2
    assert "none.safetensors" in capsys.readouterr().err


def test_a_vae_that_is_there_is_trained_further_and_comes_back_better(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """All of it, from its own width and on whole crops from the start; the file that it began with stays."""
    manifest(tmp_path)
    assert train_vae.main(flags(tmp_path, "first")) == 0
    first = tmp_path / "first" / "vae.safetensors"
    before, printed = first.read_bytes(), capsys.readouterr().out
    further = flags(tmp_path, "second", vae=first, width=16, steps=30)
    assert [train_vae.crops_at(train_vae.start(train_vae.parse(further)), 0).shape[2]] == [5]
    assert train_vae.main(further) == 0
    scores = [float(said.split(" dB")[0].split()[-1]) for said in (printed, capsys.readouterr().out)]
    assert scores[1] > scores[0] + 0.1
    one, two = (load_vae(tmp_path / name / "vae.safetensors") for name in ("first", "second"))
    moved = {
        name.split(".")[0]
        for name, weight in two.state_dict().items()
        if not torch.equal(weight, one.get_parameter(name))
    }
    assert moved == {"encoder", "quant_conv", "post_quant_conv", "decoder"}
    assert first.read_bytes() == before
    assert train_vae.main(flags(tmp_path, "second", vae=tmp_path / "second" / "vae.safetensors", steps=30)) == 2
    assert "vae" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        train_vae.main(flags(tmp_path, "third", vae=first, **{"decoder-of": first}))


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
