"""Mixed precision on any device: what the training and evaluation steps need to know about it."""

from __future__ import annotations

import logging

import torch

from ..number_formats import cpu_has_bfloat16

logger = logging.getLogger(__name__)

_DTYPES = {"float16": torch.float16, "bfloat16": torch.bfloat16}
_PRECISIONS = ("auto", "float32", "bfloat16")


class MixedPrecision:
    """Choice of arithmetic for the forward pass, with the loss scaler that goes with it.

    MONAI's engines know CUDA's autocast only, build their scaler when a run starts (too late for a
    checkpoint) and scale bfloat16 losses that need no scaling. The scaler here exists from the start,
    for float16 on a GPU alone; it begins at 512 as in the released code.

    Args:
        device: Device of the run.
        enabled: Whether to use reduced precision. A string "true" or "false" is understood too, since
            command lines hand those over.
        dtype: "float16", on a GPU, or "bfloat16", also on a CPU that computes in it; float32 elsewhere.
        initial_scale: First loss scale with float16.
        precision: "float32" or "bfloat16", whatever ``enabled`` and ``dtype`` are; "auto" leaves it to them.

    Attributes:
        device: The device.
        dtype: The reduced type, or None when everything is computed in float32.
        scaler: The loss scaler, or None where none is needed.

    Raises:
        ValueError: If ``enabled``, ``dtype`` or ``precision`` is not one of the above.
    """

    def __init__(
        self,
        device: torch.device | str,
        *,
        enabled: bool | str = False,
        dtype: str = "float16",
        initial_scale: float = 512.0,
        precision: str = "auto",
    ) -> None:
        if str(enabled).lower() not in ("true", "false"):
            raise ValueError(f"Expected amp to be True or False, got {enabled!r}.")
        if dtype not in _DTYPES:
            raise ValueError(f"Expected amp_dtype to be one of {sorted(_DTYPES)}, got {dtype!r}.")
        if precision not in _PRECISIONS:
            raise ValueError(f"Expected precision to be one of {', '.join(_PRECISIONS)}, got {precision!r}.")
        self.device = torch.device(device)
        wanted = str(enabled).lower() == "true"
        if precision != "auto":
            wanted, dtype = precision != "float32", "bfloat16"
        if wanted and dtype == "float16" and self.device.type != "cuda":
            logger.warning("float16 needs a CUDA device, this is %s: computing in float32.", self.device.type)
            wanted = False
        if wanted and dtype == "bfloat16" and self.device.type == "cpu" and not cpu_has_bfloat16():
            logger.warning("This CPU does not compute in bfloat16, to emulate it is slow: computing in float32.")
            wanted = False
        self.dtype = _DTYPES[dtype] if wanted else None
        scaled = self.dtype is torch.float16
        self.scaler = torch.amp.GradScaler("cuda", init_scale=initial_scale) if scaled else None

    def autocast(self) -> torch.autocast:
        """Context in which to run the forward pass and the losses."""
        return torch.autocast(self.device.type, dtype=self.dtype, enabled=self.dtype is not None)
