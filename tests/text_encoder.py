"""A tiny random UMT5 with a tokenizer of single letters and two words, made without a network."""

from pathlib import Path

import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast, UMT5Config, UMT5EncoderModel

DIM = 16
SIZE = {"d_model": DIM, "d_kv": 4, "d_ff": 32, "num_layers": 2, "num_heads": 4}
WORDS = ["<pad>", "</s>", "<unk>", "beach", "forest", *"abcdefghijklmnopqrstuvwxyz"]


def write_tokenizer(folder: Path) -> None:
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    names = {"pad_token": "<pad>", "eos_token": "</s>", "unk_token": "<unk>"}
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, model_max_length=512, **names).save_pretrained(folder)


def write_text_encoder(folder: Path, seed: int = 0) -> Path:
    """Encoder and tokenizer in the two folders of a diffusers pipeline."""
    torch.manual_seed(seed)
    UMT5EncoderModel(UMT5Config(vocab_size=len(WORDS), **SIZE)).save_pretrained(folder / "text_encoder")
    write_tokenizer(folder / "tokenizer")
    return folder
