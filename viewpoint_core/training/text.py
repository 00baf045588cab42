"""Captions through Wan's text encoder, UMT5, from a local folder."""

import hashlib
import html
import json
import re
from pathlib import Path
from typing import NamedTuple

import ftfy
import torch
from torch import Tensor
from transformers import AutoTokenizer, PreTrainedTokenizerBase, UMT5EncoderModel

from ..checkpoint import checkpoint_files
from ..safetensors_file import read_header
from .data.fingerprint import hash_tensors
from .wan import TEXT_TOKENS

TOKENIZER_FILES = ("tokenizer.json", "spiece.model")
# What config.json says besides the architecture.
INCIDENTAL = {"_name_or_path", "architectures", "dtype", "torch_dtype", "transformers_version", "use_cache"}


class TextEncoder(NamedTuple):
    """A tokenizer and the encoder that its tokens go through."""

    tokenizer: PreTrainedTokenizerBase
    model: UMT5EncoderModel


def text_folders(folder: Path) -> tuple[Path, Path]:
    """The folders of the encoder and of the tokenizer: a pipeline's two, or twice the same.

    Raises ValueError unless there is a UMT5 encoder in safetensors and a tokenizer.
    """
    model, tokenizer = folder / "text_encoder", folder / "tokenizer"
    model, tokenizer = (model, tokenizer) if model.is_dir() else (folder, tokenizer if tokenizer.is_dir() else folder)
    try:
        kind = json.loads((model / "config.json").read_text(encoding="utf-8")).get("model_type")
    except (OSError, ValueError, AttributeError) as error:
        raise ValueError(f"{model}: expected the folder of a UMT5 encoder, with config.json ({error})") from error
    if kind != "umt5":
        raise ValueError(f"{model} holds a model of type {kind!r}; Wan's text encoder is 'umt5'")
    if not any((tokenizer / name).is_file() for name in TOKENIZER_FILES):
        raise ValueError(f"{tokenizer}: expected the tokenizer, {' or '.join(TOKENIZER_FILES)}")
    return model, tokenizer


def text_fingerprint(folder: Path, dtype: str) -> str:
    """A hash of the encoder's weights and architecture, the tokenizer, and the dtype that it computes in."""
    model, tokenizer = text_folders(folder)
    stored = {key: tensor for file in checkpoint_files(model) for key, tensor in read_header(file)[0].items()}
    config = json.loads((model / "config.json").read_text(encoding="utf-8"))
    architecture = {key: value for key, value in config.items() if key not in INCIDENTAL}
    digest = hashlib.sha256(f"{dtype} {json.dumps(architecture, sort_keys=True)}".encode())
    for name in TOKENIZER_FILES:
        file = tokenizer / name
        digest.update(file.read_bytes() if file.is_file() else b"-")
    digest.update(hash_tensors(stored).encode())
    return digest.hexdigest()


def load_text_encoder(folder: Path, dtype: torch.dtype, device: str | torch.device = "cpu") -> TextEncoder:
    """A UMT5 encoder and its tokenizer. Raises ValueError where weights are missing."""
    model_folder, tokenizer_folder = text_folders(folder)
    tokenizer = AutoTokenizer.from_pretrained(tokenizer_folder, local_files_only=True)
    model, found = UMT5EncoderModel.from_pretrained(
        model_folder, local_files_only=True, use_safetensors=True, dtype=dtype, output_loading_info=True
    )
    wrong = [*found["missing_keys"], *found["mismatched_keys"]]
    if wrong:
        raise ValueError(f"{model_folder}: {len(wrong)} weights are missing or of another shape, such as {wrong[0]}")
    return TextEncoder(tokenizer, model.to(device).requires_grad_(False).eval())


def clean_caption(caption: str) -> str:
    """As Wan cleans its captions: broken encodings, HTML entities and runs of white space."""
    return re.sub(r"\s+", " ", html.unescape(html.unescape(ftfy.fix_text(caption)))).strip()


def tokens_of(tokenizer: PreTrainedTokenizerBase, caption: str) -> tuple[list[int], int]:
    """A caption's tokens, the end mark included and at most 512, and how many it would have in full."""
    text = clean_caption(caption)
    in_full = len(tokenizer(text, verbose=False).input_ids)
    return tokenizer(text, truncation=True, max_length=TEXT_TOKENS).input_ids, in_full


@torch.no_grad()
def encode_text(encoder: TextEncoder, caption: str) -> tuple[Tensor, int]:
    """A caption's embedding (n, d), 1 <= n <= 512, on the CPU, and how many tokens the caption has in full.

    Each caption goes through alone and unpadded, so that its embedding does not depend on what is encoded beside it.
    An empty caption is one token, the end mark.
    """
    tokens, in_full = tokens_of(encoder.tokenizer, caption)
    if not tokens:
        raise ValueError("the tokenizer makes no token of a caption; expected one that adds the end mark </s>")
    batch = torch.tensor([tokens], device=encoder.model.device)
    embedding = encoder.model(batch, torch.ones_like(batch)).last_hidden_state[0]
    if not bool(torch.isfinite(embedding).all()):
        raise ValueError("the text encoder gives NaN or infinite values")
    return embedding.cpu(), in_full
