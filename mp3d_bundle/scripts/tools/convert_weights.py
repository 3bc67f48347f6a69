"""Translate checkpoints between the authors' codes and this bundle, tensor by tensor.

    python -m scripts.convert_checkpoint --source mp3d63-d720bda1.pth --target models/coco_mp3d63.pt
    python -m scripts.convert_checkpoint --source alignshift_7slice.pth --target models/alignshift.pt
    python -m scripts.convert_checkpoint --source models/model.pt --target out.pth --to authors

Run from the bundle's folder. The names of the tensors show the origin of the checkpoint: MP3D (a backbone or a whole
detector) or a system of `scripts.tools.published_layouts`. Loads tensors only; each must have its place.
"""

from __future__ import annotations

import re
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..networks import TwoStageHead
from ..networks.published.authors_names import inverted, renamed
from ..recipe import KEY, PAPER, PHOTOGRAPHS, Recipe, class_names, classes_of, slices_of
from ..storage.printable import shown_name as printable
from ..weights import (
    BACKBONE_PARTS,
    WeightsFile,
    build_network,
    check_values,
    read_stored,
    read_tensors,
    shown,
    write_atomically,
)
from .early_checks import check_convert
from .published_layouts import LAYOUTS, Layout, find_layout, read_tag_names

# Our name -> the released code's name. Order matters only where patterns overlap.
_RULES = [
    (r"^backbone\.body\.stem\.conv\.0\.", "backbone.conv1_custom."),
    (r"^backbone\.body\.stem\.conv\.1\.", "backbone.norm1."),
    (r"\.reduce\.0\.", ".conv1."),
    (r"\.reduce\.1\.", ".norm_1."),
    (r"\.pair\.in_plane\.0\.", ".conv2."),
    (r"\.pair\.in_plane\.1\.", ".norm_2."),
    (r"\.pair\.inter_slice\.0\.", ".conv3."),
    (r"\.pair\.inter_slice\.1\.", ".norm_3."),
    (r"\.expand\.0\.", ".conv4."),
    (r"\.expand\.1\.", ".norm_4."),
    (r"\.pair1\.in_plane\.0\.", ".conv1."),
    (r"\.pair1\.in_plane\.1\.", ".norm_1."),
    (r"\.pair1\.inter_slice\.0\.", ".conv2."),
    (r"\.pair1\.inter_slice\.1\.", ".norm_2."),
    (r"\.pair2\.in_plane\.0\.", ".conv3."),
    (r"\.pair2\.in_plane\.1\.", ".norm_3."),
    (r"\.pair2\.inter_slice\.0\.", ".conv4."),
    (r"\.pair2\.inter_slice\.1\.", ".norm_4."),
    (r"\.shortcut\.", ".downsample."),
    (r"^backbone\.fpn\.inner_blocks\.(\d)\.0\.", r"neck.lateral_convs.\1.conv."),
    (r"^backbone\.fpn\.layer_blocks\.(\d)\.0\.", r"neck.fpn_convs.\1.conv."),
    (r"^rpn\.head\.conv\.0\.0\.", "rpn_head.rpn_conv."),
    (r"^rpn\.head\.cls_logits\.", "rpn_head.rpn_cls."),
    (r"^rpn\.head\.bbox_pred\.", "rpn_head.rpn_reg."),
    (r"^roi_heads\.box_head\.fc6\.", "roi_head.bbox_head.shared_fcs.0."),
    (r"^roi_heads\.box_head\.fc7\.", "roi_head.bbox_head.shared_fcs.1."),
    (r"^roi_heads\.predictor\.cls_score\.", "roi_head.bbox_head.fc_cls."),
    (r"^roi_heads\.predictor\.bbox_pred\.", "roi_head.bbox_head.fc_reg."),
]
COCO_CLASSES = 80
# Keys of the tensors in the authors' files; a bare state dict is accepted too.
ENTRIES = ("state_dict", "model")
_LICENCE_BYTES = 100_000
_CLASSIFIER = "roi_head.bbox_head.fc_cls."
_NEED_EVERY_SLICE = frozenset({"backbone.groupconv_1.weight", "backbone.conv3d_all_1.weight"})


