"""Parameters and operations: the published figures, without computing anything."""

from __future__ import annotations

import re
from ast import literal_eval
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from scripts.networks import (
    CenterCrop,
    FullBottleneck,
    PseudoBasicBlock,
    ResNet3d,
    Stem,
    a3d,
    isotropic_pools,
    mp3d_fpn,
    mp3d_retinanet,
    mulan,
    slice_attention,
)
from scripts.tools import count_operations as module
from scripts.tools.count_operations import PROPOSALS, REST, Row, complexity, main, table


def mr3d() -> nn.Module:
    return mp3d_fpn(body=ResNet3d(FullBottleneck, stem=lambda channels, norm: Stem(channels, norm, depth=7)))


def totals(rows: list[Row]) -> tuple[int, float]:
    return sum(row.parameters for row in rows), sum(row.macs for row in rows) / 1e9


@pytest.mark.parametrize(
    ("build", "parameters", "published"),
    [
        (lambda: mp3d_fpn(5), 45_141_077, 156.84),
        (lambda: mp3d_fpn(7), 45_148_757, 202.88),
        (lambda: mp3d_fpn(9), 45_156_437, 248.93),
        (lambda: mp3d_fpn(11), 45_164_117, 294.97),
        (mr3d, 64_029_781, 415.81),
    ],
    ids=["MP3D 5", "MP3D 7", "MP3D 9", "MP3D 11", "MR3D 9"],
)
def test_published_figures(build: Callable[[], nn.Module], parameters: int, published: float) -> None:
    counted, macs = totals(complexity(build))
    assert counted == parameters
    assert macs == pytest.approx(published, abs=0.01)


@pytest.mark.parametrize(
    ("build", "expected"),
    [
        (
            mp3d_fpn,
            {
                "stem": 1.850,
                "layer1": 36.843,
                "layer2": 51.942,
                "layer3": 76.101,
                "layer4": 39.863,
                "conversion to 2D": 0.0708,
                "FPN lateral": 2.013,
                "FPN output": 12.835,
                "RPN": 12.956,
                "RoI head": 13.900,
                "norms": 0,
                REST: 0.554,
            },
        ),
        (mr3d, {"stem": 12.948, "layer1": 64.022, "layer2": 91.805, "layer3": 134.084, "layer4": 70.666, REST: 0.514}),
    ],
    ids=["MP3D", "MR3D"],
)
def test_components(build: Callable[[], nn.Module], expected: dict[str, float]) -> None:
    macs = {row.component: row.macs / 1e9 for row in complexity(build)}
    assert {name: macs[name] for name in expected} == pytest.approx(expected, abs=6e-4)


def test_components_share_out_every_parameter() -> None:
    parameters = {row.component: row.parameters for row in complexity(mp3d_fpn)}
    assert "other" not in parameters
    assert (parameters["conversion to 2D"], parameters["norms"]) == (34_560, 60_672)
    assert sum(parameters.values()) - parameters["RPN"] - parameters["RoI head"] == 30_660_672


@pytest.mark.parametrize(
    "build",
    [
        lambda: mp3d_fpn(3, 2, conversion=CenterCrop),
        lambda: mp3d_fpn(
            3, body=ResNet3d(PseudoBasicBlock, (2, 2, 2, 2), stage_pools=isotropic_pools()), conversion=CenterCrop
        ),
        lambda: mp3d_retinanet(3, fpn_channels=64),
        lambda: mp3d_fpn(3, body=ResNet3d(layers=(1, 1, 1, 1), width=8, slice_pairs=3)),
        lambda: a3d(3, growth=8, channels=16, fc_channels=32),
        lambda: slice_attention(3, growth=8, channels=16, fc_channels=32, embedding=24),
        lambda: mulan(9, tags=5, growth=8, channels=16, fc_channels=32, extras=["patient"]),
    ],
    ids=["centre crop", "basic blocks", "one stage", "slice pairs", "A3D", "SATr", "MULAN"],
)
def test_products_are_those_that_torch_counts(build: Callable[[], nn.Module]) -> None:
    counted = sum(row.macs for row in complexity(build, 128) if row.component != REST)
    with torch.device("meta"), FlopCounterMode(display=False) as counter:
        module._run(build(), 128)
    assert counted * 2 == counter.get_total_flops()


def test_a_centre_crop_costs_nothing() -> None:
    rows = {row.component for row in complexity(lambda: mp3d_fpn(conversion=CenterCrop), 64)}
    assert "conversion to 2D" not in rows


def test_the_second_stage_costs_the_same_at_any_size() -> None:
    small, large = ({row.component: row.macs for row in complexity(mp3d_fpn, size)} for size in (32, 64))
    assert small["RoI head"] == large["RoI head"] == PROPOSALS * (12544 * 1024 + 1024 * 1024 + 6 * 1024)
    assert large["layer1"] == 4 * small["layer1"]


