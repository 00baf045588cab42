"""A VAE that is there, trained further: the whole, or its decoder alone."""

import signal
from pathlib import Path

import pytest
import torch

from tests.vae_runs import flags, manifest, moved_parts, stop_at_two
from viewpoint_core import train_vae
from viewpoint_core.training.new_vae import new_vae
from viewpoint_core.training.vae_training import write_vae
from viewpoint_core.training.wan_vae import encode_video, load_vae


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


def test_a_vae_that_is_there_gets_another_decoder_and_keeps_its_latents(tmp_path: Path) -> None:
    manifest(tmp_path)
    assert train_vae.main(flags(tmp_path, "first")) == 0
    first = tmp_path / "first" / "vae.safetensors"
    assert train_vae.main(flags(tmp_path, "second", **{"decoder-of": first, "width": 16, "lr": 0.003})) == 0
    one, two = (load_vae(tmp_path / name / "vae.safetensors") for name in ("first", "second"))
    video = torch.rand(1, 3, 5, 64, 64, generator=torch.Generator().manual_seed(0)) * 2 - 1
    assert torch.equal(encode_video(one, video), encode_video(two, video))
    assert moved_parts(one, two) == {"decoder", "post_quant_conv"}


def test_a_vae_that_is_there_is_trained_as_a_whole_and_comes_back_better(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """All of it, from its own width and on whole crops from the start; the file that it began with stays.

    At a third of a new one's learning rate: the whole of it makes what is trained worse before it is better.
    """
    manifest(tmp_path)
    assert train_vae.main(flags(tmp_path, "first")) == 0
    first = tmp_path / "first" / "vae.safetensors"
    before, printed = first.read_bytes(), capsys.readouterr().out
    further = flags(tmp_path, "second", vae=first, width=16, steps=30, lr=0.001)
    assert [train_vae.crops_at(train_vae.start(train_vae.parse(further)), 0).shape[2]] == [5]
    assert train_vae.main(further) == 0
    scores = [float(said.split(" dB")[0].split()[-1]) for said in (printed, capsys.readouterr().out)]
    assert scores[1] > scores[0] + 1
    one, two = (load_vae(tmp_path / name / "vae.safetensors") for name in ("first", "second"))
    assert moved_parts(one, two) == {"encoder", "quant_conv", "post_quant_conv", "decoder"}
    assert first.read_bytes() == before


@pytest.mark.parametrize("begun", ["width", "vae", "decoder-of"])
def test_a_folder_that_was_begun_from_another_start_is_refused(
    begun: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A new VAE, one that is there, another one, and a decoder alone do not go on from each other's checkpoints."""
    manifest(tmp_path)
    for number, name in enumerate(("one", "other")):
        write_vae(new_vae(8, number), tmp_path / f"{name}.safetensors")
    starts = [
        {"width": 8},
        *({kind: tmp_path / f"{name}.safetensors"} for kind in ("vae", "decoder-of") for name in ("one", "other")),
    ]
    first = next(start for start in starts if begun in start)
    assert train_vae.main(flags(tmp_path, "out", steps=1, **{"still-steps": 0, "code-steps": 0}, **first)) == 0
    before = (tmp_path / "out" / train_vae.FILE).read_bytes()
    for other in starts:
        capsys.readouterr()
        wanted = 0 if other == first else 2
        assert train_vae.main(flags(tmp_path, "out", steps=1, **other)) == wanted
        said = capsys.readouterr().err
        assert ("was trained with" in said and "choose another output folder" in said) == (other != first)
    assert (tmp_path / "out" / train_vae.FILE).read_bytes() == before


@pytest.mark.parametrize("option", ["vae", "decoder-of"])
def test_a_start_that_is_not_there_is_named(option: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    manifest(tmp_path)
    assert train_vae.main(flags(tmp_path, "out", **{option: tmp_path / "none.safetensors"})) == 2
    assert "none.safetensors" in capsys.readouterr().err


def test_one_start_at_a_time(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        train_vae.main(flags(tmp_path, "out", **{"vae": "a.safetensors", "decoder-of": "b.safetensors"}))
    assert ended.value.code == 2
    assert "--decoder-of: not allowed with argument --vae" in capsys.readouterr().err
