"""Weights files: what goes in comes out, and nothing else does."""

from __future__ import annotations

import errno
import os
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from scripts import weights
from scripts.storage.atomic_files import sha256
from support.clean_processes import python

DEFINITION: dict[str, Any] = {
    "_target_": "scripts.networks.mp3d_fpn",
    "num_slices": 3,
    "body": {"_target_": "scripts.networks.ResNet3d", "layers": [1, 1, 1, 1], "width": 8},
    "fpn_channels": 16,
    "head": {"_target_": "scripts.networks.TwoStageHead", "anchor_scale": 2.0, "fc_channels": 32},
}
CENTRE_CROP = {"_target_": "scripts.networks.CenterCrop", "_mode_": "callable"}


def build(**changes: Any) -> nn.Module:
    torch.manual_seed(0)
    return weights.build_network({**DEFINITION, **changes})


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    return weights.save_weights(tmp_path / "model.pt", build(), DEFINITION, {"name": "small", "epoch": 3})


class TestRoundTrip:
    def test_network_and_facts_come_back(self, saved: Path) -> None:
        network, info = weights.load_network(saved)
        assert not network.training
        expected = build().state_dict()
        assert list(network.state_dict()) == list(expected)
        assert all(torch.equal(value, expected[name]) for name, value in network.state_dict().items())
        assert info == {"name": "small", "epoch": 3, "path": str(saved), "sha256": sha256(saved)}

    def test_detections_are_the_same(self, saved: Path) -> None:
        slabs = torch.randn(1, 3, 64, 64)
        (before,), (after,) = build().eval()(slabs), weights.load_network(saved)[0](slabs)
        assert all(torch.equal(before[key], after[key]) for key in before)

    def test_folder_is_made_and_nothing_else_is_left(self, tmp_path: Path) -> None:
        path = weights.save_weights(tmp_path / "a" / "b" / "model.pt", build(), DEFINITION, {})
        assert [entry.name for entry in path.parent.iterdir()] == ["model.pt"]


def write_facts(path: str | Path) -> None:
    """Weights with texts that are equal but not one object."""
    facts = {"name": "".join(["sm", "all"]), "other": "small", "notes": ["name", {"name": 1}]}
    weights.save_weights(path, build(), DEFINITION, facts)


class TestAtomicity:
    @pytest.mark.parametrize(
        ("failure", "message"),
        [
            (RuntimeError("PytorchStreamWriter failed writing file data/0: file write failed"), "Cannot write"),
            (OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)), "No space left"),
        ],
    )
    def test_a_failed_write_leaves_the_old_file(
        self, saved: Path, monkeypatch: pytest.MonkeyPatch, failure: Exception, message: str
    ) -> None:
        before = saved.read_bytes()

        def full_disk(content: Any, file: Any) -> None:
            del content
            file.write(b"half")
            raise failure

        monkeypatch.setattr(torch, "save", full_disk)
        with pytest.raises(OSError, match=message):
            weights.save_weights(saved, build(), DEFINITION, {})
        assert saved.read_bytes() == before
        assert [entry.name for entry in saved.parent.iterdir()] == ["model.pt"]

    def test_equal_weights_give_equal_bytes_whichever_process_writes_them(self, tmp_path: Path) -> None:
        code = "import sys; sys.path[:0] = sys.argv[2:]; import test_weights; test_weights.write_facts(sys.argv[1])"
        folders = [str(Path(__file__).parent), str(Path(weights.__file__).parents[1])]
        done = python("-c", code, tmp_path / "other.pt", *folders, cwd=Path(folders[1]))
        assert done.returncode == 0, done.stderr
        write_facts(tmp_path / "own.pt")
        weights.write_atomically(weights.read_tensors(tmp_path / "own.pt"), tmp_path / "again.pt")
        assert len({sha256(path) for path in tmp_path.iterdir()}) == 1

    def test_a_view_takes_no_more_into_the_file_than_it_shows(self, tmp_path: Path) -> None:
        weights.write_atomically({"model": {"a": torch.zeros(1_000_000)[:3]}}, tmp_path / "a.pt")
        assert (tmp_path / "a.pt").stat().st_size < 3000

    def test_an_unfit_definition_writes_nothing(self, tmp_path: Path) -> None:
        with pytest.raises(ValueError, match="'@num_slices'"):
            weights.save_weights(tmp_path / "model.pt", build(), {**DEFINITION, "num_slices": "@num_slices"}, {})
        assert list(tmp_path.iterdir()) == []


