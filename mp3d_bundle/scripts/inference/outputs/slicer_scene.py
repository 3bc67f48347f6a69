"""Lesions as a scene of 3D Slicer: one file to drag, with boxes in a folder, a table, and a label map with colours.

A scene reads one markup from each file, so every box, outline and axis has a file of its own in ``markups``. Names of
nodes and attributes are those of Slicer's MRML library.
"""

from __future__ import annotations

import colorsys
import xml.etree.ElementTree as ET
from collections.abc import Mapping
from typing import Any

from ...storage.atomic_files import table_text
from ..detections import ScanResult
from .label_map import label_map
from .measurements import tags_text
from .named_classes import classes_in
from .slicer_nodes import markup_nodes, markups_file
from .source_names import image_text

_SCENE, _COLOURS, _TABLE = "lesions.mrml", "lesion_colours.ctbl", "lesion_table.tsv"
_MARKUPS = "markups"
# Neighbours in a row of hues that never repeats differ as much as possible.
_GOLDEN = 0.618034
# Parts of Slicer's tree by the kind of node.
_TREE = {"LabelMapVolume": "LabelMaps", "Table": "Tables"}


def slicer_scene(result: ScanResult) -> dict[str, bytes]:
    """Write the lesions of a scan as a scene.

    Args:
        result: The results of the scan.

    Returns:
        ``lesions.mrml``, and what it reads: ``lesion_colours.ctbl``, ``lesion_table.tsv``, ``lesion_boxes.nii.gz`` and
        ``markups/lesion_NNN_N.mrk.json``.
    """
    labels = label_map(result)
    files = {**labels, _COLOURS: _colours(result), _TABLE: _table(result)}
    scene = _Scene(_notice(result))
    count: dict[int, int] = {}
    for lesion, node in markup_nodes(result):
        count[lesion] = count.get(lesion, 0) + 1
        path = f"{_MARKUPS}/lesion_{lesion:03d}_{count[lesion]}.mrk.json"
        files[path] = markups_file(result, [node])
        storage = "MarkupsROIJsonStorage" if node["type"] == "ROI" else "MarkupsJsonStorage"
        display = "MarkupsROIDisplay" if node["type"] == "ROI" else "MarkupsDisplay"
        colour = " ".join(f"{part:.4f}" for part in _colour(lesion))
        scene.add(f"Markups{node['type']}", str(node["name"]), storage=(storage, path),
                  display=(display, {"color": colour, "selectedColor": colour, "visibility": "true"}))  # fmt: skip
    table = scene.node("ColorTable", "Lesion colours", storage=("ColorTableStorage", _COLOURS))
    scene.add("LabelMapVolume", "Lesion boxes", storage=("VolumeArchetypeStorage", next(iter(labels))),
              display=("LabelMapVolumeDisplay", {"references": f"color:{table};"}))  # fmt: skip
    scene.add("Table", "Lesions", storage=("TableStorage", _TABLE))
    return {_SCENE: scene.content(), **files}


class _Scene:
    """The nodes of a scene and their place in the tree of its data."""

    def __init__(self, notice: str) -> None:
        self._root = ET.Element("MRML", version="Slicer5.0.3", userTags="")
        self._root.append(ET.Comment(f" {notice.replace('--', '- -')} "))
        self._counts: dict[str, int] = {}
        self._tree = ET.Element("SubjectHierarchy", id="vtkMRMLSubjectHierarchyNode1", name="SubjectHierarchy",
                                attributes="SubjectHierarchyVersion:2")  # fmt: skip
        top = _item(self._tree, {"id": "1", "name": "Scene", "parent": "0", "type": "", "attributes": "Level^Scene|"})
        folder = {"id": "2", "name": f"Lesions. {notice}", "parent": "1", "type": "Folder"}
        self._folder = _item(top, {**folder, "attributes": "Level^Folder|"})

    def node(
        self,
        tag: str,
        name: str,
        *,
        storage: tuple[str, str],
        display: tuple[str, Mapping[str, str]] | None = None,
    ) -> str:
        """Add a node with what stores and what shows it, and return its id."""
        references = ""
        for role, kind, attributes in (
            *(() if display is None else (("display", display[0], dict(display[1])),)),
            ("storage", storage[0], {"fileName": storage[1]}),
        ):
            other = self._element(kind, f"{name} {role}", attributes)
            references += f"{role}:{other};"
        return self._element(tag, name, {"references": references})

    def add(self, tag: str, name: str, **parts: Any) -> None:
        """Add a node as `node` does, and show it in the folder."""
        item = {"id": str(len(self._folder) + 3), "dataNode": self.node(tag, name, **parts), "parent": "2"}
        _item(self._folder, {**item, "type": _TREE.get(tag, "Markups")})

    def _element(self, tag: str, name: str, attributes: Mapping[str, str]) -> str:
        self._counts[tag] = self._counts.get(tag, 0) + 1
        number = f"vtkMRML{tag}Node{self._counts[tag]}"
        ET.SubElement(self._root, tag, {"id": number, "name": name, **attributes})
        return number

    def content(self) -> bytes:
        """The file."""
        self._root.append(self._tree)
        ET.indent(self._root)
        return ET.tostring(self._root, encoding="utf-8", xml_declaration=True) + b"\n"


def _item(above: ET.Element, attributes: dict[str, str]) -> ET.Element:
    """An item of the tree, expanded."""
    return ET.SubElement(above, "SubjectHierarchyItem", {**attributes, "expanded": "true"})


def _notice(result: ScanResult) -> str:
    """All notices in one line; XML has no place for control characters, and weights are untrusted."""
    return "".join(letter if letter.isprintable() else " " for letter in " ".join(result.notices))


def _colour(lesion: int) -> tuple[float, float, float]:
    return colorsys.hsv_to_rgb((lesion * _GOLDEN) % 1, 0.75, 1.0)


def _colours(result: ScanResult) -> bytes:
    """The colour of each value of the label map; names have no spaces."""
    lines = [f"# {_notice(result)}", "0 Background 0 0 0 0"]
    for entry in result.entries:
        red, green, blue = (round(255 * part) for part in _colour(entry["lesion"]))
        lines.append(f"{entry['lesion']} Lesion_{entry['lesion']} {red} {green} {blue} 255")
    return ("\n".join(lines) + "\n").encode()


def _table(result: ScanResult) -> bytes:
    """A row for each lesion, in words and numbers as a reader wants them."""
    kind = [] if classes_in(result.document) is None else ["class"]
    rows: list[list[Any]] = [["lesion", *kind, "score", "long axis mm", "short axis mm", "axes from", "volume ml",
                              "volume from", "region", "slice", "image", "tags", "notice"]]  # fmt: skip
    notice = _notice(result)
    for entry in result.entries:
        axes, volume, first = entry["axes"], entry["volume"], [entry[name] for name in ("lesion", *kind)]
        image = image_text(entry).removeprefix(", ").removeprefix("image ")
        rows.append([*first, f"{entry['score']:.4f}", axes["long_axis_mm"], axes["short_axis_mm"], axes["source"],
                     volume["estimate_ml"], volume["source"], entry["region"]["name"], entry["key_slice"], image,
                     tags_text(entry).lstrip(", "), notice])  # fmt: skip
    return table_text(rows, "excel-tab").encode()
