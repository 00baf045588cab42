"""Captions by a tiny random Qwen2.5-VL of the real architecture, through the command line and its parts."""

import json
import re
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
import torch
from PIL import Image
from transformers import (
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2_5_VLProcessor,
    Qwen2TokenizerFast,
    Qwen2VLImageProcessor,
    Qwen2VLVideoProcessor,
)
from transformers.models.gpt2.tokenization_gpt2 import bytes_to_unicode

from tests.panorama_files import write_image, write_video
from viewpoint_core import prepare
from viewpoint_core.camera import view_directions
from viewpoint_core.sphere import erp_directions
from viewpoint_core.training.data import captioning
from viewpoint_core.training.data.captioning import (
    VIEW_SIZE,
    VIEW_YAWS,
    answer,
    caption_items,
    describe,
    item_views,
    load_captioner,
    sample_indices,
)
from viewpoint_core.training.data.manifest import Item, read_captions, read_manifest

SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|vision_start|>", "<|vision_end|>"]
PADS = ["<|image_pad|>", "<|video_pad|>"]
CHAT_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n"
    "{% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}<|vision_start|><|image_pad|><|vision_end|>{% else %}{{ part['text'] }}{% endif %}"
    "{% endfor %}<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
HIDDEN = 32


def write_processor(folder: Path) -> dict[str, int]:
    """A processor whose tokens are bytes; its special tokens' ids by name."""
    characters = list(bytes_to_unicode().values())
    (folder / "vocab.json").write_text(json.dumps({character: index for index, character in enumerate(characters)}))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    tokenizer = Qwen2TokenizerFast(str(folder / "vocab.json"), str(folder / "merges.txt"))
    tokenizer.add_special_tokens({"additional_special_tokens": SPECIAL + PADS})
    pixels = {"min_pixels": 56 * 56, "max_pixels": 56 * 56}
    processor = Qwen2_5_VLProcessor(
        Qwen2VLImageProcessor(**pixels), tokenizer, Qwen2VLVideoProcessor(**pixels), chat_template=CHAT_TEMPLATE
    )
    processor.save_pretrained(folder)
    return {name: tokenizer.convert_tokens_to_ids(name) for name in SPECIAL + PADS}


@pytest.fixture(scope="module")
def model_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny random Qwen2.5-VL as save_pretrained leaves it."""
    folder = tmp_path_factory.mktemp("qwen")
    ids = write_processor(folder)
    config = Qwen2_5_VLConfig(
        text_config={
            "vocab_size": max(ids.values()) + 1,
            "hidden_size": HIDDEN,
            "intermediate_size": 64,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "num_key_value_heads": 1,
            "rope_scaling": {"type": "mrope", "mrope_section": [2, 3, 3]},
            "bos_token_id": None,
            "eos_token_id": None,
        },
        vision_config={
            "depth": 2,
            "hidden_size": HIDDEN,
            "intermediate_size": 64,
            "num_heads": 2,
            "out_hidden_size": HIDDEN,
            "fullatt_block_indexes": [1],
        },
        image_token_id=ids["<|image_pad|>"],
        video_token_id=ids["<|video_pad|>"],
        vision_start_token_id=ids["<|vision_start|>"],
        vision_end_token_id=ids["<|vision_end|>"],
    )
    torch.manual_seed(0)
    Qwen2_5_VLForConditionalGeneration(config).save_pretrained(folder)
    return folder


@pytest.fixture(autouse=True)
def short_answers(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A random model never ends its answer, so it gets few tokens."""
    monkeypatch.setattr(captioning, "VIEW_TOKENS", 8)
    monkeypatch.setattr(captioning, "SUMMARY_TOKENS", 8)
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(threads)


def image_item(folder: Path, number: int, caption: str = "") -> Item:
    return Item(write_image(folder / f"{number}.png", number), 0, 1, 0.0, 64, 32, caption)