class TestReading:
    def test_a_missing_file_says_how_to_get_one(self, tmp_path: Path) -> None:
        with pytest.raises(FileNotFoundError, match=r"none\.pt.*models/README\.md"):
            weights.load_network(tmp_path / "none.pt")

    def test_pickled_code_is_named_and_never_run(self, tmp_path: Path) -> None:
        class Malicious:
            def __reduce__(self) -> tuple[Any, ...]:
                return os.mkdir, (str(tmp_path / "broken into"),)

        path = tmp_path / "model.pt"
        torch.save({"model": {}, "network": DEFINITION, "info": Malicious()}, path)
        with pytest.raises(
            ValueError, match=rf"tensors and plain values only.*model\.pt.*{os.mkdir.__module__}\.mkdir"
        ):
            weights.load_network(path)
        assert not (tmp_path / "broken into").exists()

    @pytest.mark.parametrize("size", [0, 1, 40, 1000, -1])
    def test_a_truncated_file_is_rejected(self, saved: Path, size: int) -> None:
        saved.write_bytes(saved.read_bytes()[:size])
        with pytest.raises(ValueError, match=r"cannot read .*model\.pt"):
            weights.load_network(saved)

    def test_a_text_file_is_told_in_words(self, tmp_path: Path) -> None:
        (tmp_path / "model.pt").write_text("a text")
        with pytest.raises(ValueError, match=r"model\.pt: (it is not such a file|\S+ \S+)"):
            weights.load_network(tmp_path / "model.pt")

    @pytest.mark.parametrize("content", [b"\x89PNG\r\n\x1a\n", b'{"a": 1}', pickle.dumps({"a": 1}), bytes(300)])
    def test_another_kind_of_file_is_rejected(self, tmp_path: Path, content: bytes) -> None:
        (tmp_path / "model.pt").write_bytes(content)
        with pytest.raises(ValueError, match=r"model\.pt"):
            weights.load_network(tmp_path / "model.pt")

    @pytest.mark.parametrize(
        ("content", "message"),
        [
            ({"state_dict": {}}, r"keys 'model' and 'network', got \['state_dict'\]"),
            ([1, 2], "keys 'model' and 'network', got list"),
            ({"model": [1], "network": DEFINITION}, "tensors under 'model', got list"),
            ({"model": {"a": 1}, "network": DEFINITION}, "tensors under 'model'"),
            ({"model": {}, "network": 5}, "network definition, got int"),
            ({"model": {}, "network": DEFINITION, "info": "demo"}, "dict under 'info', got str"),
            ({"model": {}, "network": {**DEFINITION, "num_slices": 4}}, "odd number of slices"),
            ({"model": {}, "network": {**DEFINITION, "colour": 1}}, "colour"),
            ({"model": {}, "network": {"_target_": "scripts.networks.isotropic_pools"}}, "builds a network, got list"),
        ],
    )
    def test_other_contents_are_rejected(self, tmp_path: Path, content: Any, message: str) -> None:
        torch.save(content, tmp_path / "model.pt")
        with pytest.raises(ValueError, match=rf"(?s){message}.*") as caught:
            weights.load_network(tmp_path / "model.pt")
        assert "model.pt" in str(caught.value)

    @pytest.mark.parametrize(
        ("changes", "message"),
        [
            ({"num_slices": 5}, r"4 of another shape \(backbone.conversions.0.conv.weight: expected \(32, 5, 1, 1\)"),
            ({"conversion": CENTRE_CROP}, r"4 left over \(backbone.conversions.0.conv.weight"),
            ({"body": {**DEFINITION["body"], "layers": [1, 1, 1, 2]}}, r"12 missing \(backbone.body.stages.3.1"),
        ],
    )
    def test_another_architecture_or_number_of_slices_is_named(
        self, tmp_path: Path, changes: dict[str, Any], message: str
    ) -> None:
        content = {"model": build().state_dict(), "network": {**DEFINITION, **changes}, "info": {}}
        torch.save(content, tmp_path / "model.pt")
        with pytest.raises(ValueError, match=message) as caught:
            weights.load_network(tmp_path / "model.pt")
        assert "number of slices differ" in str(caught.value)


