"""What a cache was made with: hashes of the models and the settings, kept with it and compared by whoever uses it."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

from ...replacing import replace_text
from ...safetensors_file import StoredTensor, stored_chunks
from ..wan_vae import read_vae

FILE = "cache.json"
BLOCK, BEGINNING = 1 << 20, 1 << 14


@dataclass(frozen=True)
class Fingerprint:
    """What all of a cache was made with. vae, text_encoder: hashes of the weights; text_encoder is "" without texts.

    known: the faces whose views are encoded beside the clips.
    """

    vae: str
    text_encoder: str
    projection: str
    map_size: int
    length: int
    fps: float
    dtype: str
    seed: int
    known: str = ""


def hash_tensors(stored: Mapping[str, StoredTensor]) -> str:
    """A hash of tensors' names, types, shapes and bytes, whatever files they are spread over."""
    digest = hashlib.sha256()
    for name in sorted(stored):
        tensor = stored[name]
        digest.update(f"{name} {tensor.dtype} {tensor.shape}\n".encode())
        for chunk in stored_chunks(tensor, BLOCK):
            digest.update(chunk)
    return digest.hexdigest()


def hash_beginnings(stored: Mapping[str, StoredTensor]) -> str:
    """A hash of tensors' names, types, shapes and first bytes, for models too large to be read whole at each start."""
    digest = hashlib.sha256()
    for name in sorted(stored):
        tensor = stored[name]
        digest.update(f"{name} {tensor.dtype} {tensor.shape}\n".encode())
        digest.update(next(stored_chunks(tensor, BEGINNING), b""))
    return digest.hexdigest()


def vae_fingerprint(source: Path) -> str:
    """A hash of a VAE's weights, the same for a diffusers folder and a single file. Raises ValueError for no VAE."""
    return hash_tensors(read_vae(source)[1])


def read_fingerprint(folder: Path) -> Fingerprint:
    """A cache's fingerprint. Raises ValueError for a folder that is no cache."""
    file = folder / FILE
    if not file.is_file():
        raise ValueError(f"{folder} is not a cache (no {FILE}); python -m viewpoint_core.encode makes one")
    try:
        return Fingerprint(**json.loads(file.read_text(encoding="utf-8")))
    except (ValueError, TypeError) as error:
        names = ", ".join(field.name for field in fields(Fingerprint))
        raise ValueError(f"{file} is damaged: expected JSON with {names} ({error})") from error


def check_fingerprint(folder: Path, **asked: Any) -> Fingerprint:
    """A cache's fingerprint. Raises ValueError, with both fingerprints, where it differs from what is asked for.

    asked: any of a fingerprint's fields, as in check_fingerprint(folder, vae=vae_fingerprint(path), map_size=736).
    """
    stored = read_fingerprint(folder)
    there = {name: getattr(stored, name) for name in asked}
    other = [name for name in asked if asked[name] != there[name]]
    if other:
        raise ValueError(
            f"{folder} was made with another {' and '.join(other)}; use what made it, or another folder\n"
            f"  the cache: {json.dumps(there)}\n  asked for: {json.dumps(asked)}"
        )
    return stored


def claim_cache(folder: Path, asked: Fingerprint) -> Fingerprint:
    """Give a folder this fingerprint, or check that the cache that is there has it; returns the cache's fingerprint.

    A cache without texts takes a text encoder later on. Raises ValueError with both fingerprints.
    """
    if (folder / FILE).is_file():
        stored = read_fingerprint(folder)
        asked = replace(asked, text_encoder=asked.text_encoder or stored.text_encoder)
        wanted = asdict(asked)
        check_fingerprint(folder, **(wanted if stored.text_encoder else wanted | {"text_encoder": ""}))
        if asked == stored:
            return stored
    folder.mkdir(parents=True, exist_ok=True)
    replace_text(folder / FILE, json.dumps(asdict(asked), indent=1) + "\n")
    return asked
