"""The scans of an input: one scan, a folder of many, a list.

And the names of results: safe as folders, one for each scan, and without the patient where a UID can say it.
"""

from __future__ import annotations

import os
import re
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from scripts.data.scans.dicom import dicom_headers
from scripts.data.scans.find_scans import (
    find_scans,
    label_of,
)
from scripts.data.scans.scan_shards import take_shard
from scripts.storage.result_files import file_names
from support.fake_dicom import write_ct


def touch(path: Path, content: bytes = b"x") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


def names(sources: list) -> list[str]:
    return [source.name for source in sources]


def test_file_is_one_scan_without_a_name(tmp_path: Path) -> None:
    path = touch(tmp_path / "a.nii.gz")
    (source,) = find_scans(str(path))
    assert (source.path, source.name) == (path, "")


def test_absent_file_is_left_to_the_reader(tmp_path: Path) -> None:
    assert [source.path for source in find_scans(tmp_path / "absent.nii")] == [tmp_path / "absent.nii"]


def test_folder_with_dicom_files_is_one_scan(tmp_path: Path) -> None:
    touch(tmp_path / "1.dcm")
    touch(tmp_path / "mask.nrrd")
    assert [(source.path, source.name) for source in find_scans(tmp_path)] == [(tmp_path, "")]


def test_dicom_is_known_by_its_mark_too(tmp_path: Path) -> None:
    touch(tmp_path / "IM1", b"\0" * 128 + b"DICM")
    assert names(find_scans(tmp_path)) == [""]


def test_folder_of_many_is_searched_and_sorted(tmp_path: Path) -> None:
    touch(tmp_path / "b.nii.gz")
    touch(tmp_path / "a.MHA")
    touch(tmp_path / "deep" / "c.nrrd")
    touch(tmp_path / "series" / "1.dcm")
    touch(tmp_path / "notes.txt")
    touch(tmp_path / "._b.nii.gz")
    touch(tmp_path / ".cache" / "d.nii")
    assert names(find_scans(tmp_path)) == ["a", "b", "deep/c", "series"]
    assert find_scans(tmp_path)[3].path == tmp_path / "series"


def test_names_that_come_again_are_told_apart(tmp_path: Path) -> None:
    one, other = touch(tmp_path / "a" / "ct.nii.gz"), touch(tmp_path / "b" / "ct.nii.gz")
    touch(tmp_path / "b" / "ct.nii")
    assert names(find_scans([str(one), other])) == ["a/ct", "b/ct"]
    # In whichever order they come, and only where it takes that.
    assert names(find_scans(tmp_path / "b")) == ["ct.nii", "ct.nii.gz"]
    touch(tmp_path / "c" / "x.nrrd")
    touch(tmp_path / "c" / "x.mha")
    touch(tmp_path / "c" / "y.mha")
    assert names(find_scans([tmp_path / "c" / "x.nrrd", tmp_path / "c" / "x.mha"])) == ["x.nrrd", "x.mha"]
    assert names(find_scans(tmp_path / "c")) == ["x.mha", "x.nrrd", "y"]


def test_list_may_hold_folders(tmp_path: Path) -> None:
    touch(tmp_path / "many" / "a.nii")
    touch(tmp_path / "many" / "b.nii")
    touch(tmp_path / "series" / "1.dcm")
    assert names(find_scans([tmp_path / "many", tmp_path / "series"])) == ["many/a", "many/b", "series"]


@pytest.mark.parametrize("files", [[], ["notes.txt", "a.csv"]])
def test_a_folder_without_a_scan_says_so_when_it_is_read(files: list[str], tmp_path: Path) -> None:
    for name in files:
        (tmp_path / name).write_text("x")
    (source,) = find_scans(tmp_path)
    assert (source.path, source.name) == (tmp_path, ".")
    with pytest.raises(ValueError, match=rf"NIfTI, NRRD or MetaImage files.* got none among {len(files)} files"):
        source.open()


