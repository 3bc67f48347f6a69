"""Runs without training: results as finished runs leave them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from research.study_commands import Options, Places, Planner, Run
from research.study_plan import load_study
from support.fake_evaluations import evaluation_in

NOTICE = "Synthetic CT-like data, made up for a test."


def planner_in(folder: Path, *, profile: str = "reduced", synthetic: bool = True, **options: Any) -> Planner:
    """A planner whose data set is nothing but a marker."""
    data = folder / "data"
    data.mkdir(exist_ok=True)
    (data / "DL_info.csv").write_text("")
    if synthetic:
        (data / "synthetic.json").write_text(json.dumps({"about": NOTICE, "settings": {}}))
    study = load_study()
    return Planner(study, study.profiles[profile], Places(data, folder / "out"), Options(**options))


def finish(planner: Planner, run: Run, *, ap50: float, curve: bool = False, validation: float = 0.5) -> Path:
    """Write the result of a run, and an evaluation with a curve if asked for."""
    values = {"0.5": ap50 - 0.1, "1": ap50, "2": ap50 + 0.05, "4": ap50 + 0.1}
    metrics = {
        "sensitivity": values, "sensitivity_interval": {name: [x - 0.05, x + 0.05] for name, x in values.items()},
        "mean_sensitivity": ap50, "mean_sensitivity_interval": [ap50 - 0.04, ap50 + 0.04],
        "ap50": ap50, "ap50_interval": [ap50 - 0.03, ap50 + 0.03], "counts": {}, "dataset": "fake", "notice": NOTICE,
    }  # fmt: skip
    steps = {name: {"seconds": 90.0, "peak_bytes": 2**30, "done": True} for name in run.steps}
    result = {
        "fingerprint": run.fingerprint(planner.places), "steps": steps, "key": run.key, "seed": run.seed,
        "rate": run.rate, "commands": {}, "date": "2026-11-23", "machine": "a machine", "metrics": metrics,
        "validation": validation,
    }  # fmt: skip
    run.folder.mkdir(parents=True, exist_ok=True)
    (run.folder / "result.json").write_text(json.dumps(result))
    if curve:
        evaluation_in(run.folder / "evaluation", images=8, seed=run.seed)
    return run.folder
