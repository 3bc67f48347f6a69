"""Pictures in TensorBoard: validation slices with true and predicted boxes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from ignite.engine import Engine, Events
from torch.utils.tensorboard import SummaryWriter

from ..data.records import Sample
from ..inference.outputs.pictures.box_drawing import display_window, draw_boxes
from ..instances import true_rows


class DetectionPanels:
    """Shows the first validation images with their lesions (green, dashed) and the best detections (yellow).

    Args:
        summary_writer: TensorBoard writer.
        to_hu: Turns normalised values back into HU.
        images: Number of images shown.
        interval: Epochs from one showing to the next; the first epoch is always shown.
        detections: Detections drawn on an image, at most.
    """

    def __init__(
        self,
        summary_writer: SummaryWriter,
        to_hu: Callable[[torch.Tensor], torch.Tensor],
        *,
        images: int = 6,
        interval: int = 1,
        detections: int = 3,
    ) -> None:
        self.summary_writer = summary_writer
        self.to_hu = to_hu
        self.images = images
        self.interval = interval
        self.detections = detections
        self._shown = 0

    def attach(self, engine: Engine) -> None:
        """Show images of ``engine``, an evaluator that runs within a training."""
        engine.add_event_handler(Events.EPOCH_STARTED, self._begin)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self.show)

    def _begin(self, engine: Engine) -> None:
        due = (engine.state.epoch - 1) % self.interval == 0
        self._shown = 0 if due else self.images

    def show(self, engine: Engine) -> None:
        """Add the images of this batch that are still wanted."""
        samples: Any = engine.state.batch
        output: Any = engine.state.output
        for sample, found in zip(samples, output, strict=True):
            if self._shown >= self.images:
                return
            panel = self.panel(sample, found["pred"])
            name = f"validation/{self._shown:02d}_{sample['record']['file_name']}"
            self.summary_writer.add_image(name, panel, engine.state.epoch, dataformats="HWC")
            self._shown += 1

    def panel(self, sample: Sample, found: dict[str, torch.Tensor]) -> np.ndarray:
        """Draw one image.

        Args:
            sample: ``image`` (D, H, W), whose centre slice is drawn, and ``instances`` in its pixels.
            found: ``boxes`` (M, 4) in its pixels and ``scores`` (M,).

        Returns:
            uint8 (H', W', 3), small images enlarged.
        """
        slab = torch.as_tensor(sample["image"])
        hu = self.to_hu(slab[slab.shape[0] // 2].float()).cpu().numpy()
        best = found["scores"].argsort(descending=True)[: self.detections]
        predicted = {"boxes": found["boxes"][best].numpy(), "scores": found["scores"][best].numpy()}
        window = display_window(sample["record"])
        lesions = sample["instances"]["boxes"][true_rows(sample["instances"])]
        return draw_boxes(hu, predicted, lesions.numpy(), window=window)
