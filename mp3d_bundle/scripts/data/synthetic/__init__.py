"""A synthetic data set in DeepLesion's format on which 3D context helps."""

from .generator import GENERATOR_VERSION, description, generate
from .presets import PRESETS, Settings, resolve

__all__ = ["GENERATOR_VERSION", "PRESETS", "Settings", "description", "generate", "resolve"]
