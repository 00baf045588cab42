"""The cache that training reads: clips' latents and map pixels, captions' embeddings, and what they were made with.

cache.json               the fingerprint
clips.jsonl              every clip that belongs to the cache
clips/KEY.safetensors    "latent" float32 (C, t, h, w) in the model's scale; written last, so it means: done; with it,
                         if asked for, "known F" and so on: that of the map where only this face's view is known
clips/KEY.mkv            the map's pixels, lossless (the known view is drawn from them at every step)
clips/KEY.problem        why there is no such clip
texts/KEY.safetensors    "embedding" (n, d), n <= 512, without padding
"""

import hashlib
import json
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from safetensors.torch import save
from torch import Tensor
from torch.utils.data import Dataset

from ...choices import check_choice
from ...conditioning import SPATIAL_COMPRESSION, latent_frames
from ...replacing import replace_bytes, replace_text
from ...safetensors_file import StoredTensor, read_header
from ..layouts import VIEWPOINT, picture_size
from ..wan import pad_text
from ..weights import read_tensor
from .clips import ClipSpec
from .fingerprint import Fingerprint, read_fingerprint
from .manifest import SPLITS
from .map_video import map_from_bytes, map_to_bytes
from .media import frame_files

PLAN = "clips.jsonl"
CLIPS, TEXTS = "clips", "texts"
MADE_FROM = "viewpoint.made_from"
AGAIN = "run python -m viewpoint_core.encode again"
BLOCK = 1 << 20
PLANNED = re.compile(rb'"key": "([^"]+)"')  # also in a list that is damaged


def make_folders(folder: Path) -> None:
    """The folders of a cache's files."""
    for name in (CLIPS, TEXTS):
        (folder / name).mkdir(parents=True, exist_ok=True)


