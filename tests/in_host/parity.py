"""The trainer's models beside the host's, with the same random weights, in one process.

python parity.py HOST PACK WORK prints {check: error or null}; WORK is an empty folder. No weight is zero. Run by
tests/test_training_model.py; exports.py builds on it.
"""

import sys
from functools import lru_cache
from pathlib import Path
from typing import Any

host, pack, work = (Path(argument) for argument in sys.argv[1:])
sys.argv = ["main.py", "--cpu"]
sys.path.insert(0, str(host))

import comfy.options  # noqa: E402

comfy.options.enable_args_parsing()

import comfy.latent_formats  # noqa: E402
import comfy.model_management  # noqa: E402
import comfy.sd  # noqa: E402
import torch  # noqa: E402
from running import load_module, load_pack, run_checks  # noqa: E402
from safetensors.torch import save_file  # noqa: E402

load_pack(pack)
sys.path.append(str(pack))
tiny_models = load_module("tiny_models", pack / "scripts" / "tiny_models.py")
import pack.nodes.forward_pass as forward_pass  # noqa: E402
import pack.nodes.model as model_nodes  # noqa: E402
from pack.viewpoint_core.training import flow_matching, wan, wan_vae  # noqa: E402

torch.set_num_threads(2)
DIM, BLOCKS = 256, 4
SIZES = ((1, 1, 8, 8), (2, 2, 8, 8), (1, 3, 12, 12))  # batch, frames, height, width of the latent
TIMESTEPS = (0.5, 17.3, 500.0, 987.3, 1000.0)


def random_weights(shapes: dict[str, tuple[int, ...]], seed: int) -> dict[str, torch.Tensor]:
    """Seeded weights, none of them zero or one throughout: the norms too are drawn."""
    weights = tiny_models.tiny_weights(shapes, seed)
    generator = torch.Generator().manual_seed(seed + 1)
    norms = [name for name, weight in weights.items() if bool((weight == 1).all())]
    drawn = {name: 1 + 0.2 * torch.randn(weights[name].shape, generator=generator) for name in norms}
    return weights | drawn


def write_transformer(name: str, in_dim: int, seed: int = 1) -> Path:
    """A tiny Wan2.1 in the original naming, fp32, in the host's folder of diffusion models."""
    path = work / "diffusion_models" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    weights = random_weights(tiny_models.dit_shapes(dim=DIM, blocks=BLOCKS, in_dim=in_dim), seed)
    save_file(weights, path, metadata={"format": "pt"})
    return path


def inputs(channels: int, size: tuple[int, ...], timestep: float) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Seeded input channels, timesteps (B,) and text (B, 512, 4096) whose tail is padding."""
    generator = torch.Generator().manual_seed(round(timestep) + sum(size))
    batch, *latent = size
    x = torch.randn((batch, channels, *latent), generator=generator)
    text = torch.zeros(batch, 512, 4096)
    text[:, :20] = torch.randn((batch, 20, 4096), generator=generator)
    return x, torch.full((batch,), timestep) - torch.arange(batch), text


def host_output(model: Any, x: torch.Tensor, timestep: torch.Tensor, text: torch.Tensor) -> torch.Tensor:
    """The host's diffusion model through the MODEL's patches and wrappers, as it is loaded now."""
    options = model.model_options["transformer_options"].copy()
    options["wrappers"] = {kind: dict(by_key) for kind, by_key in model.wrappers.items()}
    options[forward_pass.PASS] = forward_pass.ForwardPass((x.shape[2], x.shape[3] // 2, x.shape[4] // 2))
    with torch.no_grad():
        return model.model.diffusion_model(x, timestep, text, transformer_options=options)


def trainer_output(model: Any, x: torch.Tensor, timestep: torch.Tensor, text: torch.Tensor) -> torch.Tensor:
    """The trainer's model."""
    with torch.no_grad():
        return model(x, timestep, text, return_dict=False)[0]


def relative(ours: torch.Tensor, theirs: torch.Tensor) -> float:
    """Largest difference over the largest value."""
    assert ours.shape == theirs.shape, (ours.shape, theirs.shape)
    largest = float(theirs.detach().abs().max())
    assert largest > 0.1
    return float((ours - theirs).detach().abs().max()) / largest


def compare_outputs(schedule: str, in_dim: int, sizes: tuple[tuple[int, ...], ...] = SIZES) -> None:
    """Trainer and host agree to 1e-5 at every size and timestep."""
    path = write_transformer(f"stock{in_dim}.safetensors", in_dim)
    ours, theirs = wan.load_transformer(path), comfy.sd.load_diffusion_model(str(path))
    if schedule != "unpatched":
        wan.set_perspective(ours, schedule)
        theirs = model_nodes.patch_model(theirs, schedule)
    comfy.model_management.load_models_gpu([theirs])
    for size in sizes:
        for timestep in TIMESTEPS:
            arguments = inputs(in_dim, size, timestep)
            error = relative(trainer_output(ours, *arguments), host_output(theirs, *arguments))
            assert error <= 1e-5, (size, timestep, error)


