"""From a sample and its detections to the case that metrics and reports take."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ..boxes import Affine
from ..inference.lesion_outlines import LENGTHS, MEASURED, measure
from ..instances import IGNORED, Instances, further, move, select, to_arrays, true_rows
from ..metrics.cases import PER_LESION, Case
from ..metrics.free_response.class_cases import named, names_in_set

logger = logging.getLogger(__name__)

_PASSED_ON = ("patient", "image", "slice_interval", "spacing", "box_padding", "window")
# The class of each detection by its number in the network, which the data set may count otherwise.
LABELS = "labels"


def to_case(data: dict[str, Any]) -> dict[str, Case]:
    """Bring one image's detections to pixels of the original image, next to the lesions as annotated.

    Args:
        data: A sample after the transforms, ``image`` (D, H, W), with the detections in it added as
            ``pred``: ``boxes`` (M, 4) in slab pixels, ``scores`` (M,) and any further fields. Its ``scale_factor``
            (2,) says how many slab pixels make an original pixel, along x and y; ``origin`` (2,), if there, which
            original pixel is the slab's first; its ``record`` holds what was annotated, ``visible_truth``, if there,
            what of that counts.

    Returns:
        ``case``, see `scripts.metrics.cases`; ``image`` is the path of the key slice. Of masks and axes the lengths
        ``long_axis_mm`` and ``short_axis_mm`` are kept, NaN where a mask is empty. Of a data set of several classes it
        has their names, and the detector's ``labels``, which `name_detections` makes ``classes`` of.
    """
    record = data["record"]
    factor_x, factor_y = (1 / float(factor) for factor in data["scale_factor"])
    height, width = (
        round(int(side) * by) for side, by in zip(data["image"].shape[-2:], (factor_y, factor_x), strict=True)
    )
    if "origin" in data:
        height, width = data["image_size"]
    shift_x, shift_y = map(float, data.get("origin", (0.0, 0.0)))
    found = move(to_arrays(data["pred"]), Affine(factor_x, factor_y, shift_x, shift_y))
    known = to_arrays(data["visible_truth"] if "visible_truth" in data else record["instances"])
    lesions = true_rows(known)
    truth = select({name: values for name, values in known.items() if name != IGNORED}, lesions)
    fields = {name: values for name, values in further(truth).items() if name not in PER_LESION}
    spacing = record.get("spacing", (1.0, 1.0))
    case: dict[str, Any] = {
        "id": record["file_name"],
        "boxes": found["boxes"].reshape(-1, 4),
        "scores": found["scores"],
        "true_boxes": np.asarray(truth["boxes"], dtype=np.float64).reshape(-1, 4),
        "width": int(width),
        "height": int(height),
        "fields": _measured(further(found), found["boxes"].reshape(-1, 4), spacing),
        "true_fields": to_arrays(fields),
        **({"ignored_boxes": known["boxes"][~lesions]} if IGNORED in known else {}),
        **{name: truth[name] for name in PER_LESION if name in truth},
        **_classes(record, truth["labels"], found),
        **{name: record[name] for name in _PASSED_ON if name in record},
    }
    return {"case": Case(**case)}


def _measured(fields: Instances[np.ndarray], boxes: np.ndarray, spacing: Sequence[float]) -> Instances[np.ndarray]:
    """Fields with the lengths of both axes in place of masks and axes, which nobody keeps for a whole data set."""
    if not any(name in fields for name in MEASURED):
        return fields
    outlines = [measure(select(fields, row), box, spacing) for row, box in enumerate(boxes)]
    lengths = np.array([(np.nan, np.nan) if one is None else one.lengths_mm for one in outlines]).reshape(-1, 2)
    kept = {name: values for name, values in fields.items() if name not in MEASURED}
    return {**kept, **dict(zip(LENGTHS, lengths.T, strict=True))}


def _classes(record: Mapping[str, Any], labels: np.ndarray, found: Instances[np.ndarray]) -> dict[str, Any]:
    """What a case says of classes; nothing in a data set of one."""
    names = record["categories"].names if "categories" in record else ()
    if len(names) < 2 or LABELS not in found:
        return {}
    return {"class_names": tuple(names), "true_classes": named(labels, names), LABELS: found[LABELS].astype(np.int64)}


def name_detections(cases: Sequence[Case], names: Sequence[str], where: str) -> list[Case]:
    """Cases of a data set of several classes with the class of each detection, if the network knows several too.

    Args:
        cases: Of `to_case`.
        names: Classes of the network, in the order of its labels.
        where: The network, for a log line where its classes are called otherwise than those of the data set.
    """
    known = tuple(cases[0].get("class_names") or ()) if len(cases) else ()
    called = names_in_set(names, known)
    if called is None:
        if len(known) > 1:
            logger.warning("%s: no figures by class, it knows %s and the data set %s.", where, names, known)
        return list(cases)
    if set(called) - set(names):
        logger.warning("%s: its classes %s are taken for %s of the data set, in this order.", where, names, known)
    given: Any = cases
    found: Any = [{**case, "classes": named(case[LABELS], called)} for case in given]
    return found


def cases_of(output: list[dict[str, Any]]) -> list[Case]:
    """The cases in an evaluator's output after :func:`to_case`: the metric's ``output_transform``."""
    return [image["case"] for image in output]
