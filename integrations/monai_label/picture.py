"""Draw the markups returned by a running server on their scan: the figure of docs/monai_label.md.

    ../.venv/bin/python ../integrations/monai_label/picture.py SCAN IMAGE TARGET [SERVER]

Run from the bundle's folder, in the project's own environment: SCAN is the file, IMAGE its id on the server.
"""

from __future__ import annotations

import sys
import tempfile
import urllib.request
import uuid
from pathlib import Path

import matplotlib

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "mp3d_bundle"))
matplotlib.use("Agg")
import json

import matplotlib.pyplot as plt
from matplotlib.patches import Rectangle

from scripts.data.scans.markup_boxes import boxes_in_scan, read_markups
from scripts.data.scans.scan import read_scan


def ask(server: str, image: str, threshold: float) -> bytes:
    """The markups of one image."""
    boundary = uuid.uuid4().hex
    form = f'--{boundary}\r\nContent-Disposition: form-data; name="params"\r\n\r\n'
    form += json.dumps({"score_threshold": threshold}) + f"\r\n--{boundary}--\r\n"
    request = urllib.request.Request(
        f"{server}/infer/mp3d_bundle?image={image}&output=image",
        data=form.encode(),
        headers={"Content-Type": f"multipart/form-data; boundary={boundary}"},
    )
    with urllib.request.urlopen(request) as answer:
        return answer.read()


def main(scan_path: str, image: str, target: str, server: str = "http://127.0.0.1:8000") -> None:
    """Request markups, read them as a file, and draw the slices through the first three boxes."""
    content = ask(server, image, threshold=0.95)
    with tempfile.NamedTemporaryFile(suffix=".mrk.json") as file:
        file.write(content)
        file.flush()
        corners = read_markups(file.name)
    markups = [markup for markup in json.loads(content)["markups"] if markup["type"] == "ROI"]
    scan = read_scan(scan_path)
    boxes = boxes_in_scan(scan, corners, image)
    figure, axes = plt.subplots(1, 3, figsize=(12, 4.4), layout="constrained")
    for axis, (_, _, low, _, _, high) in zip(axes, boxes, strict=False):
        key = int((low + high) / 2)
        axis.imshow(scan.hu[key], cmap="gray", vmin=-175, vmax=275, extent=(0, scan.hu.shape[2], scan.hu.shape[1], 0))
        axis.set_title(f"slice {key + 1} of {len(scan.hu)}", fontsize=10)
        axis.set_axis_off()
        for (x1, y1, z1, x2, y2, z2), markup in zip(boxes, markups, strict=True):
            if z1 <= key + 0.5 <= z2:
                axis.add_patch(Rectangle((x1, y1), x2 - x1, y2 - y1, fill=False, edgecolor="gold", linewidth=1.5))
                axis.text(x1, y1 - 1, markup["name"], color="gold", fontsize=8)
    figure.suptitle(f"{image}: markups as returned by the server. {markups[0]['description'].split('. ', 1)[1]}",
                    fontsize=8, wrap=True)  # fmt: skip
    figure.savefig(target, dpi=100)


if __name__ == "__main__":
    main(*sys.argv[1:])