@pytest.mark.parametrize("size", [0, 500, -32])
def test_sizes_are_multiples_of_32(size: int) -> None:
    with pytest.raises(ValueError, match="multiple of 32"):
        complexity(mp3d_fpn, size)


def test_only_detectors_are_counted() -> None:
    with pytest.raises(ValueError, match=r"detector of scripts\.networks, got Linear"):
        complexity(lambda: nn.Linear(2, 2))


def test_the_table_ends_in_the_total() -> None:
    last = table([Row("a", 1000, 2_000_000_000), Row("b", 234, 500_000_000)]).splitlines()[-1]
    assert last.split() == ["total", "1,234", "2.500"]


def test_the_method_document_shows_this_table(bundle_root: Path) -> None:
    assert table(complexity(mp3d_fpn)) in (bundle_root / "docs" / "method.md").read_text()


VARIANT_ROW = re.compile(
    r"^\| .* \| ([\d,]+) \| ([\d.]+) \| .* \| `python -m scripts.complexity --config_file \"(.*)\"` \|$", re.M
)


def test_the_method_documents_figures_of_variants(bundle_root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(bundle_root)
    rows = VARIANT_ROW.findall((bundle_root / "docs" / "method.md").read_text())
    assert len(rows) >= 7
    for parameters, macs, files in rows:
        counted = totals(complexity(module._configured(literal_eval(files), None)))
        assert f"{counted[0]:,}" == parameters, files
        assert f"{counted[1]:.3f}" == macs, files


class TestCommandLine:
    def total(self, capsys: pytest.CaptureFixture[str], **arguments: Any) -> list[str]:
        main(**arguments)
        return capsys.readouterr().out.splitlines()[-1].split()

    def test_defaults_to_the_paper(self, capsys: pytest.CaptureFixture[str]) -> None:
        assert self.total(capsys) == ["total", "45,156,437", "248.928"]
        assert self.total(capsys, num_slices=5) == ["total", "45,141,077", "156.839"]
        assert self.total(capsys, conversion="ctm")[1] == "45,121,877"

    def test_reads_a_config_and_its_overlays(
        self, capsys: pytest.CaptureFixture[str], bundle_root: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.chdir(bundle_root)
        assert self.total(capsys, config_file="configs/train.json") == ["total", "45,156,437", "248.928"]
        assert self.total(capsys, config_file="configs/train.json", num_slices=7)[1] == "45,148,757"
        files = ["configs/train.json", "configs/variants/head_retinanet.yaml"]
        assert self.total(capsys, config_file=files)[1] == "35,489,133"
        files[1] = "configs/variants/backbone_mr3d.yaml"
        assert self.total(capsys, config_file=files) == ["total", "64,029,781", "415.813"]

    @pytest.mark.parametrize(
        ("overlay", "figures"),
        [
            ("msb", ["43,209,750", "96.195"]),
            ("mvpnet_3", ["79,118,733", "149.150"]),
            ("mvpnet_9", ["157,173,741", "445.143"]),
            ("3dce_3", ["17,195,150", "109.086"]),
            ("3dce_27", ["25,223,310", "942.167"]),
            ("3dce_rfcn", ["16,431,748", "109.138"]),
            ("3dce_faster_rcnn", ["71,516,836", "162.630"]),
        ],
    )
    def test_counts_the_other_published_networks(
        self,
        capsys: pytest.CaptureFixture[str],
        bundle_root: Path,
        monkeypatch: pytest.MonkeyPatch,
        overlay: str,
        figures: list[str],
    ) -> None:
        monkeypatch.chdir(bundle_root)
        files = ["configs/train.json", f"configs/variants/{overlay}.yaml"]
        assert self.total(capsys, config_file=files) == ["total", *figures]
        assert " | ".join(figures) in (bundle_root / "docs" / "method.md").read_text()

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            ({"num_slices": 4}, "odd number of slices.*got 4"),
            ({"conversion": "gap"}, "--conversion gtm or ctm, got 'gap'"),
            ({"conversion": "ctm", "config_file": "a.json"}, "got both"),
            ({"config_file": "none.json"}, r"none\.json"),
            ({"size": 100}, "multiple of 32"),
        ],
    )
    def test_errors_are_one_line(self, arguments: dict[str, Any], message: str) -> None:
        with pytest.raises((ValueError, OSError), match=message) as caught:
            main(**arguments)
        assert "\n" not in str(caught.value)

    def test_a_config_without_a_network_is_rejected(self, tmp_path: Path) -> None:
        (tmp_path / "a.json").write_text("{}")
        with pytest.raises(ValueError, match=r"network_def, got none in .*a\.json"):
            main(config_file=str(tmp_path / "a.json"))
