"""Mixed precision: which arithmetic and which scaler a device gets."""

from __future__ import annotations

import logging

import pytest
import torch

from scripts.training import mixed_precision
from scripts.training.mixed_precision import MixedPrecision


@pytest.fixture(autouse=True)
def a_cpu_with_bfloat16(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mixed_precision, "cpu_has_bfloat16", lambda: True)


def product(precision: MixedPrecision) -> torch.Tensor:
    with precision.autocast():
        return torch.ones(2, 2, device=precision.device) @ torch.ones(2, 2, device=precision.device)


def test_off_is_float32_without_scaler() -> None:
    precision = MixedPrecision("cpu")
    assert product(precision).dtype is torch.float32
    assert precision.scaler is None


def test_bfloat16_works_on_a_cpu_without_scaler() -> None:
    precision = MixedPrecision("cpu", enabled=True, dtype="bfloat16")
    assert product(precision).dtype is torch.bfloat16
    assert precision.scaler is None


def test_float16_on_a_cpu_falls_back_with_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        precision = MixedPrecision("cpu", enabled=True, dtype="float16")
    assert product(precision).dtype is torch.float32
    assert "computing in float32" in caplog.text


@pytest.mark.parametrize("arguments", [{"enabled": True, "dtype": "bfloat16"}, {"precision": "bfloat16"}])
def test_a_cpu_that_would_emulate_bfloat16_falls_back_with_a_warning(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, arguments: dict
) -> None:
    monkeypatch.setattr(mixed_precision, "cpu_has_bfloat16", lambda: False)
    assert product(MixedPrecision("cpu", **arguments)).dtype is torch.float32
    assert "This CPU does not compute in bfloat16" in caplog.text
    # A GPU is another matter.
    assert MixedPrecision("cuda", enabled=True, dtype="bfloat16").dtype is torch.bfloat16


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_float16_on_cuda_scales_from_512_before_any_step() -> None:
    precision = MixedPrecision("cuda", enabled=True, dtype="float16")
    assert precision.dtype is torch.float16
    assert precision.scaler is not None
    assert precision.scaler.get_scale() == 512.0
    assert product(precision).dtype is torch.float16


def test_bfloat16_on_cuda_has_no_scaler() -> None:
    assert MixedPrecision("cuda", enabled=True, dtype="bfloat16").scaler is None


@pytest.mark.parametrize(("text", "dtype"), [("true", torch.bfloat16), ("False", None)])
def test_switches_from_a_command_line_are_words(text: str, dtype: torch.dtype | None) -> None:
    assert MixedPrecision("cpu", enabled=text, dtype="bfloat16").dtype is dtype


@pytest.mark.parametrize("arguments", [{"enabled": "yes"}, {"enabled": True, "dtype": "float8"}])
def test_other_words_are_rejected(arguments: dict) -> None:
    with pytest.raises(ValueError, match="Expected amp"):
        MixedPrecision("cpu", **arguments)
