"""What clients may send as parameters and names of files, and where labels may be written."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest

from support.module_files import load_module

APP = Path(__file__).resolve().parents[2] / "integrations" / "monai_label" / "app"
guard = load_module(APP / "mp3d_label_guard.py")
checks = load_module(APP / "mp3d_label_checks.py")

GOOD: list[dict[str, Any]] = [
    {},
    {
        "score_threshold": 0.5,
        "operating_point": "none",
        "device": "NVIDIA H100 80GB HBM3",
        "model_filename": "model.pt",
    },
    {"client_id": "user@clinic.example", "result_extension": ".nii.gz", "result_dtype": "uint8", "logging": "INFO"},
    {
        "foreground": [[10, 20, 30], [1, 2, 3]],
        "label_tag": "original",
        "gpus": "0,1",
        "max_epochs": 3,
        "multi_gpu": None,
        "max_batch_size": 0,
        "max_workers": 4,
    },
    {"device": ["cpu"], "score_threshold": "0.7", "options": {"a": {"b": [1.5, True]}}},
]


@pytest.mark.parametrize("params", GOOD)
def test_parameters_of_clients_pass(params: dict[str, Any]) -> None:
    assert checks.check_params(params) == params
    assert checks.read_params(json.dumps(params)) == params


@pytest.mark.parametrize(
    "params",
    [
        *({name: "x"} for name in sorted(checks.RESERVED)),
        *(
            {"score_threshold": text}
            for text in ("$exec('code')", " $import os", "@bundle_root", "%config::key", "a@b")
        ),
        *(
            {"x": value}
            for value in (["$a"], [[["$a"]]], {"a": "$a"}, {"_target_": "os.system"}, {"$a": 1}, "y" * 5000)
        ),
        *({name: 1} for name in ("_id", "__class__", "$x", "a/b", "a\n", "", "a" * 99, "trainer#max_epochs", "a::b")),
        *({"label_tag": tag} for tag in ("../x", "/x", "..", "", ".x", "a/b", 3, None, ["final"], "final")),
        *({"result_extension": text} for text in ("/../x", "nii", ".sh/x", "", ".", "." + "a" * 20, 1)),
        *({"gpus": text} for text in ("0;rm", "$", "", "0,", 0)),
        *({"x": value} for value in (10**400, -(1 << 63), [1 << 70], [[[[[[[1]]]]]]])),
        *({"x": value} for value in (math.nan, [math.inf], "\ud800", {"\udfff": 1})),
        *({name: value} for name in ("max_batch_size", "max_workers") for value in ("x", -1, 1.5, True, None, {}, [])),
        {"logging": "evil"},
    ],
)
def test_what_could_be_code_or_take_the_place_of_the_request_is_rejected(params: dict[str, Any]) -> None:
    for check in (lambda: checks.check_params(params), lambda: checks.read_params(json.dumps(params))):
        with pytest.raises(guard.Refusal) as refusal:
            check()
        assert refusal.value.status == 400
        assert len(refusal.value.detail) < 300


@pytest.mark.parametrize(
    "text",
    [
        "[1]",
        "3",
        "null",
        '"x"',
        "{",
        "score=1",
        "[" * 100_000,
        '{"a":' * 100_000,
        '{"a": ' + "9" * 5000 + "}",
        "\0",
        "\ufeff{}",
    ],
)
def test_what_is_no_object_is_rejected(text: str) -> None:
    for read in (checks.read_params, checks.read_info):
        with pytest.raises(guard.Refusal, match="JSON object"):
            read(text)


def test_what_is_said_of_a_label_is_kept_as_it_is_unless_it_is_nested_without_end() -> None:
    info = {"label_info": [{"name": "$lesion", "idx": 1}], "client_id": "user-xyz"}
    assert checks.read_info(json.dumps(info)) == info
    assert checks.read_info(None) == checks.read_info("") == {}
    with pytest.raises(guard.Refusal, match="plain values"):
        checks.read_info('{"a":' * 100 + "1" + "}" * 100)


@pytest.mark.parametrize(
    "text", ['{"a": NaN}', '{"a": [-Infinity]}', '{"a": 1e400}', r'{"a": "\ud800"}', r'{"\ud800": 1}']
)
def test_what_cannot_be_read_back_from_the_list_of_labels_is_rejected(text: str) -> None:
    with pytest.raises(guard.Refusal, match="Expected plain values as params"):
        checks.read_info(text)


@pytest.mark.parametrize("name", ["save_label", "multi_gpu"])
def test_a_text_for_false_is_not_taken_for_true(name: str) -> None:
    for given, wanted in ((True, True), (False, False), ("true", True), ("False ", False)):
        assert checks.check_params({name: given, "a": "b"}) == {name: wanted, "a": "b"}
        assert checks.read_params(json.dumps({name: given})) == {name: wanted}
    for odd in ("no", "", 0, 2, [False]):
        with pytest.raises(guard.Refusal, match=f"Expected {name} to be true or false, got "):
            checks.check_params({name: odd})


def test_almost_a_parameter_is_an_error_and_names_of_viewers_are_not() -> None:
    known = ("score_threshold", "operating_point", "model_filename", "device")
    checks.check_spelling((*known, "client_id", "result_extension", "logging", "save_label", "ROI"), known)
    for name, meant in (("score_treshold", "score_threshold"), ("operating_points", "operating_point")):
        with pytest.raises(guard.Refusal, match=f"got '{name}'. Is {meant} meant?"):
            checks.check_spelling((name,), known)


@pytest.mark.parametrize(
    ("name", "ending"),
    [
        *((None, ".nii.gz"), ("", ".nii.gz"), ("a.nii", ".nii"), ("/scans/mine/Doe.v2.NII.GZ", ".nii.gz")),
        *(("C:\\scans\\a.nrrd", ".nrrd"), ("../../a.nii.gz", ".nii.gz"), ("a.nii.gz/../b.nrrd", ".nrrd")),
    ],
)
def test_of_a_files_name_only_a_known_ending_is_taken(name: str | None, ending: str) -> None:
    assert checks.upload_suffix(name, (".nii", ".nii.gz", ".nrrd"), ".nii.gz") == ending


@pytest.mark.parametrize("name", ["a.sh", "a", "a.nii/../b.py", "a.nii.gz\0", "a.nii.gz.exe", "..", "a.nii\n", "a.mhd"])
def test_other_endings_are_rejected(name: str) -> None:
    with pytest.raises(guard.Refusal, match=r"Expected a file ending in \.nii, \.nii\.gz"):
        checks.upload_suffix(name, (".nii", ".nii.gz"), ".nii.gz")


def test_names_of_files_lose_their_folders() -> None:
    for name in ("IM0001", "/scans/mine/IM0001", "C:\\scans\\IM0001", "../IM0001"):
        assert checks.plain_file_name(name) == "IM0001"
    for name in (None, "", "..", "a/..", "a/", ".x", "a\0b", "a\nb", "x" * 300):
        with pytest.raises(guard.Refusal, match="Expected the name of a file"):
            checks.plain_file_name(name)
    with pytest.raises(guard.Refusal, match="at most 240 bytes, got 300"):
        checks.plain_file_name("é" * 150)


def test_nothing_is_written_out_of_the_folder_or_over_a_scan(tmp_path: Path) -> None:
    folder = tmp_path / "studies"
    (folder / "labels" / "final").mkdir(parents=True)
    (folder / "scan.nii").write_bytes(b"1")
    (tmp_path / "outside").mkdir()
    (folder / "labels" / "elsewhere").symlink_to(tmp_path / "outside")
    (folder / "labels" / "final" / "link.json").symlink_to(tmp_path / "outside" / "x")
    (folder / "within.json").symlink_to(folder / "scan.nii")
    for good in ("labels/final/scan.json", "labels/new/scan.json", "new.nii"):
        checks.check_target(folder / good, folder, new=True)
    checks.check_target(folder / "scan.nii", folder, new=False)
    (tmp_path / "linked").symlink_to(folder)
    checks.check_target(tmp_path / "linked" / "new.nii", tmp_path / "linked", new=True)
    for bad in ("labels/elsewhere/x.json", "labels/final/link.json", "../x", "within.json", "labels/../../x"):
        with pytest.raises(guard.Refusal, match="leads out of it"):
            checks.check_target(folder / bad, folder, new=False)
    with pytest.raises(guard.Refusal, match="at most 240 bytes, got 404"):
        checks.check_target(folder / ("é" * 200 + ".nii"), folder, new=True)
    with pytest.raises(guard.Refusal, match="scans are not replaced") as refusal:
        checks.check_target(folder / "scan.nii", folder, new=True)
    assert refusal.value.status == 409


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("got /etc/passwd.", "got passwd."),
        ("no DICOM file in /tmp.", "no DICOM file in tmp."),
        ("'/a b.nii', (/x/y/model.pt: 3/4)", "'a b.nii', (model.pt: 3/4)"),
        ("'/srv/Jane Doe/my scans/a b.nii' or \"/it's 1/b.nii\"", "'a b.nii' or \"b.nii\""),
        ("/x/y/m.pt does not record it", "m.pt does not record it"),
        (
            "multipart/form-data, 1 / 2, https://viewer.example/a/b",
            "multipart/form-data, 1 / 2, https://viewer.example/a/b",
        ),
        ("Epoch: 70/500, Iter: 2/2", "Epoch: 70/500, Iter: 2/2"),
    ],
)
def test_messages_name_files_without_their_folders(text: str, told: str) -> None:
    assert checks.without_folders(text) == told