class TestTypesAndValues:
    def changed(self, path: Path, change: Any) -> Path:
        content = weights.read_tensors(path)
        content["model"] = {name: change(name, value) for name, value in content["model"].items()}
        weights.write_atomically(content, path)
        return path

    @pytest.mark.parametrize("dtype", [torch.int32, torch.float64, torch.bool, torch.complex64])
    def test_cast_weights_are_rejected(self, saved: Path, dtype: torch.dtype) -> None:
        self.changed(saved, lambda name, value: value.to(dtype) if name.endswith("cls_score.weight") else value)
        with pytest.raises(ValueError, match=rf"1 tensors are of another type \(.*expected torch.float32, got {dtype}"):
            weights.load_network(saved)

    @pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
    def test_half_precision_is_taken_and_told(
        self, saved: Path, dtype: torch.dtype, caplog: pytest.LogCaptureFixture
    ) -> None:
        self.changed(saved, lambda name, value: value.to(dtype))
        network, _ = weights.load_network(saved)
        stored = weights.read_tensors(saved)["model"]
        assert all(torch.equal(value, stored[name].float()) for name, value in network.state_dict().items())
        assert str(dtype) in caplog.text

    @pytest.mark.parametrize("value", [float("nan"), float("inf")])
    def test_weights_that_are_not_finite_are_rejected(self, saved: Path, value: float) -> None:
        def change(name: str, tensor: torch.Tensor) -> torch.Tensor:
            return torch.full_like(tensor, value) if name.endswith("cls_score.bias") else tensor

        with pytest.raises(ValueError, match=r"finite weights.*1 tensors.*cls_score\.bias"):
            weights.load_network(self.changed(saved, change))