def released_name(name: str, shape: torch.Size) -> str:
    """The released code's name of one of our tensors (``shape`` distinguishes the two kinds of conversion).

    Raises:
        ValueError: If the released code has no such tensor.
    """
    conversion = re.match(r"^backbone\.conversions\.(\d)\.conv\.weight$", name)
    if conversion:
        kind = "groupconv_" if len(shape) == 4 else "conv3d_all_"
        return f"backbone.{kind}{int(conversion[1]) + 1}.weight"
    stage = re.match(r"^backbone\.body\.stages\.(\d)\.", name)
    renamed = f"backbone.layer{int(stage[1]) + 1}.{name[stage.end() :]}" if stage else name
    for pattern, replacement in _RULES:
        renamed, count = re.subn(pattern, replacement, renamed)
        if count:
            return renamed
    raise ValueError(f"Expected a network of the released code, got an unknown tensor {name}.")


def to_released(state: Mapping[str, Tensor]) -> OrderedDict[str, Tensor]:
    """Our state dict under the released code's names, background class last.

    Raises:
        ValueError: If the released code has no such network.
    """
    renamed = OrderedDict()
    for name, tensor in state.items():
        released = released_name(name, tensor.shape)
        renamed[released] = tensor.roll(-1, 0) if released.startswith(_CLASSIFIER) else tensor
    return renamed


def from_released(state: Mapping[str, Tensor], network: nn.Module, where: str) -> OrderedDict[str, Tensor]:
    """The released code's state dict under our names, background class first.

    Args:
        state: Released names without a leading ``module.``.
        network: Network that the tensors belong to; its whole detector, or (for a backbone file) its backbone
            must be covered exactly.
        where: Source, for errors.

    Raises:
        ValueError: Naming the tensors that are missing, left over or misshapen.
    """
    own = network.state_dict()
    if not any(name.startswith(("neck.", "rpn_head.", "roi_head.")) for name in state):
        own = {name: tensor for name, tensor in own.items() if name.startswith(BACKBONE_PARTS)}
    placed = _placed(state, own, {released_name(name, tensor.shape): name for name, tensor in own.items()}, where)
    rolled = "roi_heads.predictor.cls_score."
    return OrderedDict((name, tensor.roll(1, 0) if name.startswith(rolled) else tensor) for name, tensor in placed)


def from_authors(state: Mapping[str, Tensor], network: nn.Module, layout: Layout, where: str) -> dict[str, Tensor]:
    """The tensors of a published system under our names.

    Args:
        state: The authors' names, all of which must be used.
        network: Network that they must cover exactly.
        layout: That of the file.
        where: Source, for errors.

    Raises:
        ValueError: Naming the tensors that are missing, left over or misshapen.
    """
    own = network.state_dict()
    names = dict(zip(renamed(own, inverted(layout.rules)), own, strict=True))
    return dict(_placed(state, own, names, where))


def _placed(
    state: Mapping[str, Tensor], own: Mapping[str, Tensor], names: Mapping[str, str], where: str
) -> list[tuple[str, Tensor]]:
    """Our names and the tensors of ``state``, whose ``names`` are the keys of ours; every one has its place."""
    problems = [f"missing: {name}" for name in names if name not in state]
    problems += [f"left over: {printable(name)}" for name in state if name not in names]
    problems += [
        f"{name}: expected shape {tuple(own[names[name]].shape)}, got {tuple(tensor.shape)}"
        for name, tensor in state.items()
        if name in names and own[names[name]].shape != tensor.shape
    ]
    if problems:
        few = "; ".join(problems[:5]) + (f"; and {len(problems) - 5} more" if len(problems) > 5 else "")
        raise ValueError(f"Expected a checkpoint in which every tensor is used, {where}: {few}.")
    return [(ours, state[theirs]) for theirs, ours in names.items()]


