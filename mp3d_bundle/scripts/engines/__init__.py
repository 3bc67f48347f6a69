"""Engines: what training and evaluation need beyond MONAI's and Ignite's own engines and handlers."""

from .cases import cases_of, to_case
from .checkpoints import Checkpointer, improves, network_definition
from .coco import CocoReport, to_coco_case
from .config import check_config, current_parser, plain_config
from .curves import EventWriter
from .errors import end_errors_in_one_line
from .evaluation import EvaluationReport, WeightsLoader, described_network
from .handlers import ProgressBar, SeedEpoch, StopOnNonFinite, Throughput, scalars
from .imagenet import start_from_imagenet
from .panels import DetectionPanels
from .precision import MixedPrecision
from .pretrained import start_from
from .recipes import recipe_in_use, training_recipe, weights_recipe
from .record import RunRecord
from .samples import SampleDataset, prepare_slabs, prepare_targets
from .sampling import ResumableSampler
from .schedule import scale_learning_rate, warmup_step_factor, warmup_step_schedule
from .settings import run_settings
from .steps import EvaluationStep, TrainingStep, total_loss
from .stopping import Stopped, start_worker

__all__ = [
    "Checkpointer",
    "CocoReport",
    "DetectionPanels",
    "EvaluationReport",
    "EvaluationStep",
    "EventWriter",
    "MixedPrecision",
    "ProgressBar",
    "ResumableSampler",
    "RunRecord",
    "SampleDataset",
    "SeedEpoch",
    "StopOnNonFinite",
    "Stopped",
    "Throughput",
    "TrainingStep",
    "WeightsLoader",
    "cases_of",
    "check_config",
    "current_parser",
    "described_network",
    "end_errors_in_one_line",
    "improves",
    "network_definition",
    "plain_config",
    "prepare_slabs",
    "prepare_targets",
    "recipe_in_use",
    "run_settings",
    "scalars",
    "scale_learning_rate",
    "start_from",
    "start_from_imagenet",
    "start_worker",
    "to_case",
    "to_coco_case",
    "total_loss",
    "training_recipe",
    "warmup_step_factor",
    "warmup_step_schedule",
    "weights_recipe",
]
