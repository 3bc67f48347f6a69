"""Checkpoints of the compared systems: each is known by its tensors, and every one of these has its place."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
import torch
from monai.bundle import ConfigWorkflow
from torch import Tensor

from scripts.networks import align_shift, mulan, multi_scale_booster, mvp_net
from scripts.networks.published.authors_names import inverted, renamed
from scripts.recipe import KEY, read_recipe
from scripts.tools.convert_weights import convert, from_authors
from scripts.tools.published_layouts import LAYOUTS, find_layout, read_tag_names
from scripts.weights import build_network, load_network, read_tensors
from support.fake_scans import ball_scan
from support.whole_detectors import keys_of

# List of keys, entry in it, what it is told to be, the key of its layout, slices.
KNOWN = [
    ("alignshift", "3_slices", None, "alignshift", 3),
    ("alignshift", "7_slices", "alignshift", "alignshift", 7),
    ("tsm", "7_slices", "tsm", "tsm", 7),
    ("a3d", "3_slices", None, "a3d", 3),
    ("a3d", "7_slices", "a3d", "a3d", 7),
    ("satr", "7_slices", None, "satr", 7),
    ("msb", None, None, "msb", 3),
    ("mvpnet_3", None, None, "mvpnet", 3),
    ("mvpnet_9", None, "mvpnet", "mvpnet", 9),
    ("3dce", None, None, "3dce", 27),
    ("mulan", None, None, "mulan", 9),
]


def entry_of(shared: Path, name: str, part: str | None) -> Mapping[str, Any]:
    content = keys_of(shared, name)
    entry = content if part is None else content[part]
    # 3DCE's list was made from its symbols: one side depends on the number of images, and no count is given.
    keys = [[each, [490 * 9 if side == "490*M" else side for side in shape]] for each, shape in entry["keys"]]
    return {"n_params": 25_223_310, **entry, "keys": keys}


def shapes_of(state: Mapping[str, Tensor]) -> dict[str, tuple[int, ...]]:
    return {name: tuple(tensor.shape) for name, tensor in state.items()}


@pytest.mark.parametrize(("name", "part", "told", "key", "slices"), KNOWN, ids=lambda value: str(value))
def test_every_tensor_of_the_authors_has_its_place_and_finds_back(
    shared: Path, name: str, part: str | None, told: str | None, key: str, slices: int
) -> None:
    entry = entry_of(shared, name, part)
    state = {each: torch.empty(shape, device="meta") for each, shape in entry["keys"]}
    assert find_layout(shapes_of(state), network=told) == key
    layout = LAYOUTS[key]
    network = build_network(layout.define(shapes_of(state)), name, device="meta")
    assert network.backbone.num_slices == slices  # type: ignore[union-attr]
    left_out = [each for each in state if layout.reason(each)]
    assert left_out == entry.get("no_weight_keys", [])
    state = {each: tensor for each, tensor in state.items() if each not in left_out}
    ours = from_authors(state, network, layout, name)
    assert set(ours) == set(network.state_dict())
    assert sum(each.numel() for each in network.parameters()) == entry["n_params"]
    back = renamed(ours, inverted(layout.rules))
    assert set(back) == set(state)
    assert all(back[each] is state[each] for each in state)


def test_the_config_in_the_file_tells_tsm_from_alignshift(shared: Path) -> None:
    shapes = {each: tuple(shape) for each, shape in entry_of(shared, "tsm", "3_slices")["keys"]}
    assert find_layout(shapes) == "alignshift"
    assert find_layout(shapes, "model = dict(backbone=dict(type='DenseNetCustomTrunc3dTSM'))") == "tsm"
    assert find_layout(shapes, "model = dict(backbone=dict(type='DenseNetCustomTrunc3dAlign'))") == "alignshift"


def test_another_file_has_no_layout_and_what_is_told_must_fit(shared: Path) -> None:
    assert find_layout({"conv1.weight": (1,)}) is None
    shapes = {each: tuple(shape) for each, shape in entry_of(shared, "msb", None)["keys"]}
    with pytest.raises(ValueError, match="Expected a checkpoint of TSM, got tensors of MSB"):
        find_layout(shapes, network="tsm")
    with pytest.raises(ValueError, match=r"--network to be one of .*alignshift.*, got 'vgg'"):
        find_layout(shapes, network="vgg")


def test_recipes_can_be_stored() -> None:
    for layout in LAYOUTS.values():
        assert read_recipe(layout.recipe.plain(), layout.name) == layout.recipe
        assert layout.recipe.slice_spacing == 2.0
        assert layout.licence
        assert layout.source


def authors_file(path: Path, network: torch.nn.Module, key: str, **changes: Any) -> dict[str, Tensor]:
    """A checkpoint as the authors' training leaves it, with tensors changed (None: left out)."""
    torch.manual_seed(0)
    for name, each in network.state_dict().items():
        if each.is_floating_point():
            each.normal_(std=0.1).add_(name.endswith("running_var"))
    state = renamed(network.state_dict(), inverted(LAYOUTS[key].rules)) | changes
    state = {name: tensor for name, tensor in state.items() if tensor is not None}
    saved = {f"module.{name}": tensor for name, tensor in state.items()}
    torch.save({LAYOUTS[key].entry: saved, "meta": {"epoch": 9}, "optimizer": {"state": {}}}, path)
    return state