def infer_definition(state: Mapping[str, Tensor], where: str, *, isotropic: bool = False) -> dict[str, Any]:
    """Network definition that fits a released state dict, read from its names and shapes.

    Args:
        state: Released names without a leading ``module.``.
        where: Source, for errors.
        isotropic: Whether it is the network with inter-slice pooling, which has the same tensors as one with CTM.

    Raises:
        ValueError: If it holds no backbone of the released code.
    """
    layers = []
    for stage in range(1, 5):
        found = {int(match[1]) for name in state if (match := re.match(rf"^backbone\.layer{stage}\.(\d+)\.", name))}
        layers.append(len(found))
    shapes = {name: tuple(tensor.shape) for name, tensor in state.items()}
    first, second = (shapes.get(f"backbone.{name}.weight", ()) for name in ("conv1_custom", "layer1.0.conv1"))
    if min(layers) == 0 or len(first) != 5 or len(second) != 5:
        raise ValueError(
            f"Expected a checkpoint of MP3D, with 'backbone.conv1_custom' and the stages 'backbone.layer1' to "
            f"'backbone.layer4', or of {', '.join(each.name for each in LAYOUTS.values())}, "
            f"got {shown(list(state)[:3])} in {where}."
        )
    body: dict[str, Any] = {"_target_": "scripts.networks.ResNet3d", "layers": layers, "width": first[0]}
    if second[2:] != (1, 1, 1):
        body["block"] = {"_target_": "scripts.networks.PseudoBasicBlock", "_mode_": "callable"}
    if isotropic:
        body["stem"] = {"_target_": "scripts.networks.Stem", "_mode_": "callable", "pool_depth": 1}
        body["stage_pools"] = {"_target_": "scripts.networks.isotropic_pools"}
    definition: dict[str, Any] = {"_target_": "scripts.networks.mp3d_fpn", "num_slices": 9, "body": body}
    grouped, dense = (shapes.get(f"backbone.{name}_1.weight", ()) for name in ("groupconv", "conv3d_all"))
    if len(grouped) == 4:
        definition["num_slices"] = grouped[1]
    elif len(dense) == 5:
        definition["num_slices"] = dense[2]
        definition["conversion"] = {"_target_": "scripts.networks.FullTransform", "_mode_": "callable"}
    else:
        definition["conversion"] = {"_target_": "scripts.networks.CenterCrop", "_mode_": "callable"}
    if len(classifier := shapes.get(_CLASSIFIER + "weight", ())) == 2:
        definition["num_classes"] = classifier[0] - 1
        if classifier[1] != 1024:
            definition["head"] = {"_target_": "scripts.networks.TwoStageHead", "fc_channels": classifier[1]}
    if (pyramid := shapes.get("neck.fpn_convs.0.conv.bias", (256,))) != (256,):
        definition["fpn_channels"] = pyramid[0]
    return definition


def recipe_of(network: nn.Module, part: str) -> Recipe:
    """The recipe of a network of the authors.

    Their backbone and their 80 classes come from COCO's photographs; everything else from DeepLesion, read with the
    released code's weights between slices.

    Args:
        network: The network, on any device.
        part: ``"detector"`` or ``"backbone"``.
    """
    count = classes_of(network)
    if part == "backbone" or count == COCO_CLASSES:
        slices = PHOTOGRAPHS.num_slices if part == "backbone" else slices_of(network)
        return replace(PHOTOGRAPHS, num_slices=slices, classes=class_names(COCO_CLASSES))
    return replace(PAPER, z_mode="released", num_slices=slices_of(network), classes=class_names(count))


def released_state(content: Any, where: str) -> OrderedDict[str, Tensor]:
    """The tensors of a file of the authors, without the ``module.`` that data-parallel training leaves.

    Raises:
        ValueError: If the file holds no state dict, or is one of this bundle.
    """
    state = content
    if isinstance(content, Mapping):
        if "model" in content and "network" in content:
            raise ValueError(f"Expected a checkpoint of the authors, got a weights file of this bundle in {where}.")
        state = next((content[entry] for entry in ENTRIES if entry in content), content)
    if not isinstance(state, Mapping) or not state:
        raise ValueError(f"Expected a dict of tensors under 'state_dict', got {type(state).__name__} in {where}.")
    for name, value in state.items():
        if not isinstance(name, str) or not isinstance(value, Tensor):
            raise ValueError(f"Expected a dict of tensors, got {type(value).__name__} as {shown(name)} in {where}.")
    plain = OrderedDict((name.removeprefix("module."), tensor) for name, tensor in state.items())
    if len(plain) != len(state):
        raise ValueError(f"Expected each tensor once, got some with and without 'module.' in front in {where}.")
    return plain