def test_the_four_views_face_the_four_sides(tmp_path: Path) -> None:
    directions = erp_directions(128, 256)
    colours = ((directions.movedim(-1, 0) + 1) / 2 * 255).round().byte()
    file = tmp_path / "directions.png"
    Image.fromarray(colours.movedim(0, -1).numpy()).save(file)
    views = item_views(Item(file, 0, 1, 0.0, 256, 128), 3)
    assert list(VIEW_YAWS.values()) == [0, 90, 180, -90]
    assert list(views) == list(VIEW_YAWS)
    assert not re.search(r"ahead|right|left|behind", "".join(VIEW_YAWS)), "training turns the panorama"
    for side, yaw_deg in VIEW_YAWS.items():
        rays = view_directions(VIEW_SIZE, VIEW_SIZE, yaw_deg=yaw_deg)
        expected = (rays / rays.norm(dim=-1, keepdim=True) + 1) / 2 * 255
        (view,) = views[side]
        assert view.dtype == torch.uint8
        assert (view.movedim(0, -1) - expected).abs().max() < 4


def test_a_video_is_seen_at_pictures_spread_over_its_span() -> None:
    item = Item(Path("a.mp4"), 100, 60, 16.0, 64, 32)
    assert sample_indices(item, 3) == [110, 130, 150]
    assert sample_indices(item, 1) == [130]
    assert sample_indices(Item(Path("a.png"), 0, 1, 0.0, 64, 32), 3) == [0]


def test_the_model_sees_the_pictures_and_the_text(model_dir: Path) -> None:
    captioner = load_captioner(model_dir, "cpu")
    black, noise = (
        torch.zeros(3, 56, 56, dtype=torch.uint8),
        torch.randint(0, 256, (3, 56, 56), generator=torch.Generator().manual_seed(0)).byte(),
    )
    seen = answer(captioner, "What?", [black], 12)
    assert seen == answer(captioner, "What?", [black], 12)
    assert seen != answer(captioner, "What?", [noise], 12)
    assert seen != answer(captioner, "Where is this?", [black], 12)
    assert "  " not in seen
    assert "<|" not in seen


def test_a_caption_asks_four_times_with_pictures_and_once_for_the_summary(
    model_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[int, str]] = []

    def record(captioner: captioning.Captioner, prompt: str, images: list, tokens: int) -> str:
        asked.append((len(images), prompt))
        return answer(captioner, prompt, images, tokens) + f" [{len(asked)}]"

    monkeypatch.setattr(captioning, "answer", record)
    item = Item(write_video(tmp_path / "a.mp4", 60), 0, 60, 16.0, 64, 32)
    caption = describe(load_captioner(model_dir, "cpu"), item, 2)
    assert [count for count, _ in asked] == [2, 2, 2, 2, 0]
    assert "2 frames" in asked[0][1]
    summary = asked[-1][1]
    for number, side in enumerate(("One side", "The next", "The opposite", "The last"), 1):
        assert f"{side}: " in summary
        assert f"[{number}]" in summary
    assert caption.endswith("[5]")


def test_the_command_captions_what_has_no_caption_and_resumes(model_dir: Path, tmp_path: Path) -> None:
    data, out = tmp_path / "data", tmp_path / "manifest.jsonl"
    for number in range(3):
        image_item(data, number)
    (data / "1.txt").write_text("It has one.")
    options = ["--folder", str(data), "--out", str(out), "--device", "cpu", "--caption", str(model_dir)]
    assert prepare.main(options) == 0
    items = read_manifest(out)
    assert all(item.caption for item in items)
    assert items[1].caption == "It has one."
    side = tmp_path / "manifest.captions.jsonl"
    assert read_captions(side) == {(f"data/{n}.png", 0, 1): items[n].caption for n in (0, 2)}
    lines = side.read_text(encoding="utf-8").splitlines(keepends=True)
    marked = json.dumps(json.loads(lines[0]) | {"caption": "Kept."}) + "\n"
    side.write_text(marked + lines[1][:30], encoding="utf-8")  # as a run leaves it that was killed while it wrote
    assert prepare.main(options) == 0
    assert [item.caption for item in read_manifest(out)] == ["Kept.", "It has one.", items[2].caption]
    assert side.read_text(encoding="utf-8") == marked + lines[1]


