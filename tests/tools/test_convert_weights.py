"""Checkpoints of the released code: every tensor finds its place, both ways."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from scripts.cli import command_line
from scripts.networks import FullBottleneck, ResNet3d, mp3d_fpn
from scripts.tools.convert_weights import convert, from_released, infer_definition, released_name, to_released
from scripts.training.start_weights import start_from
from scripts.weights import build_network, load_network, read_tensors, save_weights

CLASSIFIER = "roi_head.bbox_head.fc_cls."
NARROW: dict[str, Any] = {
    "_target_": "scripts.networks.mp3d_fpn",
    "num_slices": 3,
    "body": {"_target_": "scripts.networks.ResNet3d", "layers": [1, 1, 1, 1], "width": 8},
    "fpn_channels": 16,
    "head": {"_target_": "scripts.networks.TwoStageHead", "fc_channels": 32},
}
VARIANTS = {
    "mp3d63_gtm_d9": (9, "groupconv_"),
    "mp3d63_gtm_d3": (3, "groupconv_"),
    "mp3d63_gtm_d7": (7, "groupconv_"),
    "mp3d63_ctm_d9": (9, ""),
    "mp3d63_conv3d_d9": (9, "conv3d_all_"),
    "p3d63_iso_d9": (9, ""),
    "p3d63_iso_d11": (9, ""),
    "mp3d18_gtm_d9": (9, "groupconv_"),
    "mp3d18ba_ctm_d9": (9, ""),
}


@pytest.fixture(scope="module")
def released_shapes(shared: Path) -> Callable[[str], dict[str, Tensor]]:
    """Makes a state dict of the released code with the right names and shapes, on the meta device."""
    content = json.loads((shared / "reference" / "checkpoint_keys.json").read_text())
    detector = dict(content["detector_mp3d63_9_slices"])

    def make(name: str) -> dict[str, Tensor]:
        shapes = detector
        if name != "detector":
            variant = content["backbone_variants"][name]
            backbone = {key: shape for key, shape in detector.items() if key.startswith("backbone.")}
            shapes = {**backbone, **dict(variant["differs_from_detector"])}
            shapes = {key: shape for key, shape in shapes.items() if key not in variant["absent"]}
        return {key: torch.empty(shape, device="meta") for key, shape in shapes.items()}

    return make


def meta_network(state: dict[str, Tensor], **options: Any) -> torch.nn.Module:
    with torch.device("meta"):
        return build_network(infer_definition(state, "the checkpoint", **options))


def random_network(**changes: Any) -> torch.nn.Module:
    torch.manual_seed(0)
    network = build_network({**NARROW, **changes})
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter)
    return network


@pytest.fixture
def detector_file(tmp_path: Path) -> Path:
    """A released detector file as training leaves it: module names, facts, optimiser."""
    state = {f"module.{name}": tensor for name, tensor in to_released(random_network().state_dict()).items()}
    meta = {"epoch": 12, "iter": 100, "CLASSES": ("lesion",), "time": "Mon", "best_score": np.float64(0.7)}
    path = tmp_path / "mp3d.pth"
    torch.save({"meta": meta, "state_dict": state, "optimizer": {"state": {}, "param_groups": [{"lr": 0.02}]}}, path)
    return path


class TestNames:
    @pytest.mark.parametrize("name", sorted(VARIANTS))
    def test_every_backbone_variant_is_accounted_for(
        self, released_shapes: Callable[[str], dict[str, Tensor]], name: str
    ) -> None:
        state = released_shapes(name)
        num_slices, conversion = VARIANTS[name]
        network = meta_network(state, isotropic="iso" in name)
        model = from_released(state, network, name)
        assert len(model) == len(state)
        assert set(to_released(model)) == set(state)
        assert network.backbone.num_slices == num_slices  # type: ignore[union-attr]
        assert sum(f"backbone.{conversion}" in key for key in state) == (4 if conversion else len(state))
        assert (
            model[
                "backbone.body.stages.3.0.pair1.in_plane.0.weight"
                if "ba" in name
                else "backbone.body.stem.conv.0.weight"
            ].ndim
            == 5
        )

    def test_the_detector_is_accounted_for(self, released_shapes: Callable[[str], dict[str, Tensor]]) -> None:
        state = released_shapes("detector")
        network = meta_network(state)
        model = from_released(state, network, "the detector")
        assert len(state) == len(model) == len(network.state_dict()) == 241
        assert sum(tensor.numel() for tensor in model.values()) == 45_156_437
        back = to_released(model)
        assert {key: value.shape for key, value in back.items()} == {key: value.shape for key, value in state.items()}

    def test_full_size_round_trip_is_bit_for_bit(self, released_shapes: Callable[[str], dict[str, Tensor]]) -> None:
        generator = torch.Generator().manual_seed(0)
        shapes = released_shapes("detector")
        state = {
            name: torch.randint(-(2**31), 2**31 - 1, value.shape, generator=generator, dtype=torch.int32)
            for name, value in shapes.items()
        }
        back = to_released(from_released(state, meta_network(shapes), "the detector"))
        assert set(back) == set(state)
        assert all(torch.equal(back[name], state[name]) for name in state)

    def test_names_do_not_collide(self) -> None:
        state = random_network().state_dict()
        assert len({released_name(name, value.shape) for name, value in state.items()}) == len(state)

    def test_a_network_that_the_released_code_lacks_is_rejected(self) -> None:
        with torch.device("meta"):
            network = mp3d_fpn(body=ResNet3d(FullBottleneck))
        with pytest.raises(ValueError, match=r"got an unknown tensor") as caught:
            to_released(network.state_dict())
        assert "backbone.body.stages.0.0.spatial.0.weight" in str(caught.value)


class TestBackground:
    @pytest.mark.parametrize("num_classes", [1, 3, 80])
    def test_it_moves_from_the_last_place_to_the_first(self, num_classes: int) -> None:
        network = random_network(num_classes=num_classes)
        state = to_released(network.state_dict())
        for part in ("weight", "bias"):
            ours, theirs = network.state_dict()[f"roi_heads.predictor.cls_score.{part}"], state[CLASSIFIER + part]
            assert torch.equal(theirs[-1], ours[0])
            assert torch.equal(theirs[:-1], ours[1:])
        network_again = build_network(infer_definition(state, "the checkpoint"))
        assert network_again.roi_heads.predictor.num_classes == num_classes  # type: ignore[union-attr]
        model = from_released(state, network_again, "the checkpoint")
        assert all(torch.equal(value, model[name]) for name, value in network.state_dict().items())

    def test_lesion_scores_stay_lesion_scores(self) -> None:
        """A released head that is sure of the lesion (its first row) must be one here too."""
        network = random_network().eval()
        state = to_released(network.state_dict())
        state[CLASSIFIER + "weight"].zero_()
        state[CLASSIFIER + "bias"] = torch.tensor([5.0, 0.0])
        network.load_state_dict(from_released(state, network, "the checkpoint"))
        logits, _ = network.roi_heads.predictor(torch.zeros(1, 32))  # type: ignore[union-attr, operator]
        assert logits.tolist() == [[0.0, 5.0]]


class TestProblems:
    def test_missing_left_over_and_misshapen_are_named(self) -> None:
        network = random_network()
        state = to_released(network.state_dict())
        del state["neck.fpn_convs.2.conv.bias"]
        state["neck.fpn_convs.9.conv.bias"] = torch.zeros(1)
        state["rpn_head.rpn_cls.bias"] = torch.zeros(5)
        with pytest.raises(ValueError, match=r"every tensor is used, a\.pth") as caught:
            from_released(state, network, "a.pth")
        for part in (
            "missing: neck.fpn_convs.2.conv.bias",
            "left over: neck.fpn_convs.9.conv.bias",
            "rpn_head.rpn_cls.bias: expected shape (3,), got (5,)",
        ):
            assert part in str(caught.value)

    def test_a_long_list_is_cut(self) -> None:
        network = random_network()
        state = {name: value for name, value in to_released(network.state_dict()).items() if "neck" not in name}
        with pytest.raises(ValueError, match="and 11 more"):
            from_released(state, network, "a.pth")

    @pytest.mark.parametrize(
        ("content", "message"),
        [
            ({"state_dict": {"conv1.weight": torch.zeros(1)}}, r"'backbone.conv1_custom'.*got \['conv1.weight'\]"),
            ({"state_dict": {"backbone.conv1_custom.weight": torch.zeros(1)}}, "stages 'backbone.layer1'"),
            ({"state_dict": {}}, "tensors under 'state_dict'"),
            ({"state_dict": 3}, "tensors under 'state_dict', got int"),
            ({"state_dict": {"a": 3}}, "dict of tensors, got int as 'a'"),
            ([1], "tensors under 'state_dict'"),
        ],
    )
    def test_another_file_is_rejected_and_nothing_is_written(self, tmp_path: Path, content: Any, message: str) -> None:
        torch.save(content, tmp_path / "a.pth")
        with pytest.raises(ValueError, match=message) as caught:
            convert(str(tmp_path / "a.pth"), str(tmp_path / "out" / "b.pt"))
        assert "a.pth" in str(caught.value)
        assert not (tmp_path / "out").exists()

    def test_an_even_number_of_slices_is_rejected(self) -> None:
        state = to_released(random_network().state_dict())
        state["backbone.groupconv_1.weight"] = torch.zeros(32, 4, 1, 1)
        with pytest.raises(ValueError, match="odd number of slices"):
            build_network(infer_definition(state, "a.pth"), "a.pth")

    def test_numbers_that_tensors_do_not_show_are_named(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        head = {"_target_": "scripts.networks.TwoStageHead", "anchor_scale": 2.0, "fc_channels": 8, "proposals": 1000}
        head["anchor_ratios"] = [0.5, 1.0, 2.0]
        definition = {"_target_": "scripts.networks.mp3d_fpn", "head": head}
        torch.save({"model": {}, "network": definition}, tmp_path / "a.pt")
        convert(str(tmp_path / "a.pt"), str(tmp_path / "b.pth"), to="authors")
        assert capsys.readouterr().out.endswith("give them to what reads the file: anchor_scale 2.0.\n")

    def test_the_direction_is_checked(self, tmp_path: Path) -> None:
        with pytest.raises(ValueError, match="--to bundle or --to authors, got 'onnx'"):
            convert("a", "b", to="onnx")
        torch.save({"state_dict": {}}, tmp_path / "a.pth")
        with pytest.raises(ValueError, match="tensors under 'model'"):
            convert(str(tmp_path / "a.pth"), "b", to="mmdet")
        with pytest.raises(FileNotFoundError, match=r"none\.pth"):
            convert(str(tmp_path / "none.pth"), "b")


class TestFiles:
    def test_a_detector_and_back_is_bit_for_bit(self, detector_file: Path, tmp_path: Path) -> None:
        ours, theirs = tmp_path / "model.pt", tmp_path / "back.pth"
        convert(str(detector_file), str(ours))
        network, info = load_network(ours)
        assert (info["name"], info["part"]) == ("mp3d", "detector")
        expected = random_network().state_dict()
        assert all(torch.equal(value, expected[name]) for name, value in network.state_dict().items())
        convert(str(ours), str(theirs), to="mmdet")
        before, after = (read_tensors(path)["state_dict"] for path in (detector_file, theirs))
        assert {name.removeprefix("module.") for name in before} == set(after)
        assert all(torch.equal(value, after[name.removeprefix("module.")]) for name, value in before.items())

    def test_what_only_the_bundle_reads_is_kept_and_said(
        self, detector_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        ours, theirs = tmp_path / "model.pt", tmp_path / "theirs.pth"
        convert(str(detector_file), str(ours))
        content = read_tensors(ours)
        content["info"]["notice"] = "For tests."
        torch.save(content, ours)
        convert(str(ours), str(theirs), to="authors")
        assert "Notice and recipe (scale, window, ...) are in its 'meta' alone" in capsys.readouterr().out
        assert read_tensors(theirs)["meta"] == {"source": "model.pt", "info": content["info"]}

    def test_a_backbone_alone(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        source = random_network()
        state = {
            name: value for name, value in to_released(source.state_dict()).items() if name.startswith("backbone.")
        }
        torch.save({"state_dict": state}, tmp_path / "a.pth")
        convert(str(tmp_path / "a.pth"), str(tmp_path / "b.pt"))
        assert f"{len(state)} tensors" in capsys.readouterr().out
        network = build_network({**NARROW, "fpn_channels": 8})
        start_from(network, tmp_path / "b.pt")
        for name, value in source.state_dict().items():
            if name.startswith(("backbone.body", "backbone.conversions")):
                assert torch.equal(network.state_dict()[name], value)

    def test_a_bare_state_dict(self, tmp_path: Path) -> None:
        torch.save(dict(to_released(random_network().state_dict())), tmp_path / "a.pth")
        convert(str(tmp_path / "a.pth"), str(tmp_path / "b.pt"))
        assert load_network(tmp_path / "b.pt")[1]["part"] == "detector"

    def test_isotropic_pooling_is_told_by_the_caller(self, tmp_path: Path) -> None:
        crop = {"_target_": "scripts.networks.CenterCrop", "_mode_": "callable"}
        torch.save({"state_dict": to_released(random_network(conversion=crop).state_dict())}, tmp_path / "a.pth")
        convert(str(tmp_path / "a.pth"), str(tmp_path / "b.pt"), isotropic=True)
        network, _ = load_network(tmp_path / "b.pt")
        depths = [level.shape[2] for level in network.backbone.body(torch.zeros(1, 1, 9, 32, 32))]  # type: ignore[union-attr, operator]
        assert depths == [5, 3, 1, 1]

    @pytest.mark.parametrize("kind", [None, "FullTransform"])
    def test_isotropic_pooling_goes_with_the_key_slice_alone(self, kind: str | None, tmp_path: Path) -> None:
        part = {} if kind is None else {"conversion": {"_target_": f"scripts.networks.{kind}", "_mode_": "callable"}}
        torch.save({"state_dict": to_released(random_network(**part).state_dict())}, tmp_path / "a.pth")
        with pytest.raises(ValueError, match=r"MP3D with CTM for --isotropic, got another network in .*a\.pth"):
            convert(str(tmp_path / "a.pth"), str(tmp_path / "b.pt"), isotropic=True)
        assert not (tmp_path / "b.pt").exists()

    def test_from_the_command_line(
        self, detector_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        words = ["--source", str(detector_file), "--target", str(tmp_path / "model.pt")]
        command_line("tools.convert_weights", "convert", words)
        assert "none missing, none left over" in capsys.readouterr().out
        assert (tmp_path / "model.pt").is_file()

    def test_the_command_ends_in_one_line_on_an_error(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        save_weights(tmp_path / "last.pt", random_network(), NARROW, {})
        arguments = ["--source", str(tmp_path / "last.pt"), "--target", str(tmp_path / "no.pt")]
        monkeypatch.setattr(sys, "argv", ["convert_checkpoint", *arguments])
        with pytest.raises(SystemExit) as caught:
            command_line("tools.convert_weights", "convert")
        message = str(caught.value.code)
        assert message.startswith("Error: Expected")
        assert "last.pt" in message
        assert "\n" not in message
        assert not (tmp_path / "no.pt").exists()