def _converted(state: Mapping[str, Tensor], layout: Layout, where: str, tags: str | None) -> WeightsFile:
    """A published system's tensors as the content of a weights file, with names for its ``tags`` from a file."""
    try:
        definition = layout.define({name: tuple(tensor.shape) for name, tensor in state.items()})
    except ValueError as error:
        raise ValueError(f"{error} in {where}.") from None
    network = build_network(definition, where, device="meta")
    kept = {name: tensor for name, tensor in state.items() if layout.reason(name) is None}
    model = from_authors(kept, network, layout, where)
    recipe = replace(layout.recipe, num_slices=slices_of(network), classes=class_names(classes_of(network)))
    if tags is not None:
        recipe = replace(recipe, tags=read_tag_names(Path(tags), definition["tags"]))
    facts = {"name": layout.name, "part": "detector", "origin": layout.source, "licence": layout.licence}
    return {"model": model, "network": definition, "info": {**facts, KEY: recipe.plain()}}


def _converted_mp3d(state: Mapping[str, Tensor], where: str, *, isotropic: bool) -> WeightsFile:
    definition = infer_definition(state, where, isotropic=isotropic)
    network = build_network(definition, where, device="meta")  # only names and shapes are needed
    model = from_released(state, network, where)
    part = "detector" if len(model) == len(network.state_dict()) else "backbone"
    info = {"name": Path(where).stem, "part": part, KEY: recipe_of(network, part).plain()}
    return {"model": dict(model), "network": definition, "info": info}


def convert(
    source: str,
    target: str,
    to: str = "bundle",
    isotropic: bool = False,
    network: str | None = None,
    tags: str | None = None,
) -> None:
    """Translate a checkpoint from its authors' code, or to it.

    Args:
        source: File to read: one of the authors (``--to bundle``) or a weights file (``--to authors``).
        target: File to write; atomically.
        to: ``bundle`` or ``authors``; ``mmdet`` is another word for the latter.
        isotropic: The source is MP3D's released network with inter-slice pooling (its tensors do not show it).
        network: The system of the source if its tensors do not show it: ``tsm`` or ``alignshift``.
        tags: JSON file with the names of MULAN's tags, of its authors, such as LesaNet's
            ``text_mined_labels_171_and_split.json``. Without it tags have numbers.

    Raises:
        ValueError: If the source is not such a file, or a tensor in it is missing, left over, misshapen, of another
            type or not finite.
        FileNotFoundError: If the source file does not exist.
        OSError: If the target cannot be written.
    """
    check_convert(source, target, to, isotropic=isotropic, network=network, tags=tags)
    if to != "bundle":
        _write_authors(read_stored(source), source, target)
        return
    content = read_tensors(source)
    state = released_state(content, source)
    shapes = {name: tuple(tensor.shape) for name, tensor in state.items()}
    try:
        key = find_layout(shapes, _config_text(content), network)
    except ValueError as error:
        raise ValueError(f"{str(error).removesuffix('.')} in {source}.") from None
    if tags is not None and key != "mulan":
        raise ValueError(f"Expected a checkpoint of MULAN for --tags, got one of another system in {source}.")
    if isotropic and (key is not None or not _NEED_EVERY_SLICE.isdisjoint(state)):
        raise ValueError(f"Expected a checkpoint of MP3D with CTM for --isotropic, got another network in {source}.")
    if key is None:
        file = _converted_mp3d(state, source, isotropic=isotropic)
    else:
        file = _converted(state, LAYOUTS[key], source, tags)
    own = build_network(file["network"], source, device="meta").state_dict()
    check_values({name: own[name] for name in file["model"]}, file["model"], source)
    file["info"]["source"] = Path(source).name
    licence = licence_file(Path(source))
    if licence is not None:
        file["info"]["licence_text"] = licence.read_text(encoding="utf-8", errors="replace")
    write_atomically(file, Path(target))
    for line in _told(state, content, key):
        print(line)
    print(
        f"The text of {licence} goes with the weights."
        if licence
        else "No LICENSE lies next to the source: the weights go without its text. Put it there and convert again."
    )
    count = sum(tensor.numel() for tensor in file["model"].values())
    part = file["info"]["part"]
    kept = f"{len(file['model'])} tensors ({count:,} parameters, {part})"
    print(f"Wrote {kept} to {target}: none missing, none left over.")


