"""docs/export.md, "Which networks": every network of the field becomes one file, or one line says why it does not."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from monai.bundle import ConfigParser
from torch import nn

from scripts.tools.export_detector import export
from scripts.weights import build_network, save_weights

# TorchScript is old and what MONAI Deploy reads; see docs/export.md.
pytestmark = pytest.mark.filterwarnings("ignore:.*torch.jit")
CONFIGS = Path(__file__).resolve().parents[1] / "mp3d_bundle" / "configs"
EXPORTED = [
    *(("size_narrow", each) for each in ("slices_3", "conversion_ctm", "pooling_isotropic", "backbone_mr3d")),
    *(("size_narrow", each) for each in ("pairs_a3d", "fpn_3dce_3", "fpn_3dce_9", "fpn_3dce_27")),
]
LAST_PIXEL = r"half-open boxes, got one whose boxes count their last pixel"
MASKS = r"got one with the further heads masks, which the graph does not return"
TWO_STAGE = r"weights of the two-stage detector, got a \w+ in "
NOT_EXPORTED = [
    *((each, "narrow_3dce", LAST_PIXEL) for each in ("3dce_3", "3dce_27", "3dce_rfcn", "3dce_faster_rcnn")),
    ("msb", "narrow_msb", LAST_PIXEL),
    *((each, "narrow_mvpnet", LAST_PIXEL) for each in ("mvpnet_3", "mvpnet_9")),
    ("mulan", "narrow_dense", LAST_PIXEL),
    *((each, "narrow_dense", MASKS) for each in ("alignshift", "tsm", "a3d")),
    ("satr", "narrow_satr", MASKS),
    *(("size_narrow", each, TWO_STAGE) for each in ("retinanet_3", "retinanet_masks", "head_retinanet")),
]


def plain(parser: ConfigParser, node: Any) -> Any:
    """A part of a config with its references resolved to values."""
    if isinstance(node, dict):
        return {name: plain(parser, each) for name, each in node.items()}
    if isinstance(node, list):
        return [plain(parser, each) for each in node]
    return plain(parser, parser[node[1:]]) if isinstance(node, str) and node.startswith("@") else node


def weights(path: Path, *overlays: str, **changes: Any) -> str:
    files = [CONFIGS / "train.json", *(CONFIGS / "variants" / f"{name}.yaml" for name in overlays)]
    parser = ConfigParser(ConfigParser.load_config_files([str(file) for file in files]))
    definition = {**plain(parser, parser["network_def"]), **changes}
    torch.manual_seed(0)
    network: Any = build_network(definition)
    with torch.no_grad():  # spread scores, so that rounding does not reorder boxes
        for part in (network.rpn.head, network.roi_heads.predictor) if hasattr(network, "rpn") else ():
            assert isinstance(part, nn.Module)
            for parameter in part.parameters():
                parameter.add_(torch.randn_like(parameter) * 0.05)
    return str(save_weights(path / "w.pt", network, definition, {}))


@pytest.mark.slow
@pytest.mark.parametrize("overlays", EXPORTED, ids=lambda overlays: overlays[-1])
@pytest.mark.parametrize("form", ["torch", "onnx"])
def test_a_network_becomes_one_file_that_agrees(
    tmp_path: Path, form: str, overlays: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    export(weights(tmp_path, *overlays), str(tmp_path / "out"), form)
    assert re.search(r"^Wrote .*out .*: same boxes to \S+ pixels", capsys.readouterr().out)


@pytest.mark.parametrize(("first", "second", "message"), NOT_EXPORTED)
def test_a_network_that_does_not_ends_in_one_line(tmp_path: Path, first: str, second: str, message: str) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        export(weights(tmp_path, first, second), str(tmp_path / "out"))
    assert "\n" not in str(caught.value)
    assert [each.name for each in tmp_path.iterdir()] == ["w.pt"]


def test_without_masks_the_last_pixel_still_counts(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=LAST_PIXEL):
        export(weights(tmp_path, "tsm", "narrow_dense", masks=False), str(tmp_path / "out"))


def test_the_page_lists_every_network(bundle_root: Path) -> None:
    page = (bundle_root / "docs" / "export.md").read_text()
    table = page.partition("## Which networks")[2].partition("\n\n- ")[0]
    rows = [line.strip("|").split("|") for line in table.splitlines() if line.startswith("| ")][1:]
    listed = {name: row[1].strip() for row in rows for name in re.findall(r"`(\w+\*?)`", row[0])}
    yes = {overlays[-1] for overlays in EXPORTED} - {"slices_3"} | {"slices_*"}
    no = {name for pair in NOT_EXPORTED for name in pair[:2] if "narrow" not in name}
    assert {name for name, said in listed.items() if said == "yes"} == yes
    assert {name for name, said in listed.items() if said == "no"} == no
