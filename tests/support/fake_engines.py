"""A detector of a few numbers and a data set without files, to run whole engines in a blink."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ignite.engine import Events
from monai.data import DataLoader
from monai.data.utils import no_collation
from monai.engines import SupervisedEvaluator, SupervisedTrainer
from monai.handlers import LrScheduleHandler, ValidationHandler
from monai.inferers import SimpleInferer
from monai.transforms import RandScaleIntensityd
from monai.utils import set_determinism
from torch import nn

from scripts.data.transforms import SampleDataset
from scripts.training.learning_rate import warmup_step_schedule
from scripts.training.mixed_precision import MixedPrecision
from scripts.training.resuming.checkpoints import Checkpointer
from scripts.training.resuming.sample_order import ResumableSampler
from scripts.training.resuming.stopping import TrainingDataLoader, start_worker
from scripts.training.train_handlers import SeedEpoch
from scripts.training.train_steps import EvaluationStep, TrainingStep, prepare_slabs, prepare_targets, total_loss
from scripts.workflows.to_cases import cases_of, to_case


class FakeDetector(nn.Module):
    """Regresses one box from the mean of each slice; its loss draws random numbers, like a sampler does."""

    def __init__(self, num_slices: int = 3) -> None:
        super().__init__()
        self.head = nn.Linear(num_slices, 4)
        self.spoil: Callable[[torch.Tensor], torch.Tensor] = lambda loss: loss

    def forward(self, slabs: list[torch.Tensor], targets: list[dict] | None = None) -> Any:
        boxes = self.head(torch.stack([slab.mean(dim=(1, 2)) for slab in slabs]))
        if not self.training:
            ordered = torch.cat((boxes[:, :2], boxes[:, :2] + boxes[:, 2:].abs() + 1), dim=1)
            return [{"boxes": box[None], "scores": torch.ones(1), "labels": torch.ones(1).long()} for box in ordered]
        assert targets is not None
        wanted = torch.stack([target["boxes"].sum(0) / 10 for target in targets])
        keep = torch.rand(len(boxes), device=boxes.device)[:, None]
        box_loss = self.spoil(((boxes - wanted).abs() * keep).mean())
        return {"loss_classifier": boxes.square().mean() * 1e-3, "loss_box_reg": box_loss}


class MeanScore:
    """Stand-in of a metric: minus the mean distance between true and found corners."""

    def __init__(self) -> None:
        self.distances: list[float] = []

    def attach(self, engine: Any, name: str) -> None:
        engine.add_event_handler(Events.EPOCH_STARTED, lambda: self.distances.clear())
        engine.add_event_handler(Events.ITERATION_COMPLETED, lambda: self._update(engine))
        engine.add_event_handler(Events.EPOCH_COMPLETED, lambda: self._store(engine, name))

    def _update(self, engine: Any) -> None:
        for case in cases_of(engine.state.output):
            self.distances.append(float(np.abs(case["boxes"] - case["true_boxes"]).mean()))

    def _store(self, engine: Any, name: str) -> None:
        engine.state.metrics[name] = -float(np.mean(self.distances))


def records(count: int = 12, num_slices: int = 3) -> list[dict[str, Any]]:
    """Records whose image is a tensor already, made so that the boxes follow from the slices."""
    generator = torch.Generator().manual_seed(1)
    out = []
    for index in range(count):
        image = torch.randn(num_slices, 6, 8, generator=generator)
        box = torch.tensor([[1.0, 2.0, 4.0, 5.0]]) + image.mean()
        out.append(
            {
                "image": image,
                "file_name": f"000001_01_01_{index:03d}.png",
                "patient": "000001",
                "image_size": (6, 8),
                "instances": {"boxes": box, "labels": torch.ones(1, dtype=torch.int64)},
                "scale_factor": torch.ones(2),
            }
        )
    return out


class Run:
    """Everything of one training run on the fakes, wired as the configs wire it."""

    def __init__(
        self,
        folder: Path | None = None,
        *,
        epochs: int = 4,
        handlers: tuple = (),
        accumulation: int = 1,
        workers: int = 0,
        num_slices: int = 3,
        batch_size: int = 4,
        optimizer: type[torch.optim.Optimizer] = torch.optim.SGD,
        clip: float | None = 35.0,
        device: str = "cpu",
        precision: MixedPrecision | None = None,
        settings: dict[str, Any] | None = None,
        interval: int = 0,
    ) -> None:
        torch.manual_seed(7)
        self.precision = precision or MixedPrecision(device)
        self.network = FakeDetector(num_slices).to(device)
        data = records(num_slices=num_slices)
        self.dataset = SampleDataset(data, RandScaleIntensityd(keys="image", factors=0.5, prob=1.0), seed=3)
        sampler = ResumableSampler(self.dataset, num_replicas=1, rank=0, seed=3)
        self.loader = TrainingDataLoader(
            self.dataset, num_workers=workers, batch_size=batch_size, sampler=sampler, collate_fn=no_collation,
            worker_init_fn=start_worker,
        )  # fmt: skip
        self.optimizer = optimizer(self.network.parameters(), lr=0.05)
        self.scheduler = warmup_step_schedule(self.optimizer, len(self.loader), milestones=(2, 3), warmup_iterations=4)
        self.evaluator = SupervisedEvaluator(
            device=torch.device(device),
            val_data_loader=DataLoader(SampleDataset(data), batch_size=5, collate_fn=no_collation),
            network=self.network,
            prepare_batch=prepare_slabs,
            iteration_update=EvaluationStep(self.precision),
            inferer=SimpleInferer(),
            postprocessing=to_case,
            key_val_metric={"mean_sensitivity": MeanScore()},
            decollate=False,
        )
        own = [
            LrScheduleHandler(self.scheduler, print_lr=False, epoch_level=False),
            SeedEpoch(self.dataset),
            ValidationHandler(interval=1, validator=self.evaluator),
        ]
        if folder is not None:
            objects = {
                "model": self.network,
                "optimizer": self.optimizer,
                "scheduler": self.scheduler,
                "scaler": self.precision.scaler,
            }
            self.checkpointer = Checkpointer(
                folder,
                objects,
                definition={"_target_": "scripts.networks.mp3d_fpn", "num_slices": num_slices},
                evaluator=self.evaluator,
                info={"notice": "fake"},
                settings=settings,
                interval=interval,
            )
            own.append(self.checkpointer)
        self.trainer = SupervisedTrainer(
            device=torch.device(device),
            max_epochs=epochs,
            train_data_loader=self.loader,
            network=self.network,
            optimizer=self.optimizer,
            loss_function=total_loss,
            prepare_batch=prepare_targets,
            iteration_update=TrainingStep(self.precision, max_gradient_norm=clip),
            inferer=SimpleInferer(),
            train_handlers=[*own, *handlers],
            decollate=False,
            accumulation_steps=accumulation,
        )

    def run(self) -> Run:
        self.trainer.run()
        return self

    def weights(self) -> dict[str, torch.Tensor]:
        return {name: value.detach().cpu().clone() for name, value in self.network.state_dict().items()}


def fake_training(folder: Path) -> None:
    """A training of some 0.3 s, with gradients added over two iterations and data from another process."""
    set_determinism(0)
    run = Run(folder, epochs=3, batch_size=2, accumulation=2, interval=1, workers=1)
    run.trainer.add_event_handler(Events.ITERATION_COMPLETED, lambda: time.sleep(0.01))
    run.evaluator.add_event_handler(Events.ITERATION_COMPLETED, lambda: time.sleep(0.01))
    run.run()
