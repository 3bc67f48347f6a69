"""What a CPU computes in."""

from __future__ import annotations

import platform

import torch


def cpu_has_bfloat16() -> bool:
    """Whether this CPU computes in bfloat16. Where it does not, PyTorch emulates it: up to 100 times slower (AVX2)."""
    if platform.machine().lower() in ("x86_64", "amd64"):
        return torch.cpu._is_avx512_bf16_supported()
    onednn = torch.ops.mkldnn
    return hasattr(onednn, "_is_mkldnn_bf16_supported") and onednn._is_mkldnn_bf16_supported()
