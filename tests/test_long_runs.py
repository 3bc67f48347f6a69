"""Long runs stay flat: 500 volumes, and 5,000 iterations of training, each in one process (``make soak``).

Memory, open files and threads are printed over time (``pytest -s``); the test fails if one of them grows.
"""

from __future__ import annotations

import contextlib
import gc
import io
import mmap
from functools import partial
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
from ignite.engine import Events
from monai.handlers import TensorBoardStatsHandler

from scripts.data.intensity import IntensityWindow
from scripts.data.scans.find_scans import find_scans
from scripts.data.slabs.slab_reader import resample_z
from scripts.inference.outputs.html.report_page import ReportWriter
from scripts.inference.outputs.label_map import label_map
from scripts.inference.outputs.result_writer import ResultWriter
from scripts.inference.outputs.slicer_nodes import slicer_markups
from scripts.inference.volume_detector import SlabCutter, VolumeDetector
from scripts.training.resuming.tensorboard_curves import EventWriter
from scripts.training.train_handlers import scalars
from scripts.weights import build_network
from scripts.workflows.infer_scans import ScanRunner
from support import fake_engines
from support.clean_processes import clean_process
from support.fake_scans import BlobDetector, ball_scan
from support.fake_weights import weights_of
from support.narrow_networks import TINY
from support.process_watch import STATUS, Sample, Watch, growth

VOLUMES, ITERATIONS, LOOKS = 500, 5000, 20
on_linux = pytest.mark.skipif(not STATUS.exists(), reason="memory is read from /proc, which Linux alone has")


def samples(**each: list[float]) -> list[Sample]:
    plain = {"mebibytes": [100.0] * 20, "files": [9.0] * 20, "threads": [4.0] * 20, **each}
    return [Sample(at, *(values[at] for values in plain.values())) for at in range(20)]  # type: ignore[arg-type]


def test_what_grows_is_named() -> None:
    warm = [50.0, 80.0, *[100.0] * 18]
    waves = [100.0 + 30 * (at % 3) for at in range(20)]
    assert growth(samples()) == growth(samples(mebibytes=warm)) == growth(samples(mebibytes=waves)) == []
    leak = [100.0 + 2 * at for at in range(20)]
    assert growth(samples(mebibytes=leak)) == ["mebibytes from 110 to 130"]
    assert growth(samples(files=[9.0 + at // 8 for at in range(20)])) == ["files from 9 to 10"]
    assert growth(samples(threads=[4.0] * 15 + [5.0] * 5)) == ["threads from 4 to 5"]
    with pytest.raises(ValueError, match="at least 8"):
        growth(samples()[:7])


def in_a_process(work: Any, *arguments: Any) -> None:
    process = clean_process(work, *arguments)
    process.start()
    process.join()
    assert process.exitcode == 0


def new_memory_and_files(folder: Path) -> None:
    """One process: a look before and a look after memory and files that it did not have."""
    watch = Watch(2)
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        watch.step()
        watch.step()
        # A map of its own: an allocator may hand out memory that was freed before and still is resident.
        with mmap.mmap(-1, 64 << 20) as held, (folder / "a").open("w"), (folder / "b").open("w"):
            for _ in range(64):
                held.write(bytes(1 << 20))
            watch.look()
    assert [one.done for one in watch.samples] == [2, 2]
    assert watch.samples[1].mebibytes - watch.samples[0].mebibytes == pytest.approx(64, abs=6)
    assert watch.samples[1].files - watch.samples[0].files == 2
    assert printed.getvalue().count(" MiB ") == 2


@on_linux
def test_the_watch_sees_memory_files_and_threads(tmp_path: Path) -> None:
    in_a_process(new_memory_and_files, tmp_path)


def many_volumes(folder: Path, count: int) -> None:
    """One process: find, read, detect, link and write as many scans as one list."""
    (folder / "in").mkdir()
    for number in range(count):
        hu = ball_scan(shape=(6 + number % 5, 40, 56), centre_mm=(30.0, 16.0, 6.0))
        image = nibabel.Nifti1Image(hu.transpose(2, 1, 0), np.diag([-1.0, -1.0, 2.5, 1.0]))
        nibabel.save(image, folder / "in" / f"scan_{number:03d}.nii")
    weights, watch = weights_of(BlobDetector(), {"name": "blob"}), Watch(count // LOOKS)
    extra: dict[str, Any] = {"slicer": slicer_markups, "labelmap": label_map, "report": ReportWriter(threads=1)}

    class Counted(ResultWriter):
        def __call__(self, *arguments: Any, **more: Any) -> Any:
            written = super().__call__(*arguments, **more)
            watch.step()
            return written

    detector = VolumeDetector(SlabCutter(resample_z), IntensityWindow(), progress=False)
    ScanRunner(find_scans(folder / "in"), detector, weights, Counted(folder / "out", extra=extra)).main()
    assert watch.done == count
    assert len(list((folder / "out").glob("*/lesions.json"))) == count
    assert not (grown := growth(watch.samples)), grown


def many_iterations(folder: Path, count: int) -> None:
    """One process: a training with validations, checkpoints and curves."""
    fake_engines.FakeDetector = lambda *_: build_network(TINY)  # type: ignore[assignment, misc]
    fake_engines.records = partial(fake_engines.records, count // LOOKS)  # type: ignore[assignment]
    writer, watch = EventWriter(str(folder / "curves")), Watch(count // LOOKS)
    curves = [
        TensorBoardStatsHandler(writer, iteration_log=iterations, output_transform=scalars("train/"))
        for iterations in (True, False)
    ]
    run = fake_engines.Run(folder, epochs=LOOKS, batch_size=1, interval=100, handlers=(writer, curves[0]))
    for handler in (writer, curves[1]):
        handler.attach(run.evaluator)
    # A short validation after each epoch.
    run.evaluator.data_loader = list(run.evaluator.data_loader)[:2]
    run.evaluator.state.epoch_length = 2
    run.trainer.add_event_handler(Events.ITERATION_COMPLETED, watch.step)
    run.run()
    gc.collect()
    assert watch.done == count
    assert not (grown := growth(watch.samples)), grown


@on_linux
@pytest.mark.slow
@pytest.mark.parametrize(("work", "count"), [(many_volumes, VOLUMES), (many_iterations, ITERATIONS)])
def test_a_long_run_stays_flat(tmp_path: Path, work: Any, count: int) -> None:
    in_a_process(work, tmp_path, count)
