"""Encode a manifest's panoramas and captions for training: python -m viewpoint_core.encode."""

import argparse
import os
import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import torch
from diffusers import AutoencoderKLWan
from tqdm import tqdm

from .checkpoint import TEXT_DIM
from .conditioning import check_finite, check_length
from .cubemap import FACE_YAW_PITCH
from .map_layout import check_map_size
from .training.data.cache import (
    MapFile,
    is_finished,
    is_left_out,
    is_text_finished,
    known_name,
    make_folders,
    pack_map,
    write_clip,
    write_plan,
    write_problem,
    write_text,
)
from .training.data.clips import ClipSpec, Sampling, item_name, load_map, map_to_video, plan_clips, projection_of
from .training.data.fingerprint import Fingerprint, claim_cache, vae_fingerprint
from .training.data.manifest import Problem, read_manifest
from .training.known_view import View, known_video, view_mask
from .training.layouts import LAYOUTS, VIEWPOINT
from .training.stopping import Stop, stopped_by_signals
from .training.text import TEXT_TOKENS, encode_text, load_text_encoder, text_fingerprint
from .training.wan_vae import encode_video, load_vae

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
NO_TEXT = "none"
OUT_OF_MEMORY = (
    "the device's memory is full; what is finished stays. Free it of other programs, or take --dtype bfloat16 (with "
    "--text-encoder also --text-dtype bfloat16), --workers 1, or a smaller --map-size or --length, which with --dtype "
    "make another cache"
)
EPILOG = """\
Every video gives as many clips as fit into it, each in several variants (random yaw, mirror and shift in time; the
first variant is the panorama as it is); every image gives one picture in as many variants. Held-out items are encoded
as they are. A clip at 736 and 49 frames takes 25 to 40 MB on disk.

A small model that has long seen clips of one length alone makes no other; --length 49 9 cuts each video into both.

Run it again to go on after a stop, to add items, variants or further lengths, or to try broken items once more: what
is finished is not repeated. Several processes share the work with --shard 0/4 ... 3/4, or started by torchrun or
accelerate launch.

Exit status: 0 if all is encoded, 1 if some items are broken or too short (reported by name, the others are encoded),
2 for bad options, a cache that was made with other settings, a full disk or full memory; 130 when stopped. Ctrl-C and
SIGTERM stop it after the clip at hand, another one, three seconds later or more, at once.
Under torchrun or accelerate launch, 0 for broken and short items too: a launcher ends all its processes where one gives
another status.
"""


def parse_shard(text: str) -> tuple[int, int]:
    """ "i/n" as (i, n), 0 <= i < n. Raises ValueError."""
    index, _, count = text.partition("/")
    if not (index.isdecimal() and count.isdecimal() and int(index) < int(count)):
        raise ValueError(f"the shard is {text!r}; expected i/n with 0 <= i < n, such as 0/4")
    return int(index), int(count)


def default_shard() -> str:
    """This process's share as its launcher says: RANK of WORLD_SIZE, or all."""
    return f"{os.environ.get('RANK', 0)}/{os.environ.get('WORLD_SIZE', 1)}"


def default_device() -> str:
    """A GPU of this process's own where there is one."""
    return f"cuda:{os.environ.get('LOCAL_RANK', 0)}" if torch.cuda.is_available() else "cpu"


def bar(total: int, what: str, unit: str, shard: tuple[int, int]) -> tqdm:
    """A progress bar; the processes of one launcher stand one below the other."""
    share = f" {shard[0]}/{shard[1]}" if shard[1] > 1 else ""
    return tqdm(total=total, desc=f"{what}{share}", unit=unit, position=int(os.environ.get("LOCAL_RANK", 0)))


def encode_texts(options: argparse.Namespace, captions: Iterable[str], fingerprint: Fingerprint, stop: Stop) -> None:
    """Encode this process's share of the captions, and the empty one that caption dropout needs."""
    index, count = options.shard
    own = sorted({"", *captions})[index::count]
    todo = [text for text in own if not is_text_finished(options.cache, text, fingerprint.text_encoder)]
    if not todo:
        return
    encoder = load_text_encoder(options.text_encoder, DTYPES[options.text_dtype], options.device)
    with bar(len(todo), "texts", "text", options.shard) as progress:
        for caption in todo:
            stop.check()
            embedding, tokens = encode_text(encoder, caption)
            if tokens > TEXT_TOKENS:
                progress.write(
                    f"encode: a caption has {tokens} tokens, of which the first {TEXT_TOKENS} count: {caption[:60]}...",
                    file=sys.stderr,
                )
            write_text(options.cache, caption, embedding, fingerprint.text_encoder)
            progress.update()


def ahead(
    pool: ThreadPoolExecutor, work: Callable[[ClipSpec], MapFile], specs: Iterable[ClipSpec], count: int
) -> Iterator[tuple[ClipSpec, Future[MapFile]]]:
    """Clips with their work, in order, at most `count` begun ahead of the one that is asked for."""
    begun: deque[tuple[ClipSpec, Future[MapFile]]] = deque()
    for spec in specs:
        begun.append((spec, pool.submit(work, spec)))
        if len(begun) > count:
            yield begun.popleft()
    yield from begun


