"""Captions by a local Qwen2.5-VL: what each of four perspective views shows, then one summary (paper 4.1)."""

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor
from tqdm import tqdm
from transformers import Qwen2_5_VLForConditionalGeneration, Qwen2_5_VLProcessor

from ...pixels import to_uint8
from ...views import render_view
from ..spread import spread
from .manifest import Item, Problem, append_caption, caption_problem, item_key, read_lines, with_stored_captions
from .media import read_frames

MODEL_TYPE = "qwen2_5_vl"
VIEW_YAWS = {"one side": 0, "the next": 90, "the opposite": 180, "the last": -90}  # training turns and mirrors them
VIEW_SIZE = 448
FRAMES_PER_VIEW = 3
VIEW_TOKENS, SUMMARY_TOKENS = 160, 256

IMAGE_PROMPT = "Describe what this photograph shows, in two or three plain sentences. Name only what can be seen."
VIDEO_PROMPT = (
    "These are {count} frames of one video, in the order of time. Describe the scene and what moves in it, in two or "
    "three plain sentences. Name only what can be seen."
)
SUMMARY_PROMPT = (
    "A camera that sees all around recorded one place. The four sides of it were described one by one:\n\n{sides}\n\n"
    "Describe the whole place in one paragraph of at most 120 words: where it is, the light, what stands "
    "around, what moves. Name no direction (left, right, ahead, behind), and say nothing about cameras, views, frames "
    "or panoramas."
)


class Captioner(NamedTuple):
    """A loaded Qwen2.5-VL and its processor."""

    model: Qwen2_5_VLForConditionalGeneration
    processor: Any


def check_model_dir(folder: Path) -> None:
    """Raise ValueError unless the folder holds a Qwen2.5-VL in the transformers layout."""
    config = folder / "config.json"
    if not config.is_file():
        raise ValueError(f"{folder}: expected a folder with a Qwen2.5-VL model; there is no config.json")
    found = json.loads("\n".join(read_lines(config))).get("model_type")
    if found != MODEL_TYPE:
        raise ValueError(f"{folder}: the model's type is {found!r}; expected {MODEL_TYPE!r} (Qwen2.5-VL)")


def load_captioner(folder: Path, device: torch.device | str) -> Captioner:
    """Load from disk only; bfloat16 on a GPU, float32 on a CPU. Raises ValueError or OSError."""
    check_model_dir(folder)
    dtype = torch.float32 if torch.device(device).type == "cpu" else torch.bfloat16
    model = Qwen2_5_VLForConditionalGeneration.from_pretrained(
        folder, dtype=dtype, local_files_only=True, use_safetensors=True
    )
    processor = Qwen2_5_VLProcessor.from_pretrained(folder, local_files_only=True)
    return Captioner(model.to(device).eval(), processor)


def sample_indices(item: Item, count: int) -> list[int]:
    """`count` pictures spread over an item's span, each in the middle of its part; fewer where there are fewer."""
    return spread(range(item.start, item.start + item.frames), count)


def item_views(item: Item, count: int) -> dict[str, list[Tensor]]:
    """Four 90-degree views of `count` pictures of an item, uint8 (3, VIEW_SIZE, VIEW_SIZE), by the side they face."""
    views: dict[str, list[Tensor]] = {side: [] for side in VIEW_YAWS}
    for erp in read_frames(item.path, sample_indices(item, count), item.fps):
        for side, yaw_deg in VIEW_YAWS.items():
            view = render_view(erp / 255, VIEW_SIZE, VIEW_SIZE, yaw_deg=yaw_deg, fov_deg=90)
            views[side].append(to_uint8(view))
    return views


@torch.inference_mode()
def answer(captioner: Captioner, prompt: str, images: Sequence[Tensor], tokens: int) -> str:
    """The model's greedy answer to a prompt about images, on one line."""
    content = [{"type": "image"} for _ in images] + [{"type": "text", "text": prompt}]
    text = captioner.processor.apply_chat_template(
        [{"role": "user", "content": content}], tokenize=False, add_generation_prompt=True
    )
    inputs = captioner.processor(text=[text], images=list(images) or None, return_tensors="pt")
    inputs = inputs.to(captioner.model.device)
    output = captioner.model.generate(**inputs, max_new_tokens=tokens, do_sample=False, temperature=None)
    new = output[0, inputs["input_ids"].shape[1] :]
    return " ".join(captioner.processor.tokenizer.decode(new, skip_special_tokens=True).split())


def describe(captioner: Captioner, item: Item, frames_per_view: int = FRAMES_PER_VIEW) -> str:
    """One caption for an item's whole surroundings. Raises ValueError for pictures that cannot be read."""
    sides = []
    for side, images in item_views(item, frames_per_view).items():
        prompt = IMAGE_PROMPT if len(images) == 1 else VIDEO_PROMPT.format(count=len(images))
        sides.append(f"{side.capitalize()}: {answer(captioner, prompt, images, VIEW_TOKENS)}")
    return answer(captioner, SUMMARY_PROMPT.format(sides="\n".join(sides)), (), SUMMARY_TOKENS)


def caption_items(
    items: Sequence[Item],
    model_dir: Path,
    file: Path,
    *,
    device: torch.device | str = "cpu",
    frames_per_view: int = FRAMES_PER_VIEW,
) -> tuple[list[Item], list[Problem]]:
    """Caption what has no caption, each one appended to the side file as it is made; the model loads only if needed.

    Returns all items, and by name those whose pictures cannot be read or whose caption is empty or huge: they stay
    without one, and the next run tries them again.
    """
    items = with_stored_captions(items, file)
    todo = [index for index, item in enumerate(items) if not item.caption]
    problems: list[Problem] = []
    captioner = load_captioner(model_dir, device) if todo else None
    for index in tqdm(todo, desc="caption", unit="item"):
        item = items[index]
        try:
            caption = describe(captioner, item, frames_per_view)
        except ValueError as error:
            problems.append(Problem(str(item.path), str(error).removeprefix(f"{item.path}: ")))
            continue
        reason = caption_problem(caption)
        if reason:
            problems.append(Problem(str(item.path), f"{reason}, as the model gave it"))
            continue
        append_caption(file, item_key(item, file.parent), caption)
        items[index] = replace(item, caption=caption)
    return items, problems
