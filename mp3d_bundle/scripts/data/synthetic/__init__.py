"""A synthetic data set in DeepLesion's format on which 3D context helps."""

from ..synthetic_presets import PRESETS, Settings, resolve
from .generator import GENERATOR_VERSION, description, generate

__all__ = ["GENERATOR_VERSION", "PRESETS", "Settings", "description", "generate", "resolve"]