def check_stock_16_channels() -> None:
    compare_outputs("unpatched", 16, (*SIZES, (1, 2, 6, 10)))


def check_stock_33_channels() -> None:
    compare_outputs("pano", 33)


def check_alternating_33_channels() -> None:
    compare_outputs("alternating", 33)


def check_all_perspective_33_channels() -> None:
    compare_outputs("perspective", 33)


def check_another_schedule_is_told_apart() -> None:
    path = write_transformer("stock33.safetensors", 33)
    ours, theirs = wan.load_transformer(path), comfy.sd.load_diffusion_model(str(path))
    wan.set_perspective(ours, "1,3")
    theirs = model_nodes.patch_model(theirs, "1,2")
    comfy.model_management.load_models_gpu([theirs])
    arguments = inputs(33, SIZES[1], 500.0)
    assert relative(trainer_output(ours, *arguments), host_output(theirs, *arguments)) > 1e-3


def check_named_blocks_33_channels() -> None:
    compare_outputs("0,2-3", 33, SIZES[:1])


@lru_cache(1)
def both_vaes() -> tuple[Any, Any]:
    """The trainer's VAE and the host's, from one file with random weights."""
    path = work / "vae" / "wan.safetensors"
    path.parent.mkdir(parents=True, exist_ok=True)
    weights = random_weights(tiny_models.vae_shapes(8), 5)
    weights["decoder.head.2.weight"] *= 3  # some pixels beyond [-1, 1], not all
    save_file(weights, path, metadata={"format": "pt"})
    theirs = comfy.sd.VAE(sd=comfy.utils.load_torch_file(str(path)))
    assert theirs.vae_dtype == torch.float32
    return wan_vae.load_vae(path), theirs


def check_vae_encodes_the_same_latent() -> None:
    ours, theirs = both_vaes()
    for frames, height, width in ((1, 32, 32), (5, 64, 48), (9, 32, 64)):
        video = torch.rand((frames, height, width, 3), generator=torch.Generator().manual_seed(frames))
        latent = comfy.latent_formats.Wan21().process_in(theirs.encode(video))
        encoded = wan_vae.encode_video(ours, 2 * video.permute(3, 0, 1, 2)[None] - 1)
        assert relative(encoded, latent) <= 1e-5, (frames, relative(encoded, latent))


def check_vae_decodes_the_same_video() -> None:
    ours, theirs = both_vaes()
    for frames, height, width in ((1, 4, 4), (2, 8, 6), (3, 4, 8)):
        latent = torch.randn((1, 16, frames, height, width), generator=torch.Generator().manual_seed(frames))
        video = theirs.decode(comfy.latent_formats.Wan21().process_out(latent))
        decoded = (wan_vae.decode_latent(ours, latent).permute(0, 2, 3, 4, 1) + 1) / 2
        assert 0 < float((decoded % 1 == 0).float().mean()) < 0.5  # diffusers clamps, and the host does on its way out
        assert relative(decoded, video) <= 1e-5, (frames, relative(decoded, video))


def check_conventions_of_noise_timestep_and_channels() -> None:
    path = write_transformer("stock33.safetensors", 33)
    ours, theirs = wan.load_transformer(path), comfy.sd.load_diffusion_model(str(path))
    wan.set_perspective(ours, "alternating")
    theirs = model_nodes.patch_model(theirs, "alternating")
    comfy.model_management.load_models_gpu([theirs])
    x, _, text = inputs(33, SIZES[1], 1.0)
    clean, known = x[:, :16], x[:, 16:]
    noise = torch.randn(clean.shape, generator=torch.Generator().manual_seed(9))
    for level in (0.03, 0.5, 0.9873):
        sigma = torch.full((2,), level)
        sampling = theirs.model.model_sampling
        noisy = flow_matching.add_noise(clean, noise, sigma)
        scaled = sampling.noise_scaling(sigma.reshape(-1, 1, 1, 1, 1), noise, clean)
        assert relative(noisy, scaled) <= 1e-6
        options = {**theirs.model_options["transformer_options"], "wrappers": theirs.wrappers}
        with torch.no_grad():
            velocity = wan.predict_velocity(ours, noisy, known, sigma, text)
            denoised = theirs.model.apply_model(
                noisy, sigma, c_concat=known, c_crossattn=text, transformer_options=options
            )
        assert relative(noisy - level * velocity, denoised) <= 1e-5, level
    assert torch.equal(flow_matching.velocity(clean, noise), noise - clean)


if __name__ == "__main__":
    run_checks(dict(globals()))