def write_plan(folder: Path, specs: Iterable[ClipSpec], map_size: int, layout: str = VIEWPOINT) -> int:
    """List the clips that belong to the cache; the same for all processes, which all write it. How many of those that
    were listed before are not any more."""
    height, width = (side // SPATIAL_COMPRESSION for side in picture_size(layout, map_size))
    rows = [
        {
            "key": spec.key,
            "source": spec.source,
            "caption": spec.item.caption,
            "text": text_key(spec.item.caption),
            "split": spec.item.split,
            "shape": (latent_frames(spec.length), height, width),
        }
        for spec in specs
    ]
    text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    file = folder / PLAN
    before = file.read_bytes() if file.is_file() else b""
    if before == text.encode():
        return 0
    replace_text(file, text)
    return len(set(PLANNED.findall(before)) - {row["key"].encode() for row in rows})


# Clips


def source_files(spec: ClipSpec) -> list[Path]:
    """The files that a clip is made of: an image, a video, or some frames of a folder."""
    if not spec.item.path.is_dir():
        return [spec.item.path]
    files = frame_files(spec.item.path)
    return [files[index] for index in sorted(set(spec.indices)) if index < len(files)]


def source_state(spec: ClipSpec) -> list[list[Any]]:
    """Name, size and time of change of the files that a clip is made of."""
    stats = [(file.name, file.stat()) for file in source_files(spec)]
    return [[name, stat.st_size, stat.st_mtime_ns] for name, stat in stats]


@lru_cache(4096)
def hash_file(file: Path, size: int, changed_ns: int) -> str:
    """A hash of a file's content, read once a process for every state of the file."""
    digest = hashlib.sha256()
    with file.open("rb") as stream:
        while block := stream.read(BLOCK):
            digest.update(block)
    return digest.hexdigest()


def source_hashes(spec: ClipSpec) -> list[str]:
    """Hashes of the content of the files that a clip is made of."""
    stats = [(file, file.stat()) for file in source_files(spec)]
    return [hash_file(file, stat.st_size, stat.st_mtime_ns) for file, stat in stats]


def clip_settings(spec: ClipSpec, fingerprint: Fingerprint) -> dict[str, Any]:
    """All that decides what a clip's files hold, but for the source's content."""
    own = {name: getattr(spec, name) for name in ("source", "first", "length", "fps", "yaw", "mirror")}
    item = {name: getattr(spec.item, name) for name in ("start", "frames", "fps", "width", "height")}
    return made_with(fingerprint) | own | {"item": item}


def made_with(fingerprint: Fingerprint) -> dict[str, Any]:
    """The part of a cache's fingerprint that every clip's file repeats."""
    known = {"known": fingerprint.known} if fingerprint.known else {}
    return {name: getattr(fingerprint, name) for name in ("vae", "projection", "map_size", "dtype")} | known


def known_name(face: str) -> str:
    """The name of a face's known latent in a clip's file."""
    return f"known {face}"


def clip_file(folder: Path, key: str, suffix: str) -> Path:
    """A clip's file: "safetensors", "mkv" or "problem"."""
    return folder / CLIPS / f"{key}.{suffix}"


def read_stored(file: Path) -> tuple[dict[str, StoredTensor], dict[str, Any]]:
    """The tensors of a cached file and what it was made from. Raises ValueError for one that is damaged,
    FileNotFoundError for none."""
    stored, metadata = read_header(file)
    try:
        return stored, json.loads(metadata[MADE_FROM])
    except (KeyError, ValueError) as error:
        raise ValueError(f"{file} does not say what it was made from") from error


def read_made_from(file: Path) -> dict[str, Any]:
    """What a cached file was made from. Raises as `read_stored`."""
    return read_stored(file)[1]


def is_left_out(folder: Path, key: str) -> bool:
    """Whether somebody left a clip out of training by an empty problem file; those of `write_problem` are not empty."""
    file = clip_file(folder, key, "problem")
    return file.is_file() and not file.stat().st_size


def is_finished(folder: Path, spec: ClipSpec, fingerprint: Fingerprint) -> bool:
    """Whether a clip's files are there, whole, and made with the same settings of the same source.

    A source whose time of change is another is compared by its content.
    """
    if clip_file(folder, spec.key, "problem").exists():
        return False
    try:
        made_from = read_made_from(clip_file(folder, spec.key, "safetensors"))
        whole = clip_file(folder, spec.key, "mkv").stat().st_size == made_from["map_bytes"]
        if not whole or made_from["settings"] != clip_settings(spec, fingerprint):
            return False
        return made_from["source_state"] == source_state(spec) or made_from["source_sha256"] == source_hashes(spec)
    except (ValueError, FileNotFoundError, KeyError):
        return False


@dataclass(frozen=True)
class MapFile:
    """A clip's map pixels, ready to be written, and what they were made from."""

    pixels: Tensor
    data: bytes
    made_from: dict[str, Any]


def pack_map(spec: ClipSpec, pixels: Tensor, fingerprint: Fingerprint) -> MapFile:
    """Map pixels uint8 (3, T, S, S) as a file's bytes, with what they were made from."""
    data = map_to_bytes(pixels)
    made_from = {
        "settings": clip_settings(spec, fingerprint),
        "source_state": source_state(spec),
        "source_sha256": source_hashes(spec),
        "map_bytes": len(data),
        "map_sha256": hashlib.sha256(data).hexdigest(),
    }
    return MapFile(pixels, data, made_from)


def tensor_file(tensors: Mapping[str, Tensor], made_from: dict[str, Any]) -> bytes:
    """A safetensors file's bytes. One key of metadata: safetensors writes several in no fixed order."""
    whole = {name: tensor.contiguous() for name, tensor in tensors.items()}
    return save(whole, {MADE_FROM: json.dumps(made_from, ensure_ascii=False)})


def write_clip(folder: Path, key: str, packed: MapFile, latents: Mapping[str, Tensor]) -> None:
    """Write a clip's files, the latents (C, t, h, w) by name last. What an earlier source left goes first."""
    latent_file = clip_file(folder, key, "safetensors")
    latent_file.unlink(missing_ok=True)
    replace_bytes(clip_file(folder, key, "mkv"), packed.data, same_name=True)
    tensors = {name: latent.float().cpu() for name, latent in latents.items()}
    replace_bytes(latent_file, tensor_file(tensors, packed.made_from), same_name=True)
    clip_file(folder, key, "problem").unlink(missing_ok=True)


def write_problem(folder: Path, key: str, reason: str) -> None:
    """Note why a clip cannot be made; training leaves it out, whatever else there is."""
    replace_text(clip_file(folder, key, "problem"), reason + "\n")


# Texts


def text_key(caption: str) -> str:
    """A caption's name in a cache."""
    return hashlib.sha256(caption.encode()).hexdigest()[:24]


def text_file(folder: Path, key: str) -> Path:
    """A caption's embedding."""
    return folder / TEXTS / f"{key}.safetensors"


def is_text_finished(folder: Path, caption: str, text_encoder: str) -> bool:
    """Whether a caption's embedding is there, whole, and made by this text encoder."""
    try:
        return read_made_from(text_file(folder, text_key(caption)))["settings"]["text_encoder"] == text_encoder
    except (ValueError, FileNotFoundError, KeyError):
        return False


def write_text(folder: Path, caption: str, embedding: Tensor, text_encoder: str) -> None:
    """Write a caption's embedding (n, d)."""
    made_from = {"settings": {"text_encoder": text_encoder}, "caption": caption}
    data = tensor_file({"embedding": embedding}, made_from)
    replace_bytes(text_file(folder, text_key(caption)), data, same_name=True)


# Reading


def read_cached(file: Path, names: Sequence[str], expected: dict[str, Any]) -> tuple[list[Tensor], dict[str, Any]]:
    """Tensors of a cached file and what it was made from. Raises ValueError for a file that is missing, damaged, or
    made with others."""
    try:
        stored, made_from = read_stored(file)
        settings = made_from["settings"]
        tensors = [read_tensor(stored[name]) for name in names]
    except (FileNotFoundError, KeyError, ValueError) as error:
        raise ValueError(f"{file} is damaged or missing; {AGAIN}") from error
    there = {key: settings.get(key) for key in expected}
    if there != expected:
        raise ValueError(f"{file} was made with {there}, the cache with {expected}; {AGAIN}")
    return tensors, made_from


def read_map(file: Path, made_from: dict[str, Any]) -> Tensor:
    """A clip's map pixels, uint8 (3, T, S, S). Raises ValueError for a file that is missing, damaged, or not what the
    clip's tensors were made from."""
    data = file.read_bytes() if file.is_file() else b""
    if hashlib.sha256(data).hexdigest() != made_from["map_sha256"]:
        raise ValueError(f"{file} is damaged or missing; remove it and {AGAIN}")
    return map_from_bytes(data)


def read_plan(folder: Path) -> list[dict[str, Any]]:
    """The rows of `write_plan`. Raises ValueError where it was not come to."""
    if not (folder / PLAN).is_file():
        raise ValueError(f"{folder} is not finished: it holds no {PLAN}; {AGAIN}")
    with (folder / PLAN).open(encoding="utf-8") as stream:
        try:
            return [json.loads(line) for line in stream]
        except ValueError as error:
            raise ValueError(f"{folder / PLAN} is damaged ({error}); {AGAIN}") from error


def check_complete(folder: Path, rows: Sequence[dict[str, Any]]) -> set[str]:
    """The keys of the clips that could not be made. Raises ValueError for a cache that is not finished."""
    places = (folder / CLIPS, folder / TEXTS)
    clips, texts = ({entry.name for entry in os.scandir(place)} if place.is_dir() else set() for place in places)
    broken = {row["key"] for row in rows if f"{row['key']}.problem" in clips}
    missing = [row["key"] for row in rows if f"{row['key']}.safetensors" not in clips and row["key"] not in broken]
    keys = {text_key(""), *(row["text"] for row in rows)}
    untold = [key for key in keys if f"{key}.safetensors" not in texts]
    if missing or untold:
        raise ValueError(
            f"{folder} is not finished: {len(missing)} of {len(rows)} clips and {len(untold)} of {len(keys)} texts are "
            f"missing; {AGAIN}, with --text-encoder for the texts"
        )
    return broken


@lru_cache(4)  # a cache without texts has one for all clips
def read_text(file: Path, text_encoder: str) -> Tensor:
    """A cached caption's embedding, float32 (512, d), zero rows behind it."""
    return pad_text([read_cached(file, ["embedding"], {"text_encoder": text_encoder})[0][0].float()])[0]


def has_known(fingerprint: Fingerprint, faces: str) -> bool:
    """Whether a cache holds the known views of these faces."""
    return set(faces) <= set(fingerprint.known)


class CachedClips(Dataset):
    """The finished clips of one split ("train" or "heldout") of a cache.

    known: faces; a clip then comes with the latents of their known views in place of its map. broken: keys of clips, of
    any split, that could not be made. Raises ValueError for a folder that is no cache, for a cache that is not
    finished, and for one without these faces' views.
    """

    def __init__(self, folder: Path, split: str = "train", *, known: str = "") -> None:
        check_choice(split, SPLITS, "split")
        self.folder = folder
        self.fingerprint = read_fingerprint(folder)
        if not has_known(self.fingerprint, known):
            there = self.fingerprint.known or "none"
            raise ValueError(f"{folder} holds the known views of {there}; expected those of {known}")
        self.known = known
        rows = read_plan(folder)
        self.broken = check_complete(folder, rows)
        self.rows = [row for row in rows if row["split"] == split and row["key"] not in self.broken]

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> dict[str, Any]:
        """latent float32 (C, t, h, w), map uint8 (3, T, S, S) or known {face: latent}, map_size S, text float32
        (512, d) that is not to be changed in place, caption, key."""
        row = self.rows[index]
        names = ["latent", *map(known_name, self.known)]
        file = clip_file(self.folder, row["key"], "safetensors")
        (latent, *known), made_from = read_cached(file, names, made_with(self.fingerprint))
        if list(latent.shape[1:]) != row["shape"]:
            raise ValueError(f"{row['key']}: the latent is {tuple(latent.shape)}; expected (C, *{row['shape']})")
        shown = {"known": dict(zip(self.known, known, strict=True))} if self.known else {}
        return {
            "latent": latent,
            **(shown or {"map": read_map(clip_file(self.folder, row["key"], "mkv"), made_from)}),
            "map_size": self.fingerprint.map_size,
            "text": self.text(row["text"]),
            "caption": row["caption"],
            "key": row["key"],
        }

    def text(self, key: str) -> Tensor:
        """A caption's embedding, float32 (512, d), zero rows behind it."""
        return read_text(text_file(self.folder, key), self.fingerprint.text_encoder)

    def empty_text(self) -> Tensor:
        """The embedding of the empty caption, float32 (512, d), for caption dropout."""
        return self.text(text_key(""))

    def buckets(self) -> dict[tuple[int, int, int], list[int]]:
        """Indices of the clips of each latent shape (t, h, w)."""
        found: dict[tuple[int, int, int], list[int]] = {}
        for index, row in enumerate(self.rows):
            found.setdefault(tuple(row["shape"]), []).append(index)
        return found
