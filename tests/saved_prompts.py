"""Saved prompts, made up."""

from pathlib import Path

import torch
from safetensors.torch import save_file

from viewpoint_core.checkpoint import TEXT_DIM

TEXT_TOKENS = 512


def write_text_embedding(path: Path, *, tokens: int = 20, seed: int = 3) -> None:
    """A saved prompt as ViewPointSaveTextEmbedding writes it: `tokens` random rows, then zeros up to 512."""
    embedding = torch.zeros(1, TEXT_TOKENS, TEXT_DIM)
    embedding[:, :tokens] = torch.randn(1, tokens, TEXT_DIM, generator=torch.Generator().manual_seed(seed)) * 0.1
    metadata = {"format": "pt", "viewpoint.text_embedding": "1"}
    save_file({"text_embedding": embedding.to(torch.float16)}, path, metadata=metadata)
