"""What a CPU computes in."""

from __future__ import annotations

import platform

import pytest
import torch

from scripts.number_formats import cpu_has_bfloat16


@pytest.mark.parametrize("machine", ["x86_64", "AMD64"])
@pytest.mark.parametrize("there", [True, False])
def test_x86_needs_the_instructions_themselves(monkeypatch: pytest.MonkeyPatch, machine: str, there: bool) -> None:
    monkeypatch.setattr(platform, "machine", lambda: machine)
    # What oneDNN supports includes CPUs with AVX-512 that emulate bfloat16.
    monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda: True)
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: there)
    assert cpu_has_bfloat16() is there


@pytest.mark.parametrize("there", [True, False])
def test_others_ask_onednn(monkeypatch: pytest.MonkeyPatch, there: bool) -> None:
    monkeypatch.setattr(platform, "machine", lambda: "aarch64")
    monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda: there)
    assert cpu_has_bfloat16() is there


def test_a_build_without_onednn_emulates(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(platform, "machine", lambda: "arm64")
    monkeypatch.setattr(torch.ops, "mkldnn", object())
    assert not cpu_has_bfloat16()