def unfinished(
    options: argparse.Namespace, specs: Sequence[ClipSpec], fingerprint: Fingerprint, stop: Stop
) -> list[ClipSpec]:
    """The clips of this process's share that are still to be made."""
    index, count = options.shard
    with bar(len(specs[index::count]), "check", "clip", options.shard) as progress:
        todo = []
        for spec in specs[index::count]:
            stop.check()
            if not (is_left_out(options.cache, spec.key) or is_finished(options.cache, spec, fingerprint)):
                todo.append(spec)
            progress.update()
    return todo


def encode_clip(vae: AutoencoderKLWan, packed: MapFile, masks: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The latent (C, t, h, w) of a clip's map, and that of each face's known view, by their names in the cache: one
    video at a time, for the memory it takes.

    masks: of these faces' views. Raises ValueError where a latent is not finite.
    """
    video = map_to_video(packed.pixels.to(vae.device))[None]
    latents = {"latent": encode_video(vae, video)[0]}
    for face, mask in masks.items():
        latents[known_name(face)] = encode_video(vae, known_video(video, mask[None]))[0]
    for latent in latents.values():
        check_finite(latent, "latent")
    return latents


def encode_clips(
    options: argparse.Namespace, specs: Sequence[ClipSpec], fingerprint: Fingerprint, stop: Stop
) -> list[Problem]:
    """Encode what is unfinished of this process's share, maps drawn ahead by threads; returns what is broken."""
    todo = unfinished(options, specs, fingerprint, stop)
    if not todo:
        return []
    vae = load_vae(options.vae, dtype=DTYPES[options.dtype]).to(options.device)

    views = {face: View(*FACE_YAW_PITCH[face]) for face in options.known}
    masks = {face: view_mask(view, options.map_size, options.layout).to(vae.device) for face, view in views.items()}

    def draw(spec: ClipSpec) -> MapFile:
        return pack_map(spec, load_map(spec, options.map_size, options.device, options.layout), fingerprint)

    problems: dict[str, Problem] = {}
    pool = ThreadPoolExecutor(options.workers)
    try:
        with bar(len(todo), "clips", "clip", options.shard) as progress:
            for spec, drawn in ahead(pool, draw, todo, options.workers):
                stop.check()
                try:
                    packed = drawn.result()
                    latents = encode_clip(vae, packed, masks)
                except (ValueError, OSError) as error:
                    problem = Problem(item_name(spec.item), str(error).removeprefix(f"{spec.item.path}: "))
                    problems[spec.key] = problem
                    write_problem(options.cache, spec.key, problem.reason)
                    progress.write(f"encode: {problem.name}: {problem.reason}", file=sys.stderr)
                else:
                    write_clip(options.cache, spec.key, packed, latents)
                progress.set_postfix(broken=len(problems), refresh=False)
                progress.update()
    finally:
        pool.shutdown(cancel_futures=True)
    return list(problems.values())


def parse_arguments(arguments: list[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m viewpoint_core.encode",
        description=__doc__,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--manifest", type=Path, required=True, metavar="FILE", help="what python -m viewpoint_core.prepare wrote")
    add("--cache", type=Path, required=True, metavar="DIR", help="folder to write")
    add("--vae", type=Path, required=True, metavar="PATH", help="Wan2.1 VAE: a diffusers folder or a single file")
    add("--text-encoder", type=Path, metavar="DIR", help="UMT5 and its tokenizer; without it only clips are encoded")
    add("--no-text", action="store_true", help="every caption counts as empty and its embedding as zero: no encoder")
    add(
        "--layout",
        choices=LAYOUTS,
        default=VIEWPOINT,
        help="picture of the panorama; erp, cubemap: to compare",
    )
    add(
        "--known",
        default="",
        metavar="FACES",
        help="encode the known views of these faces too, of FRBLUD; training with views: paper then needs no VAE in "
        "its steps, and reads no map",
    )
    add("--map-size", type=int, default=736, help="side of the ViewPoint map in pixels, a multiple of 32 [736]")
    add(
        "--length",
        type=int,
        nargs="+",
        default=[49],
        metavar="FRAMES",
        help="frames of a clip, 4k + 1; an image has one. Several: a video is cut into clips of each length [49]",
    )
    add("--fps", type=float, default=16.0, help="frames a second [16]")
    add("--variants", type=int, default=2, help="variants of each clip and image that is not held out [2]")
    add(
        "--clips",
        type=int,
        default=0,
        help="at most so many clips of an item and length, spread over it; 0: all that fit [0]",
    )
    add("--no-mirror", dest="mirror", action="store_false", help="only turn, for captions that say left or right")
    add("--seed", type=int, default=0, help="of the variants [0]")
    add("--shard", metavar="I/N", help="this process's share [RANK/WORLD_SIZE, or 0/1]")
    add("--workers", type=int, default=2, help="clips drawn at the same time [2]")
    add("--device", default=default_device(), help="where it runs [%(default)s]")
    add("--dtype", choices=DTYPES, default="float32", help="in which the VAE computes [float32]")
    add("--text-dtype", choices=DTYPES, default="bfloat16", help="in which the text encoder computes [bfloat16]")
    return parser.parse_args(arguments)


def check_options(options: argparse.Namespace) -> None:
    """Raise ValueError for options that cannot be, before anything is read."""
    check_map_size(options.map_size)
    for length in options.length:
        check_length(length)
    if len(set(options.length)) < len(options.length):
        raise ValueError(f"--length is {' '.join(map(str, options.length))}; expected each length once")
    if options.no_text and options.text_encoder:
        raise ValueError("--no-text and --text-encoder exclude each other")
    if set(options.known) - set(FACE_YAW_PITCH) or len(set(options.known)) < len(options.known):
        raise ValueError(f"--known is {options.known!r}; expected some of {''.join(FACE_YAW_PITCH)}, each once")
    if not 0 < options.fps < 1000:
        raise ValueError(f"--fps is {options.fps:g}; expected above 0 and below 1000")
    for name, least in (("variants", 1), ("workers", 1), ("clips", 0)):
        if getattr(options, name) < least:
            raise ValueError(f"--{name} is {getattr(options, name)}; expected {least} or more")


def fingerprint_of(options: argparse.Namespace) -> Fingerprint:
    """What a cache of these options is made with."""
    text_encoder = text_fingerprint(options.text_encoder, options.text_dtype) if options.text_encoder else ""
    text_encoder = NO_TEXT if options.no_text else text_encoder
    return Fingerprint(
        vae=vae_fingerprint(options.vae),
        text_encoder=text_encoder,
        projection=projection_of(options.layout),
        map_size=options.map_size,
        length=options.length[0],
        fps=options.fps,
        dtype=options.dtype,
        seed=options.seed,
        known="".join(sorted(options.known)),
    )


def warn_of_missing_captions(specs: Sequence[ClipSpec], manifest: Path) -> None:
    """Say on stderr how many clips have no caption, where there are any."""
    bare = sum(not spec.item.caption.strip() for spec in specs)
    if bare:
        print(
            f"encode: {bare} of {len(specs)} clips have no caption and will train with an empty one; python -m "
            f"viewpoint_core.prepare --out {manifest} --caption MODEL_DIR writes captions",
            file=sys.stderr,
        )


def encode(options: argparse.Namespace) -> int:
    """Plan, encode texts, then clips; the exit status."""
    launched = options.shard is None and "RANK" in os.environ
    options.shard = parse_shard(default_shard() if options.shard is None else options.shard)
    check_options(options)
    items = read_manifest(options.manifest)
    if options.no_text:
        items = [replace(item, caption="") for item in items]
    length, *others = options.length
    sampling = Sampling(
        length, options.fps, options.variants, options.clips, options.mirror, options.seed, tuple(others)
    )
    specs, short = plan_clips(items, options.manifest.absolute().parent, sampling)
    fingerprint = claim_cache(options.cache, fingerprint_of(options))
    index, count = options.shard
    for problem in short[index::count]:
        print(f"encode: {problem.name}: {problem.reason}", file=sys.stderr)
    make_folders(options.cache)
    gone = write_plan(options.cache, specs, options.map_size, options.layout)
    if gone:
        print(
            f"encode: {gone} clips that {options.cache} held are not in this manifest or of other settings, and will "
            "not train; to add items, put them into the manifest of the others",
            file=sys.stderr,
        )
    if options.no_text and index == 0 and not is_text_finished(options.cache, "", NO_TEXT):
        write_text(options.cache, "", torch.zeros(1, TEXT_DIM), NO_TEXT)
    with stopped_by_signals() as stop:
        if options.text_encoder:
            if index == 0:
                warn_of_missing_captions(specs, options.manifest)
            encode_texts(options, (spec.item.caption for spec in specs), fingerprint, stop)
        broken = encode_clips(options, specs, fingerprint, stop)
    share = f" (share {index}/{count})" if count > 1 else ""
    by_hand = sum(is_left_out(options.cache, spec.key) for spec in specs[index::count])
    left_out = f"{len(broken)} broken, {len(short[index::count])} items too short"
    left_out += f", {by_hand} left out by hand" if by_hand else ""
    print(f"{options.cache}{share}: {len(specs[index::count]) - len(broken) - by_hand} clips; {left_out}")
    return 1 if (broken or short) and not launched else 0


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; the exit status."""
    options = parse_arguments(arguments)
    try:
        return encode(options)
    except (ValueError, OSError) as error:
        print(f"encode: {error}", file=sys.stderr)
        return 2
    except torch.OutOfMemoryError as error:
        print(f"encode: {OUT_OF_MEMORY} ({str(error).splitlines()[0]})", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("encode: stopped; start it again to go on", file=sys.stderr)
        return 130


if __name__ == "__main__":
    raise SystemExit(main())
