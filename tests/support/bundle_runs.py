"""Workflows of the bundle from their beginning to their end, on the CPU."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from monai.bundle import ConfigWorkflow

CONFIGS = Path(__file__).resolve().parents[2] / "mp3d_bundle" / "configs"


def run_workflow(run_id: str, *files: str | Path, **settings: Any) -> None:
    """Run configs, the first one with overlays, named by their paths or those below ``configs/``."""
    flow = ConfigWorkflow(
        config_file=[str(CONFIGS / file) for file in files],
        meta_file=str(CONFIGS / "metadata.json"),
        logging_file=False,
        run_id=run_id,
        workflow_type="train" if run_id == "training" else "infer",
        device="cpu",
        **settings,
    )
    flow.initialize()
    flow.run()
    flow.finalize()