def test_path_of_digits_may_come_as_a_number(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    touch(tmp_path / "20231105" / "a.nii")
    monkeypatch.chdir(tmp_path)
    assert names(find_scans(20231105)) == ["a"]
    assert names(find_scans([20231105])) == ["20231105/a"]


@pytest.mark.parametrize("odd", [None, True, 1.5, ["a.nii", None], {"a": 1}])
def test_input_that_is_no_path_is_rejected(odd: Any) -> None:
    with pytest.raises(ValueError, match="Expected a path or a list of paths as input, got"):
        find_scans(odd)


@pytest.mark.parametrize("nothing", ["", []])
def test_nothing_is_no_scan(nothing: str | list) -> None:
    assert find_scans(nothing) == []


def test_a_series_that_is_named_is_written_like_a_single_scan(tmp_path: Path) -> None:
    for number, uid in enumerate(("1.2", "1.3")):
        headers(tmp_path / str(number), SeriesInstanceUID=uid)
    (source,) = find_scans(tmp_path, series="1.3")
    assert (source.path, source.name, source.series) == (tmp_path / "1", "", "1.3")


def headers(folder: Path, **tags: object) -> Path:
    return write_ct(folder, np.full((2, 4, 5), -1000, dtype=np.int16), **tags)


def test_each_series_of_a_folder_is_a_scan(tmp_path: Path) -> None:
    headers(tmp_path / "a", SeriesDescription="soft tissue")
    headers(tmp_path / "lung", SeriesInstanceUID="5.6", SeriesNumber=4, SeriesDescription="lung")
    for file in (tmp_path / "lung").iterdir():
        file.rename(tmp_path / "a" / f"lung_{file.name}")
    sources = find_scans(tmp_path / "a")
    assert [(source.name, source.series) for source in sources] == [("1.2.3.4", "1.2.3.4"), ("5.6", "5.6")]
    for source in sources:
        with source.open() as scan:
            assert scan.hu.shape == (2, 4, 5)
            assert all(path.name.startswith("lung_") == (source.series == "5.6") for path in scan.files)
    assert names(find_scans(tmp_path / "a", result_names="place")) == ["3_soft_tissue", "4_lung"]
    assert names(find_scans([tmp_path / "a"], result_names="place")) == ["a/3_soft_tissue", "a/4_lung"]
    assert names(find_scans(tmp_path, result_names="place")) == ["a/3_soft_tissue", "a/4_lung"]


def test_results_of_dicom_are_not_named_by_folders(tmp_path: Path) -> None:
    for number, folder in enumerate(("DOE_JANE", "DOE_JOHN/CT", "DOE_JIM")):
        headers(tmp_path / folder, SeriesInstanceUID=f"1.2.{number}")
    headers(tmp_path / "anonymous", SeriesInstanceUID=None)
    with zipfile.ZipFile(tmp_path / "DOE_JOE.zip", "w") as archive:
        for path in headers(tmp_path / "packed", SeriesInstanceUID="1.2.9").iterdir():
            archive.write(path, f"DOE^JOE/{path.name}")
            path.unlink()
    assert names(find_scans(tmp_path)) == ["1.2.9", "1.2.0", "1.2.2", "1.2.1", "anonymous"]
    assert names(find_scans([tmp_path / "DOE_JIM", tmp_path / "DOE_JANE"])) == ["1.2.2", "1.2.0"]
    assert names(find_scans([tmp_path / "DOE_JIM"], result_names="place")) == ["DOE_JIM"]
    with pytest.raises(ValueError, match="result_names series or place, got 'patient'"):
        find_scans(tmp_path, result_names="patient")


@pytest.mark.filterwarnings("ignore:Invalid value for VR UI")
@pytest.mark.parametrize(
    ("uid", "description", "wanted"),
    [
        ("/tmp/escaped", "((", "tmp_escaped"),
        ("../../escaped", "((", "escaped"),
        ("..", "..", "series"),
        ("1.2.840", "..", "1.2.840"),
        ("1.2.840", "../lung", "lung"),
    ],
)
def test_headers_do_not_choose_where_results_go(tmp_path: Path, uid: str, description: str, wanted: str) -> None:
    headers(tmp_path, SeriesInstanceUID=uid, SeriesNumber=None, SeriesDescription=description)
    for path in list(tmp_path.iterdir()):
        path.rename(tmp_path / f"odd_{path.name}")
    headers(tmp_path)
    assert sorted(names(find_scans(tmp_path, result_names="place"))) == sorted(["3_no_description", wanted])
    (odd,) = set(names(find_scans(tmp_path))) - {"1.2.3.4"}
    assert re.fullmatch(r"1\.2\.840|series_[0-9a-f]{16}", odd)


def test_entries_of_a_list_have_names_however_they_are_spelt(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    touch(tmp_path / "study" / "a.nii")
    touch(tmp_path / "b.nii")
    (tmp_path / "study" / "here").mkdir()
    monkeypatch.chdir(tmp_path / "study" / "here")
    assert names(find_scans(["..", "../../b.nii"])) == ["study/a", "b"]


def test_named_series_is_found_wherever_it_lies(tmp_path: Path) -> None:
    headers(tmp_path / "a")
    headers(tmp_path / "deep" / "b", SeriesInstanceUID="5.6")
    touch(tmp_path / "c.nii")
    (source,) = find_scans(tmp_path, series="5.6")
    assert (source.path, source.series) == (tmp_path / "deep" / "b", "5.6")
    (absent,) = find_scans(tmp_path, series="9.9")
    with pytest.raises(ValueError, match=r"the series 9\.9, got 1\.2\.3\.4, 5\.6 in"):
        absent.open()


def test_table_of_contents_of_a_medium_is_no_series(tmp_path: Path) -> None:
    touch(tmp_path / "DICOMDIR", b"\0" * 128 + b"DICM")
    headers(tmp_path / "IMAGES" / "S1")
    (source,) = find_scans(tmp_path)
    assert source.path == tmp_path / "IMAGES" / "S1"


def test_folders_below_a_series_are_searched_too(tmp_path: Path) -> None:
    headers(tmp_path)
    headers(tmp_path / "more", SeriesInstanceUID="5.6")
    assert [source.series for source in find_scans(tmp_path)] == ["1.2.3.4", "5.6"]


def test_damaged_header_is_left_to_the_reader(tmp_path: Path) -> None:
    headers(tmp_path / "a")
    (tmp_path / "a" / "IM0001.dcm").write_bytes(b"\0" * 128 + b"DICM\2\0\0\0UL\4\0")
    (source,) = find_scans(tmp_path / "a")
    with pytest.raises(OSError, match=r"IM0001\.dcm"):
        source.open()


def test_no_header_stops_the_listing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    headers(tmp_path / "a")
    headers(tmp_path / "b")
    with zipfile.ZipFile(tmp_path / "c.zip", "w") as archive:
        archive.write(tmp_path / "a" / "IM0001.dcm", "IM0001.dcm")
    read = dicom_headers._read_header

    def odd(path: Path, open_file: Any) -> Any:
        if path.parent.name != "b":
            raise TypeError("odd header")
        return read(path, open_file)

    monkeypatch.setattr(dicom_headers, "_read_header", odd)
    sources = find_scans(tmp_path)
    assert names(sources) == ["c", "a", "1.2.3.4"]
    for source in sources[:2]:
        with pytest.raises(TypeError, match="odd header"):
            source.open()


def test_series_in_two_places_is_noticed(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    headers(tmp_path / "a")
    headers(tmp_path / "b")
    assert names(find_scans(tmp_path)) == ["1.2.3.4", "1.2.3.4_2"]
    assert f"Series 1.2.3.4 is in several places, each read as a separate scan: {tmp_path / 'a'}" in caplog.text


def test_links_to_folders_are_followed_once(tmp_path: Path) -> None:
    touch(tmp_path / "elsewhere" / "a.nii")
    touch(tmp_path / "in" / "real" / "b.nii")
    (tmp_path / "in" / "patient").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "in" / "again").symlink_to(tmp_path / "in" / "real")
    (tmp_path / "in" / "real" / "up").symlink_to(tmp_path / "in")
    assert names(find_scans(tmp_path / "in")) == ["patient/a", "real/b"]


def test_folder_that_cannot_be_listed_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    touch(tmp_path / "a.nii")
    touch(tmp_path / "locked" / "b.nii")
    scandir = os.scandir

    def reject(path: Any) -> Any:
        if str(path).endswith("locked"):
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    # Not by the folder's mode: the user of the tests may list everything.
    monkeypatch.setattr(os, "scandir", reject)
    assert names(find_scans(tmp_path)) == ["a"]
    assert f"{tmp_path / 'locked'}: not searched, it cannot be read (Permission denied)." in caplog.text


def test_folder_whose_files_cannot_be_opened_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    touch(tmp_path / "a.nii")
    touch(tmp_path / "listed" / "below" / "b.nii")
    access, is_file = os.access, Path.is_file

    def reject(path: Path) -> bool:
        if "listed" in path.parts:
            raise PermissionError(13, "Permission denied", str(path))
        return is_file(path)

    # Not by the folder's mode: the user of the tests may open everything.
    monkeypatch.setattr(os, "access", lambda path, mode: "listed" not in Path(path).parts and access(path, mode))
    monkeypatch.setattr(Path, "is_file", reject)
    assert names(find_scans(tmp_path)) == ["a"]
    assert f"{tmp_path / 'listed'}: not searched, it cannot be read (Permission denied)." in caplog.text


def test_scans_without_permission_are_named_and_cost_no_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    touch(tmp_path / "a.nii")
    touch(tmp_path / "closed" / "b.nii")
    access, look = os.access, Path.stat

    def reject(path: Path, **words: Any) -> os.stat_result:
        if path.name == "b.nii":
            raise PermissionError(13, "Permission denied", str(path))
        return look(path, **words)

    # Not by the folder's mode: the user of the tests may open everything.
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path).name != "closed" and access(path, mode))
    monkeypatch.setattr(Path, "stat", reject)
    for path in (tmp_path / "closed", tmp_path / "closed" / "b.nii"):
        found = find_scans([tmp_path / "a.nii", path])
        assert names(found[:1]) == ["a"]
        with pytest.raises(OSError, match=f"may be read, got no permission for {path}"), found[1].open():
            pass


