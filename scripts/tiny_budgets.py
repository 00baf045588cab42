"""How much scripts/train_tiny.py makes, and how long it trains: on a CPU, and on a GPU within about half an hour."""

import math
from dataclasses import dataclass, replace
from typing import Any


@dataclass(frozen=True)
class Budget:
    """How much is made, and how long is trained."""

    videos: range = range(440)  # with the turned panoramas, what the VAE is trained on
    more: range = range(0)  # what a CPU renders while a GPU trains the VAE
    long: range = range(5_000, 5_040)  # as long as what the workflows make
    stills: range = range(10_000, 10_400)
    turns: int = 6
    vae_width: int = 16
    vae_optimizer: str = "adamw"
    vae_batch: int = 8
    vae_steps: int = 5000
    vae_still_steps: int = 700
    vae_code_steps: int = 1300
    vae_decoder_steps: int = 2600
    heads: int = 3
    layers: int = 8
    ffn: int = 1024
    batch: int = 4
    processes: int = 2
    encoders: int = 1
    loaders: int = 1
    lr: float = 2e-3
    variants: int = 5
    steps: int = 6000
    ablation_heads: int = 2
    ablation_layers: int = 6
    ablation_steps: int = 240
    compared: range = range(160)
    workers: int = 2
    device: str = "cpu"
    further: bool = False  # from the files that ship, not from nothing


BUDGETS = {
    "cpu": Budget(),
    "gpu": Budget(
        range(300),
        range(300, 600),
        range(5_000, 5_100),
        range(10_000, 11_500),
        turns=12,
        vae_optimizer="muon",
        vae_batch=48,
        vae_steps=5000,
        vae_still_steps=800,
        vae_code_steps=1300,
        vae_decoder_steps=1500,
        batch=32,
        processes=1,
        encoders=10,
        loaders=11,
        variants=4,
        steps=15_000,
        ablation_heads=3,
        ablation_layers=8,
        ablation_steps=2000,
        compared=range(600),
        workers=12,
        device="cuda",
    ),
}
COUNTED = ("vae_steps", "steps", "turns", "ablation_steps")
PHASES = ("vae_still_steps", "vae_code_steps", "vae_decoder_steps")
RENDERED = ("videos", "more", "long", "stills", "compared")


def share_of(budget: Budget, share: float) -> Budget:
    """A part of a budget, in (0, 1]: fewer steps, fewer clips of the same seeds, the same models and batches."""
    if not 0 < share <= 1:
        raise ValueError(f"share {share} of a budget; expected more than 0 and at most 1")
    parts: dict[str, Any] = {name: math.ceil(share * getattr(budget, name)) for name in COUNTED}
    parts |= {name: math.floor(share * getattr(budget, name)) for name in PHASES}
    parts |= {name: getattr(budget, name)[: math.ceil(share * len(getattr(budget, name)))] for name in RENDERED}
    return replace(budget, **parts)
