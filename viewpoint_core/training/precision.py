"""Computing in bfloat16, where a device is made for it."""

import torch


def has_fast_bf16(device: torch.device | str) -> bool:
    """Whether a device computes in bfloat16 at least as fast as in float32. A CPU without AVX-512 (on x86) does not:
    there, products of matrices take a hundred times as long."""
    if torch.device(device).type != "cpu":
        return True
    asked = getattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", None)
    return asked is not None and bool(asked())


def fast_dtype(device: torch.device | str) -> torch.dtype:
    """bfloat16 where it is fast, else float32."""
    return torch.bfloat16 if has_fast_bf16(device) else torch.float32


def fast_autocast(device: torch.device | str) -> torch.autocast:
    """Autocast to bfloat16 where that is fast; elsewhere it does nothing."""
    return torch.autocast(torch.device(device).type, torch.bfloat16, enabled=has_fast_bf16(device))