def test_volume_beside_dicom_that_is_no_ct_is_found(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    touch(headers(tmp_path / "a", Modality="RTSTRUCT") / "ct.nii.gz")
    touch(headers(tmp_path / "b", SeriesInstanceUID="5.6") / "ct.nii.gz")
    headers(tmp_path / "c", Modality="MR", SeriesInstanceUID="5.7")
    assert names(find_scans(tmp_path)) == ["a/ct", "5.6"]
    assert "modality RTSTRUCT" in caplog.text
    assert "modality MR" in caplog.text
    assert "Left out ct.nii.gz" not in caplog.text
    assert [source.path.name for source in find_scans(tmp_path / "a")] == ["ct.nii.gz"]


def test_results_in_the_searched_folder_are_no_scans(tmp_path: Path) -> None:
    touch(tmp_path / "a.nii")
    for name in file_names():
        touch(tmp_path / "out" / "a" / name)
    assert names(find_scans(tmp_path)) == ["a"]


@pytest.mark.parametrize(
    ("text", "wanted"),
    [("3_Thorax 1.0 I26f", "3_Thorax_1.0_I26f"), ("../../etc", "etc"), (".hidden/", "hidden"), ("..", "")],
)
def test_a_label_is_a_plain_name(text: str, wanted: str) -> None:
    assert label_of(text) == wanted


def test_a_scan_that_comes_again_in_a_list_is_taken_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.chdir(tmp_path)
    one, other = touch(tmp_path / "a" / "ct.nii.gz"), touch(tmp_path / "b" / "mr.nii.gz")
    series = headers(tmp_path / "Doe" / "s1")
    assert names(find_scans([one, "a/ct.nii.gz", other])) == ["ct", "mr"]
    assert "more than once (1 too many, a/ct.nii.gz the first)" in caplog.text
    assert "overlap" not in caplog.text
    assert names(find_scans([tmp_path / "Doe", "b", "Doe/s1", other])) == ["1.2.3.4", "b/mr"]
    assert f"overlap (2 scans come again, {Path('Doe/s1')} the first)" in caplog.text
    assert names(find_scans([series])) == ["1.2.3.4"]


def test_numbers_behind_names_do_not_depend_on_the_order_of_a_list(tmp_path: Path) -> None:
    """Or machines whose lists are in another order would leave a scan out and do another one twice."""
    paths = [headers(tmp_path / "a"), headers(tmp_path / "b"), headers(tmp_path / "c")]
    wanted = {path: name for path, name in zip(paths, ["1.2.3.4", "1.2.3.4_2", "1.2.3.4_3"], strict=True)}
    for order in (paths, paths[::-1]):
        assert {source.path: source.name for source in find_scans(order)} == wanted
    shares = [take_shard(find_scans(order), f"{number}/3") for number, order in enumerate([paths, paths[::-1], paths])]
    assert [source.path for share in shares for source in share] == paths