def licence_file(source: Path) -> Path | None:
    """The licence next to a file: LICENSE, LICENCE or COPYING with any ending, of at most 100 kB; None without one."""
    names = re.compile(r"(licen[sc]e|copying)(\.\w+)?", re.IGNORECASE)
    found = (path for path in sorted(source.parent.iterdir()) if names.fullmatch(path.name) and path.is_file())
    return next((path for path in found if path.stat().st_size <= _LICENCE_BYTES), None)


def _told(state: Mapping[str, Tensor], content: Any, key: str | None) -> Iterator[str]:
    """Lines about what was found and what is left out of the weights file."""
    if key is None:
        yield f"Found the layout of MP3D: {len(state)} tensors."
    else:
        layout = LAYOUTS[key]
        yield f"Found the layout of {layout.name} ({layout.source}, {layout.licence}): {len(state)} tensors."
        alike = [name for name, other in LAYOUTS.items() if other.marks == layout.marks and name != key]
        if alike:
            yield f"Files of {LAYOUTS[alike[0]].name} have the same tensors: use --network {alike[0]} for such a file."
        for name in state:
            if reason := layout.reason(name):
                yield f"Left out {name}: {reason}."
    entries = [name for name in ENTRIES if isinstance(content, Mapping) and name in content]
    others = [printable(str(name)) for name in content if name not in entries] if entries else []
    if others:
        yield f"Left out of the file: {', '.join(others)}, which are not weights."


def _config_text(content: Any) -> str:
    """The text of the config that mmcv puts into a checkpoint; "" without one."""
    meta = content.get("meta") if isinstance(content, Mapping) else None
    text = meta.get("config") if isinstance(meta, Mapping) else None
    return text if isinstance(text, str) else ""


def _write_authors(content: WeightsFile, source: str, target: str) -> None:
    """Write a weights file of this bundle under its authors' names."""
    model, definition = content["model"], content["network"]
    if not isinstance(model, Mapping) or not all(isinstance(value, Tensor) for value in model.values()):
        raise ValueError(f"Expected a weights file of this bundle with tensors under 'model', got none in {source}.")
    target_name = definition.get("_target_") if isinstance(definition, Mapping) else None
    layout = next((each for each in LAYOUTS.values() if f"scripts.networks.{each.factory}" == target_name), None)
    if layout is None:
        state, entry, name = to_released(model), "state_dict", "the released code"
    else:
        state, entry, name = renamed(model, inverted(layout.rules)), layout.entry, f"{layout.name}'s authors"
    write_atomically({entry: state, "meta": {"source": Path(source).name, "info": content["info"]}}, Path(target))
    print(f"Wrote {len(state)} tensors under the names of {name} to {target}.")
    if content["info"]:
        print("Notice and recipe (scale, window, ...) are in its 'meta' alone: converted back, it has them no more.")
    if layout is None and (lost := _not_in_tensors(definition)):
        print(f"Tensors do not show these numbers of the network, give them to what reads the file: {', '.join(lost)}.")


def _not_in_tensors(definition: Any) -> list[str]:
    """The numbers of a two-stage head, other than the released code's, that tensors do not show."""
    head = definition.get("head") if isinstance(definition, Mapping) else None
    # A weights file has lists where the code has tuples.
    usual = {name: list(value) if isinstance(value, tuple) else value for name, value in vars(TwoStageHead()).items()}
    for name in ("fc_channels", "fields"):
        del usual[name]
    own = head if isinstance(head, Mapping) else {}
    return [f"{name} {own[name]}" for name, value in usual.items() if own.get(name, value) != value]
