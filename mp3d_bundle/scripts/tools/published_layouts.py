"""Checkpoints of the compared systems: how to recognise each, its network, and the recipe of that network.

A layout is found by the names and shapes of the tensors. Facts of the released codes that the recipes repeat: slices
2 mm apart with the weights of the first position used at all of them, one window, one scale.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..networks.heads.score_refinement import EXTRAS
from ..networks.published.align_shift import ALIGN_SHIFT_NAMES
from ..networks.published.authors_names import Rules
from ..networks.published.mulan import MULAN_NAMES
from ..networks.published.multi_scale_booster import MSB_NAMES
from ..networks.published.mvp_net import MVPNET_NAMES, WINDOWS
from ..networks.published.slice_attention import SLICE_ATTENTION_NAMES
from ..networks.published.three_dce import GROUP, MAPS, THREE_DCE_NAMES
from ..recipe import PAPER, Recipe
from ..storage.printable import shown
from ..storage.safe_json import read_json

Shape = tuple[int, ...]
Definition = dict[str, Any]
# Cells of a 7 x 7 crop.
_CELLS = GROUP**2


@dataclass(frozen=True)
class Layout:
    """Layout of a system's checkpoints.

    Attributes:
        name: Of the system.
        marks: Names of tensors that distinguish it from later systems in `LAYOUTS`.
        factory: Function of `scripts.networks` that makes the network.
        sizes: Shapes of the tensors by name to its arguments.
        rules: Authors' names to ours.
        recipe: What the network saw in its authors' training, without the number of slices.
        source: Repository and commit that the facts were read from.
        licence: That of the repository.
        entry: Key of the tensors in the file.
        left_out: Tensors that no network needs, by pattern, and why.
        told_by: Pattern in the config inside the file, if the tensors do not distinguish the system from another one.
    """

    name: str
    marks: tuple[str, ...]
    factory: str
    sizes: Callable[[Mapping[str, Shape]], Definition]
    rules: Rules
    recipe: Recipe
    source: str
    licence: str
    entry: str = "state_dict"
    left_out: Mapping[str, str] = field(default_factory=dict)
    told_by: str | None = None

    def define(self, shapes: Mapping[str, Shape]) -> Definition:
        """The definition of the network that tensors of these shapes fit.

        Raises:
            ValueError: If a tensor with a needed size is missing or has too few axes.
        """
        return {"_target_": f"scripts.networks.{self.factory}", **self.sizes(shapes)}

    def reason(self, name: str) -> str | None:
        """Why a tensor of the authors is left out; None for one that is used."""
        return next((reason for pattern, reason in self.left_out.items() if re.fullmatch(pattern, name)), None)


def _size(shapes: Mapping[str, Shape], name: str, axis: int = 0) -> int:
    """One side of a tensor that the layout must have."""
    shape = shapes.get(name, ())
    if len(shape) <= axis:
        raise ValueError(f"Expected a tensor {name} of more than {axis} axes, got {shape or 'none'}")
    return shape[axis]


def _dense(shapes: Mapping[str, Shape]) -> Definition:
    """AlignShift and its successors."""
    return {
        "num_slices": _size(shapes, "backbone.reductionz1.reduction_z_conv.weight", 2),
        "growth": _size(shapes, "backbone.denseblock1.denselayer1.conv2.weight"),
        "channels": _size(shapes, "backbone.lateral2.weight"),
        "fc_channels": _size(shapes, "bbox_head.shared_fcs.0.weight"),
        "masks": any(name.startswith("mask_head.") for name in shapes),
    }


def _attention(shapes: Mapping[str, Shape]) -> Definition:
    return {**_dense(shapes), "embedding": _size(shapes, "backbone.trans_patch_conv1.weight")}


def _booster(shapes: Mapping[str, Shape]) -> Definition:
    return {
        "num_slices": _size(shapes, "backbone.conv1.weight", 1),
        "num_classes": _size(shapes, "bbox_head.fc_cls.weight") - 1,
        "width": _size(shapes, "backbone.conv1.weight"),
        "channels": _size(shapes, "neck.lateral_convs.0.conv.weight"),
        "fc_channels": _size(shapes, "bbox_head.shared_fcs.0.weight"),
    }


_MVP_RECIPE = Recipe(
    slice_spacing=2.0,
    z_mode="released",
    test_scale=800,
    window=(min(low for low, _ in WINDOWS), max(high for _, high in WINDOWS)),
    mean=PAPER.mean,
    std=PAPER.std,
)


def _mvp(shapes: Mapping[str, Shape]) -> Definition:
    channels = _size(shapes, "Conv_Body.conv_top.weight")
    return {
        "num_slices": _size(shapes, "Box_Head.fc1.weight", 1) // max(channels * _CELLS, 1),
        "num_classes": _size(shapes, "Box_Outs.cls_score.weight") - 1,
        "channels": channels,
        "fc_channels": _size(shapes, "Box_Head.fc1.weight"),
        # The whole range of the three windows, so that the network can make them from its slab.
        "window": [*_MVP_RECIPE.window, _MVP_RECIPE.mean, _MVP_RECIPE.std],
    }


def _three_dce(shapes: Mapping[str, Shape]) -> Definition:
    return {
        "num_slices": 3 * (_size(shapes, "arg:fc6_weight", 1) // (MAPS * _CELLS)),
        "num_classes": _size(shapes, "arg:cls_score_weight") - 1,
        "width": _size(shapes, "arg:conv1_1_new_weight"),
        "rpn_channels": _size(shapes, "arg:rpn_conv_3x3_weight"),
        "fc_channels": _size(shapes, "arg:fc6_weight"),
    }


def _mulan(shapes: Mapping[str, Shape]) -> Definition:
    fused, tags = "feature_fuse.conv.weight", _size(shapes, "roi_heads.refine.score_propa_tag.weight")
    # The extras are of 4, 1 and 2 numbers, so that their count identifies them.
    count = _size(shapes, "roi_heads.refine.score_propa_tag.weight", 1) - 2 - tags
    return {
        "num_slices": 3 * (_size(shapes, fused, 1) // max(_size(shapes, fused), 1)),
        "tags": tags,
        "extras": [name for name, size in EXTRAS.items() if count & size],
        "growth": _size(shapes, "backbone.denseblock1.denselayer1.conv2.weight"),
        "channels": _size(shapes, "backbone.lateral2.weight"),
        "fc_channels": _size(shapes, "roi_heads.box.feature_extractor.fc6.weight"),
    }


_A3D = Recipe(slice_spacing=2.0, z_mode="released", window=(-1024.0, 2050.0), mean=50.0, std=1.0)
_ALIGN = Recipe(slice_spacing=2.0, z_mode="native", window=(-1024.0, 2050.0), mean=50.0, std=1.0)
_CADLAB = Recipe(
    slice_spacing=2.0,
    z_mode="released",
    pixel_spacing=0.8,
    longest_side=512,
    crop_border=True,
    window=(-1024.0, 3071.0),
    mean=50.0,
    std=1.0,
)
_MSB = Recipe(slice_spacing=2.0, z_mode="released", crop_border=True, window=(-1024.0, 3071.0), mean=127.5, std=127.5)
_REDUCTION = "backbone.reductionz1.reduction_z_conv.weight"
_ALIGN_SHIFT = ("M3DV/AlignShift @ d35e79ffad8c5bf1a2f5187a411ffe158c77907c", "Apache-2.0")
# Keys are what ``--network`` takes. The first one whose marks a file has is the file's.
LAYOUTS: dict[str, Layout] = {
    "satr": Layout(
        "SATr",
        (_REDUCTION, "backbone.trans_patch_conv1.weight"),
        "slice_attention",
        _attention,
        SLICE_ATTENTION_NAMES,
        _A3D,
        "MIRACLE-Center/A3D_SATr @ c17d92a2603ff0f6cb91c435d60b322222a9dec6",
        "Apache-2.0",
    ),
    "a3d": Layout(
        "A3D",
        (_REDUCTION, "backbone.conv0.adaptive_align_weights"),
        "a3d",
        _dense,
        ALIGN_SHIFT_NAMES,
        _A3D,
        *_ALIGN_SHIFT,
    ),
    "tsm": Layout(
        "TSM",
        (_REDUCTION,),
        "temporal_shift",
        _dense,
        ALIGN_SHIFT_NAMES,
        _ALIGN,
        *_ALIGN_SHIFT,
        told_by=r"(?i)tsm",
    ),
    "alignshift": Layout(
        "AlignShift",
        (_REDUCTION,),
        "align_shift",
        _dense,
        ALIGN_SHIFT_NAMES,
        _ALIGN,
        *_ALIGN_SHIFT,
    ),
    "msb": Layout(
        "MSB",
        ("neck.fpn_convs.0.sc.atrous_conv.weight",),
        "multi_scale_booster",
        _booster,
        MSB_NAMES,
        _MSB,
        "shaoqb/multi_scale_booster @ 8e5155c1ff3ba907966aa3971ce2057deafc27e7",
        "Apache-2.0",
    ),
    "mvpnet": Layout(
        "MVP-Net",
        ("Conv_Body.conv_body.res1.conv1.weight",),
        "mvp_net",
        _mvp,
        MVPNET_NAMES,
        _MVP_RECIPE,
        "urmagicsmine/MVP-Net @ 07bf00390080670b5d9a643b99f633419322a1ec",
        "MIT",
        entry="model",
    ),
    "mulan": Layout(
        "MULAN",
        ("feature_fuse.conv.weight", "roi_heads.refine.score_propa_tag.weight"),
        "mulan",
        _mulan,
        MULAN_NAMES,
        _CADLAB,
        "rsummers11/CADLab, MULAN_universal_lesion_analysis @ e90f41dba738c698dff7014399a43892d00344f5",
        "the text of the NIH Clinical Center in that folder, MIT for what is of maskrcnn-benchmark",
        entry="model",
        left_out={r"rpn\.anchor_generator\.cell_anchors\.\d+": "anchors, which the network makes itself"},
    ),
    "3dce": Layout(
        "3DCE",
        ("arg:conv1_1_new_weight",),
        "three_dce",
        _three_dce,
        THREE_DCE_NAMES,
        _CADLAB,
        "rsummers11/CADLab, lesion_detector_3DCE @ 357015dc845688bb73867bb91e3d6504c39c8135",
        "the text of the NIH Clinical Center in that folder",
    ),
}


def find_layout(shapes: Mapping[str, Shape], config: str = "", network: str | None = None) -> str | None:
    """The key of the layout that a file has, in `LAYOUTS`; None if it has none of them.

    Args:
        shapes: Shapes of the tensors by the authors' names.
        config: Text of the config that the file holds, if any.
        network: Key given by the user if the tensors do not show it.

    Raises:
        ValueError: If the user gives an unknown key, or one that does not fit the file.
    """
    fitting = [key for key, layout in LAYOUTS.items() if all(mark in shapes for mark in layout.marks)]
    if network is not None:
        if network not in LAYOUTS:
            raise ValueError(f"Expected --network to be one of {', '.join(LAYOUTS)}, got {network!r}.")
        alike = [key for key in fitting if fitting and LAYOUTS[key].marks == LAYOUTS[fitting[0]].marks]
        if network not in alike:
            found = " or ".join(LAYOUTS[key].name for key in alike) or "none of these"
            raise ValueError(f"Expected a checkpoint of {LAYOUTS[network].name}, got tensors of {found}")
        return network
    for key in fitting:
        told_by = LAYOUTS[key].told_by
        if told_by is None or re.search(told_by, config):
            return key
    return None


def read_tag_names(path: Path, count: int) -> tuple[str, ...]:
    """Names of tags, from the authors' file of them.

    Args:
        path: JSON: a list of names, or an object with one as ``term_list`` (LesaNet's file of labels) or ``tag_list``.
        count: How many tags the network has.

    Raises:
        FileNotFoundError: If the file does not exist.
        ValueError: If it holds no such list, or another number of names.
    """
    content = read_json(path, "names of tags")
    if isinstance(content, Mapping):
        content = content.get("term_list", content.get("tag_list"))
    if not isinstance(content, list) or not all(isinstance(name, str) and name for name in content):
        raise ValueError(f"Expected a list of names of tags, got {shown(content)} in {path}.")
    if len(content) != count:
        raise ValueError(
            f"Expected the names of {count} tags, as many as the network gives, got {len(content)} in {path}."
        )
    return tuple(content)