class TestBounds:
    @pytest.mark.parametrize(
        "changes",
        [
            {"body": {**DEFINITION["body"], "layers": [1_000_000, 1, 1, 1]}},
            {"body": {**DEFINITION["body"], "layers": [1000, 1000, 1000, 1000]}},
            {"body": {**DEFINITION["body"], "width": 10**9}},
            {"num_slices": 10**30 + 1},
            {"num_slices": -(10**9)},
            {"fpn_channels": float("inf")},
            {"num_classes": float("nan")},
            {"body": [DEFINITION["body"]] * 300},
            {"body": {"_desc_": [{"a": 1}] * 300}},
        ],
    )
    def test_numbers_beyond_any_real_network_are_rejected_before_anything_is_built(
        self, changes: dict[str, Any], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(weights, "ConfigParser", None)
        with pytest.raises(ValueError, match=r"the file"):
            weights.build_network({**DEFINITION, **changes}, "the file")

    def test_memory_is_taken_only_where_the_tensors_fit(self, saved: Path) -> None:
        content = weights.read_tensors(saved)
        # 60 GB, were it built.
        content["network"] = {**DEFINITION, "body": {**DEFINITION["body"], "width": 8192}}
        weights.write_atomically(content, saved)
        with pytest.raises(ValueError, match=r"of another shape \(backbone.body"):
            weights.load_network(saved)

    @pytest.mark.parametrize(
        "changes", [{"num_slices": "three"}, {"body": 3}, {"head": [1]}, {"num_classes": None}, {"fpn_channels": 0}]
    )
    def test_values_of_the_wrong_kind_are_one_line(self, changes: dict[str, Any]) -> None:
        with pytest.raises(ValueError, match=r"builds a network, got one that fails in the file: \S+") as caught:
            weights.build_network({**DEFINITION, **changes}, "the file")
        assert "\n" not in str(caught.value)


class TestDefinitions:
    @pytest.mark.parametrize(
        "target",
        [
            "os.system",
            "torch.load",
            "scripts.data.read_slab",
            "scripts.networks.",
            "scripts.networks.backbones.slab_backbone.nn.Linear",
            "scripts.networks.backbones.resnet3d.torch.hub.load",
            "scripts.networks.mp3d_fpn.__globals__",
            "scripts.networksmp3d_fpn",
            ["scripts.networks.mp3d_fpn"],
            None,
        ],
    )
    def test_only_members_of_the_networks_package_may_be_named(self, target: Any) -> None:
        for definition in ({**DEFINITION, "_target_": target}, {**DEFINITION, "body": [{"_target_": target}]}):
            with pytest.raises(ValueError, match=r"members of scripts\.networks"):
                weights.build_network(definition, "the file")

    @pytest.mark.parametrize("value", ["$__import__('os').getcwd()", "@num_slices", "%other.json::network", object()])
    def test_expressions_and_objects_are_rejected(self, value: Any) -> None:
        with pytest.raises(ValueError, match=r"plain values.*the file"):
            weights.check_definition({**DEFINITION, "layers": [1, {"a": value}]}, "the file")

    @pytest.mark.parametrize(
        "entry", [{"_requires_": "x"}, {"_disabled_": False}, {"_mode_": "debug"}, {"_mode_": ["default"]}, {3: 4}]
    )
    def test_other_keys_of_the_config_language_are_rejected(self, entry: dict[Any, Any]) -> None:
        with pytest.raises(ValueError, match=r"plain arguments.*the file"):
            weights.check_definition({**DEFINITION, **entry}, "the file")

    def test_parts_can_be_swapped(self) -> None:
        assert not [name for name in build(conversion=CENTRE_CROP).state_dict() if "conversions" in name]


class TestBackboneFiles:
    def test_a_backbone_file_is_no_detector(self, tmp_path: Path) -> None:
        state = {name: value for name, value in build().state_dict().items() if "backbone.body" in name}
        torch.save({"model": state, "network": DEFINITION, "info": {"part": "backbone"}}, tmp_path / "body.pt")
        with pytest.raises(ValueError, match=r"whole detector, got those of a backbone alone in .*body\.pt"):
            weights.load_network(tmp_path / "body.pt")


def test_the_hash_of_tensors_is_that_of_their_values_names_types_and_shapes() -> None:
    state = {
        "a": torch.arange(6.0).reshape(2, 3),
        "half": torch.ones(2, dtype=torch.bfloat16),
        "count": torch.tensor(3),
        "none": torch.zeros(0, 4),
    }
    known = weights.tensors_sha256(state)
    assert known == weights.tensors_sha256(dict(reversed(state.items())))
    assert known == weights.tensors_sha256({**state, "a": state["a"].T.contiguous().T})
    others = [
        {**state, "a": state["a"] + 1e-6},
        {**state, "a": state["a"].reshape(3, 2)},
        {**state, "a": state["a"].view(torch.int32)},
        {("b" if name == "a" else name): value for name, value in state.items()},
        {name: value for name, value in state.items() if name != "none"},
    ]
    assert len({known, *map(weights.tensors_sha256, others)}) == 6


@pytest.mark.parametrize("kind", ["weights", "last", "bare"])
def test_whatever_holds_weights_is_read(kind: str, tmp_path: Path) -> None:
    state = {"a": torch.ones(2)}
    content = {
        "weights": {"model": state, "network": DEFINITION, "info": {"name": "n"}},
        "last": {"model": state, "definition": DEFINITION, "epoch": 3},
        "bare": state,
    }[kind]
    torch.save(content, tmp_path / "held.pt")
    found = weights.read_stored(tmp_path / "held.pt")
    assert torch.equal(found["model"]["a"], state["a"])
    assert found["network"] == (None if kind == "bare" else DEFINITION)
    assert found["info"] == ({"name": "n"} if kind == "weights" else {})
    if kind != "weights":
        with pytest.raises(ValueError, match="keys 'model' and 'network', got"):
            weights.read_weights(tmp_path / "held.pt")


def test_another_thing_than_weights_is_rejected(tmp_path: Path) -> None:
    torch.save([1], tmp_path / "list.pt")
    for read in (weights.read_stored, weights.read_weights):
        with pytest.raises(ValueError, match=r"got list in .*list\.pt"):
            read(tmp_path / "list.pt")