def test_the_captioner_sees_as_many_pictures_of_a_video_as_the_command_says(
    model_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_video(tmp_path / "data" / "v.mp4", 20)
    asked: list[int] = []

    def answer(captioner: captioning.Captioner, prompt: str, images: Sequence[torch.Tensor], tokens: int) -> str:
        asked.append(len(images))
        return "Words."

    monkeypatch.setattr(captioning, "answer", answer)
    options = ["--folder", str(tmp_path / "data"), "--out", str(tmp_path / "m.jsonl"), "--min-seconds", "0.1"]
    assert prepare.main([*options, "--device", "cpu", "--caption", str(model_dir), "--caption-frames", "2"]) == 0
    assert asked == [2, 2, 2, 2, 0]


def test_a_manifest_alone_can_be_captioned(model_dir: Path, tmp_path: Path) -> None:
    image_item(tmp_path / "data", 0)
    out = tmp_path / "m.jsonl"
    assert prepare.main(["--folder", str(tmp_path / "data"), "--out", str(out)]) == 0
    assert read_manifest(out)[0].caption == ""
    assert prepare.main(["--out", str(out), "--device", "cpu", "--caption", str(model_dir)]) == 0
    assert read_manifest(out)[0].caption


def test_nothing_is_loaded_where_all_have_captions(tmp_path: Path) -> None:
    items = [image_item(tmp_path, 0, "A place.")]
    assert caption_items(items, tmp_path / "no model", tmp_path / "side.jsonl") == (items, [])


def test_a_run_that_is_stopped_has_kept_what_it_made(
    model_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    items = [image_item(tmp_path, number) for number in range(3)]
    side = tmp_path / "side.jsonl"
    real, done = describe, []

    def stop_at_third(captioner: captioning.Captioner, item: Item, count: int) -> str:
        if len(done) == 2:
            raise KeyboardInterrupt
        done.append(item.path.name)
        return real(captioner, item, count)

    monkeypatch.setattr(captioning, "describe", stop_at_third)
    with pytest.raises(KeyboardInterrupt):
        caption_items(items, model_dir, side)
    assert [key[0] for key in read_captions(side)] == ["0.png", "1.png"]
    done.clear()
    captioned, problems = caption_items(items, model_dir, side)
    assert done == ["2.png"]
    assert all(item.caption for item in captioned)
    assert problems == []


@pytest.mark.parametrize(("text", "reason"), [("", "the caption is empty"), ("x" * 5000, "5000 characters")])
def test_an_empty_or_huge_answer_is_named_and_not_kept(
    model_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, reason: str
) -> None:
    monkeypatch.setattr(captioning, "describe", lambda *_: text)
    items, problems = caption_items([image_item(tmp_path, 0)], model_dir, tmp_path / "side.jsonl")
    assert items[0].caption == ""
    assert reason in problems[0].reason
    assert not (tmp_path / "side.jsonl").exists()


def test_an_item_that_cannot_be_read_is_named_and_the_others_are_captioned(model_dir: Path, tmp_path: Path) -> None:
    video = Item(write_video(tmp_path / "a.mp4", 20), 0, 100, 16.0, 64, 32)
    items, problems = caption_items([video, image_item(tmp_path, 1)], model_dir, tmp_path / "side.jsonl")
    assert [bool(item.caption) for item in items] == [False, True]
    assert problems[0].name.endswith("a.mp4")
    assert "ends before it" in problems[0].reason


def test_the_layout_of_the_published_checkpoints_is_read(model_dir: Path, tmp_path: Path) -> None:
    folder = tmp_path / "published"
    shutil.copytree(model_dir, folder)
    (folder / "video_preprocessor_config.json").unlink()
    template = (folder / "chat_template.jinja").read_text()
    (folder / "chat_template.jinja").unlink()
    (folder / "chat_template.json").write_text(json.dumps({"chat_template": template}))
    item = image_item(tmp_path, 5)
    assert describe(load_captioner(folder, "cpu"), item) == describe(load_captioner(model_dir, "cpu"), item)


def test_another_model_is_refused(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "qwen2_vl"}')
    with pytest.raises(ValueError, match="the model's type is 'qwen2_vl'; expected 'qwen2_5_vl'"):
        load_captioner(tmp_path, "cpu")
    with pytest.raises(ValueError, match=r"there is no config\.json"):
        load_captioner(tmp_path / "nowhere", "cpu")


def test_a_broken_side_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "side.jsonl").write_text('{"path": "a", "start": 0}\n')
    with pytest.raises(ValueError, match=r"side\.jsonl:1: expected path, start, frames and caption"):
        read_captions(tmp_path / "side.jsonl")
