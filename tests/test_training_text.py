"""Captions through the text encoder: lengths, padding, and folders that hold none."""

import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoTokenizer

from tests.text_encoder import write_text_encoder
from viewpoint_core.training.text import clean_caption, encode_text, load_text_encoder, text_fingerprint

LONG = "a " * 600


@pytest.fixture(scope="module")
def umt5(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_text_encoder(tmp_path_factory.mktemp("umt5"))


def test_captions_are_cleaned_as_wan_cleans_them() -> None:
    assert clean_caption("  Tom &amp;amp; Jerry\n\tâ€™s  ") == "Tom & Jerry 's"


def test_a_caption_alone_is_encoded_as_among_padding(umt5: Path) -> None:
    encoder = load_text_encoder(umt5, torch.float32)
    batch = encoder.tokenizer("a b c", padding="max_length", max_length=512, return_tensors="pt")
    padded = encoder.model(batch.input_ids, batch.attention_mask).last_hidden_state[0]
    embedding, tokens = encode_text(encoder, "  a\n b &#99;  ")
    assert tokens == 4
    assert torch.allclose(embedding, padded[:4], atol=1e-5)


def test_a_long_caption_keeps_512_tokens_and_its_end_mark(umt5: Path) -> None:
    encoder = load_text_encoder(umt5, torch.float32)
    embedding, tokens = encode_text(encoder, LONG)
    assert (len(embedding), tokens) == (512, 601)
    assert torch.equal(embedding, encode_text(encoder, "a " * 511)[0])


def test_a_text_encoder_that_lacks_a_weight_is_refused(umt5: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(umt5, tmp_path / "umt5")
    file = folder / "text_encoder" / "model.safetensors"
    weights = load_file(file)
    del weights["encoder.block.1.layer.0.SelfAttention.q.weight"]
    save_file(weights, file, metadata={"format": "pt"})
    with pytest.raises(ValueError, match=r"1 weights are missing.*block\.1\.layer\.0\.SelfAttention\.q"):
        load_text_encoder(folder, torch.float32)


def test_a_folder_that_holds_no_text_encoder_is_refused(umt5: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="expected the folder of a UMT5 encoder"):
        text_fingerprint(tmp_path, "float32")
    (tmp_path / "config.json").write_text('{"model_type": "t5"}')
    with pytest.raises(ValueError, match="a model of type 't5'; Wan's text encoder is 'umt5'"):
        text_fingerprint(tmp_path, "float32")
    shutil.copytree(umt5 / "text_encoder", tmp_path, dirs_exist_ok=True)
    with pytest.raises(ValueError, match="expected the tokenizer"):
        text_fingerprint(tmp_path, "float32")


def test_a_text_encoders_hash_tells_weights_dtype_and_tokenizer(umt5: Path, tmp_path: Path) -> None:
    own = text_fingerprint(umt5, "float32")
    again = shutil.copytree(umt5, tmp_path / "again")
    assert text_fingerprint(again, "float32") == own
    other = write_text_encoder(tmp_path / "other", seed=1)
    tokenizer = AutoTokenizer.from_pretrained(again / "tokenizer")
    tokenizer.add_tokens(["city"])
    tokenizer.save_pretrained(again / "tokenizer")
    assert len({own, text_fingerprint(umt5, "bfloat16"), text_fingerprint(other, "float32")}) == 3
    assert text_fingerprint(again, "float32") != own