def narrow_booster() -> torch.nn.Module:
    return multi_scale_booster(width=8, channels=16, fc_channels=16)


@pytest.mark.parametrize("name", ["LICENSE", "licence.txt", "COPYING.md"])
def test_the_licence_next_to_a_checkpoint_goes_with_it(
    tmp_path: Path, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    authors_file(tmp_path / "a.pth", narrow_booster(), "msb")
    convert(str(tmp_path / "a.pth"), str(tmp_path / "without.pt"))
    assert "No LICENSE lies next to the source" in capsys.readouterr().out
    assert "licence_text" not in load_network(tmp_path / "without.pt")[1]
    (tmp_path / "LICENSES").mkdir()
    (tmp_path / "licensed.txt").write_text("other")
    (tmp_path / name).write_text("May be used.\n", encoding="utf-8")
    convert(str(tmp_path / "a.pth"), str(tmp_path / "with.pt"))
    assert f"The text of {tmp_path / name} goes with the weights." in capsys.readouterr().out
    assert load_network(tmp_path / "with.pt")[1]["licence_text"] == "May be used.\n"


def test_a_file_and_back_is_bit_for_bit(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    state = authors_file(tmp_path / "a.pth", narrow_booster(), "msb")
    convert(str(tmp_path / "a.pth"), str(tmp_path / "b.pt"))
    said = capsys.readouterr().out
    assert "Found the layout of MSB (shaoqb/multi_scale_booster @ 8e5155c" in said
    assert "Left out of the file: meta, optimizer, which are not weights." in said
    assert "none missing, none left over" in said
    network, info = load_network(tmp_path / "b.pt")
    assert (info["name"], info["part"], info["licence"], info["source"]) == ("MSB", "detector", "Apache-2.0", "a.pth")
    recipe = read_recipe(info[KEY], "b.pt")
    assert (recipe.num_slices, recipe.window, recipe.mean, recipe.crop_border) == (3, (-1024.0, 3071.0), 127.5, True)
    assert recipe.classes == ("lesion",)
    assert network.roi_heads.limits.per_image == 10  # type: ignore[union-attr]
    convert(str(tmp_path / "b.pt"), str(tmp_path / "c.pth"), to="authors")
    back = read_tensors(tmp_path / "c.pth")["state_dict"]
    assert set(back) == set(state)
    assert all(torch.equal(back[name], state[name]) for name in state)


def test_a_network_of_nine_maps_runs_as_converted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    made = align_shift(3, growth=8, channels=16, fc_channels=32)
    authors_file(tmp_path / "a.pth", made, "alignshift")
    convert(str(tmp_path / "a.pth"), str(tmp_path / "b.pt"))
    assert "TSM have the same tensors: use --network tsm" in capsys.readouterr().out
    network, info = load_network(tmp_path / "b.pt")
    assert info[KEY]["z_mode"] == "native"
    slab = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        found, wanted = network(slab)[0], made.eval()(slab)[0]
    assert all(torch.equal(found[name], wanted[name]) for name in wanted)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"rpn_head.rpn_cls.bias": None}, "every tensor is used, .*a.pth: missing: rpn_head.rpn_cls.bias"),
        ({"extra.weight": torch.zeros(1)}, "left over: extra.weight"),
        ({"rpn_head.rpn_cls.bias": torch.zeros(5)}, r"rpn_cls.bias: expected shape \(12,\), got \(5,\)"),
        ({"bbox_head.fc_cls.bias": torch.tensor([0.0, float("nan")])}, "1 tensors have NaN or infinity"),
        ({"bbox_head.fc_cls.bias": torch.zeros(2, dtype=torch.float64)}, "1 tensors are of another type"),
        ({"neck.lateral_convs.0.conv.weight": torch.zeros(0)}, "a.pth"),
        ({"bbox_head.shared_fcs.0.weight": None}, "Expected a tensor bbox_head.shared_fcs.0.weight .* in .*a.pth"),
    ],
)
def test_a_file_with_something_wrong_is_rejected_in_one_line(
    tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    authors_file(tmp_path / "a.pth", narrow_booster(), "msb", **changes)
    with pytest.raises(ValueError, match=message) as caught:
        convert(str(tmp_path / "a.pth"), str(tmp_path / "out" / "b.pt"))
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_half_precision_is_taken_with_a_line(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    state = authors_file(tmp_path / "a.pth", narrow_booster(), "msb")
    halves = {name: each.half() if each.is_floating_point() else each for name, each in state.items()}
    torch.save(halves, tmp_path / "a.pth")
    with caplog.at_level(logging.WARNING):
        convert(str(tmp_path / "a.pth"), str(tmp_path / "b.pt"))
    assert "half precision" in caplog.text
    assert load_network(tmp_path / "b.pt")[1]["name"] == "MSB"


def test_the_same_tensor_twice_is_rejected(tmp_path: Path) -> None:
    state = authors_file(tmp_path / "a.pth", narrow_booster(), "msb")
    name = "bbox_head.fc_cls.bias"
    torch.save({**state, f"module.{name}": state[name]}, tmp_path / "a.pth")
    with pytest.raises(ValueError, match=r"some with and without 'module\.' in front in .*a\.pth"):
        convert(str(tmp_path / "a.pth"), str(tmp_path / "b.pt"))


def lesions_of(folder: Path, bundle_root: Path, spacing: float) -> dict[str, Any]:
    """What ``run inferring`` writes of a small scan with the converted weights ``b.pt`` and no further option."""
    affine = np.diag([-1.0, -1.0, spacing, 1.0])
    nibabel.save(nibabel.Nifti1Image(ball_scan(shape=(5, 64, 64)).transpose(2, 1, 0), affine), folder / "scan.nii")
    places = {"input": str(folder / "scan.nii"), "checkpoint": str(folder / "b.pt"), "output_dir": str(folder / "out")}
    flow = ConfigWorkflow(
        config_file=str(bundle_root / "configs" / "inference.json"),
        meta_file=str(bundle_root / "configs" / "metadata.json"),
        logging_file=False,
        run_id="inferring",
        workflow_type="infer",
        **{"device": "cpu", "amp": False, "progress": False, "outputs": ["json"], "score_threshold": 0.01, **places},
    )
    flow.initialize()
    flow.run()
    flow.finalize()
    return json.loads((folder / "out" / "lesions.json").read_text())


@pytest.mark.parametrize(
    ("key", "make", "seen"),
    [
        ("msb", narrow_booster, {"crop_border": True, "slice_spacing": 2.0, "window": [-1024.0, 3071.0]}),
        ("alignshift", lambda: align_shift(3, growth=8, channels=16, fc_channels=32), {"z_mode": "native"}),
        ("mvpnet", lambda: mvp_net(3, channels=16, fc_channels=16), {"test_scale": 800, "window": [-1493.0, 1425.0]}),
    ],
)
def test_converted_weights_search_a_ct_without_further_options(
    tmp_path: Path, bundle_root: Path, key: str, make: Callable[[], torch.nn.Module], seen: dict[str, Any]
) -> None:
    authors_file(tmp_path / "a.pth", make(), key)
    convert(str(tmp_path / "a.pth"), str(tmp_path / "b.pt"))
    document = lesions_of(tmp_path, bundle_root, 5.0)
    assert document["model"]["name"] == LAYOUTS[key].name
    assert seen.items() <= document["settings"]["recipe"].items()
    # Other systems' slabs are interpolated by the true positions, and that is said.
    assert set(document["settings"]["deviations"]) == (set() if key == "alignshift" else {"z_mode"})
    assert all(len(lesion["box_voxel"]) == 6 for lesion in document["lesions"])


ANCHORS = "rpn.anchor_generator.cell_anchors.0"


def narrow_mulan(**options: Any) -> torch.nn.Module:
    return mulan(tags=3, growth=8, channels=16, fc_channels=32, **options)


def test_mulan_tags_and_outlines_lesions_by_the_names_of_a_file(
    tmp_path: Path, bundle_root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    authors_file(tmp_path / "a.pth", narrow_mulan(), "mulan", **{ANCHORS: torch.zeros(15, 4)})
    names = ["liver", "cyst", "right lobe"]
    (tmp_path / "tags.json").write_text(json.dumps({"term_list": names, "val_lesion_idxs": []}))
    convert(str(tmp_path / "a.pth"), str(tmp_path / "b.pt"), tags=str(tmp_path / "tags.json"))
    assert f"Left out {ANCHORS}: anchors, which the network makes itself." in capsys.readouterr().out
    document = lesions_of(tmp_path, bundle_root, 2.0)
    assert document["model"]["tags"] == names
    assert document["settings"]["recipe"]["tags"] == names
    assert document["lesions"]
    for lesion in document["lesions"]:
        assert {tag["tag"] for tag in lesion["tags"]} <= set(names)
    convert(str(tmp_path / "b.pt"), str(tmp_path / "c.pth"), to="authors")
    before, after = (read_tensors(tmp_path / name)["model"] for name in ("a.pth", "c.pth"))
    before = {name.removeprefix("module."): tensor for name, tensor in before.items()}
    assert set(before) - set(after) == {ANCHORS}
    assert all(torch.equal(tensor, before[name]) for name, tensor in after.items())


@pytest.mark.parametrize("extras", [[], ["box"], ["box", "patient"], ["box", "position", "patient"], ["position"]])
def test_what_mulan_reads_of_the_patient_is_told_by_its_tensors(extras: list[str]) -> None:
    with torch.device("meta"):
        state = renamed(narrow_mulan(extras=extras).state_dict(), inverted(LAYOUTS["mulan"].rules))
    found = LAYOUTS["mulan"].define(shapes_of(state))
    assert (found["extras"], found["tags"], found["num_slices"]) == (extras, 3, 9)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('["liver", "cyst", "lobe"]', None),
        ('{"tag_list": ["liver", "cyst", "lobe"]}', None),
        ('["liver"]', "names of 3 tags, as many as the network gives, got 1 in .*tags.json"),
        ('{"terms": []}', "list of names of tags, got None in .*tags.json"),
        ('["liver", "", "lobe"]', "list of names of tags"),
        ("liver", "tags.json"),
    ],
)
def test_names_of_tags(tmp_path: Path, content: str, message: str | None) -> None:
    path = tmp_path / "tags.json"
    path.write_text(content)
    if message is None:
        assert read_tag_names(path, 3) == ("liver", "cyst", "lobe")
        return
    with pytest.raises(ValueError, match=message) as caught:
        read_tag_names(path, 3)
    assert "\n" not in str(caught.value)


def test_only_mulan_has_tags(tmp_path: Path) -> None:
    authors_file(tmp_path / "a.pth", narrow_booster(), "msb")
    (tmp_path / "tags.json").write_text("[]")
    with pytest.raises(ValueError, match=r"checkpoint of MULAN for --tags, got one of another system in .*a\.pth"):
        convert(str(tmp_path / "a.pth"), str(tmp_path / "b.pt"), tags=str(tmp_path / "tags.json"))


@pytest.mark.slow
@pytest.mark.parametrize(("name", "part"), [("alignshift", "7_slices"), ("mulan", None)])
def test_a_checkpoint_of_full_size_searches_a_ct(
    shared: Path, tmp_path: Path, bundle_root: Path, name: str, part: str | None
) -> None:
    generator = torch.Generator().manual_seed(0)
    state = {}
    for key, shape in entry_of(shared, name, part)["keys"]:
        if key.endswith("num_batches_tracked"):
            state[key] = torch.zeros(shape, dtype=torch.int64)
        else:
            state[key] = torch.randn(shape, generator=generator) * 0.02 + key.endswith(("running_var", "norm.weight"))
    torch.save({"meta": {"epoch": 20}, "state_dict": state}, tmp_path / "a.pth")
    convert(str(tmp_path / "a.pth"), str(tmp_path / "b.pt"))
    assert "lesions" in lesions_of(tmp_path, bundle_root, 5.0)
