"""Objects in stores: listed, fetched whole, sent; every error is one line that names the URL."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import fsspec
import pytest

from scripts.storage.object_stores import (
    check_store,
    fetch_if_there,
    fetched,
    list_objects,
    read_object,
    send,
    url_of,
)
from support.stores import KINDS, contents, open_bucket


@pytest.fixture(params=KINDS)
def bucket(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    yield from open_bucket(request.param, monkeypatch)


@pytest.mark.parametrize(
    ("text", "url"),
    [
        ("s3://bucket/a b.nii.gz", "s3://bucket/a b.nii.gz"),
        (Path("s3://bucket/a/b.zip"), "s3://bucket/a/b.zip"),
        (Path("gs://bucket"), "gs://bucket"),
        ("s3:", None),
        ("s3://", None),
        ("/data/s3://bucket", None),
        ("s3/bucket", None),
        ("C:/data", None),
        ("2024:/x", None),
        ("file:///etc/passwd", None),
    ],
)
def test_urls_are_told_from_paths(text: str | Path, url: str | None) -> None:
    assert url_of(text) == url


def test_what_is_sent_is_listed_and_fetched(bucket: str, tmp_path: Path) -> None:
    (tmp_path / "one").write_bytes(b"1")
    (tmp_path / "two").write_bytes(b"")
    send({"a/one.txt": tmp_path / "one", "a/b/two": tmp_path / "two", "ab": tmp_path / "one"}, f"{bucket}/x/")
    assert contents(f"{bucket}/x") == {"a/one.txt": b"1", "a/b/two": b"", "ab": b"1"}
    urls = list_objects(f"{bucket}/x/a")
    assert urls == [f"{bucket}/x/a/b/two", f"{bucket}/x/a/one.txt"]
    assert list_objects(urls[1]) == [urls[1]]
    assert read_object(urls[1]) == b"1"
    with fetched(urls, f"{bucket}/x") as folder:
        assert (folder / "a" / "one.txt").read_bytes() == b"1"
        assert (folder / "a" / "b" / "two").read_bytes() == b""
    assert not folder.exists()
    send({"a/one.txt": None, "a/not_there": None}, f"{bucket}/x")
    assert set(contents(f"{bucket}/x")) == {"a/b/two", "ab"}
    assert not fetch_if_there(urls[1], tmp_path / "three")
    assert fetch_if_there(urls[0], tmp_path / "four")


def test_a_store_that_can_be_written_is_left_as_it_was(bucket: str) -> None:
    check_store(f"{bucket}/results")
    assert contents(bucket) == {}


def test_what_is_not_there_is_named(bucket: str) -> None:
    for ask in (list_objects, read_object):
        with pytest.raises(FileNotFoundError, match=rf"Expected an object at {bucket}/none, found none\."):
            ask(f"{bucket}/none")


def test_a_key_cannot_lead_out_of_the_temporary_folder(bucket: str) -> None:
    for url in (f"{bucket}/x/../../../tmp/evil", f"{bucket}/y", f"{bucket}/x/.."):
        with pytest.raises(ValueError, match="without a step upwards"), fetched([url], f"{bucket}/x"):
            pass


def test_an_object_that_arrives_in_part_is_an_error_and_the_folder_is_removed(
    bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "one").write_bytes(b"0123456789")
    send({"one": tmp_path / "one"}, bucket)
    store, _ = fsspec.core.url_to_fs(bucket)
    monkeypatch.setattr(store, "get_file", lambda key, path: Path(path).write_bytes(b"0123"))
    monkeypatch.setenv("TMPDIR", str(tmp_path / "temporary"))
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr("tempfile.tempdir", None)
    with (
        pytest.raises(OSError, match=rf"Could not use {bucket}/one: 4 of 10 bytes"),
        fetched([f"{bucket}/one"], bucket),
    ):
        pass
    assert list((tmp_path / "temporary").iterdir()) == []


def test_errors_of_a_store_are_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(self: object, *arguments: object, **more: object) -> None:
        raise RuntimeError("no\ncredentials")

    monkeypatch.setattr(type(fsspec.filesystem("memory")), "isfile", fail)
    with pytest.raises(OSError, match=r"^Could not use memory://a/b: no credentials\.$"):
        list_objects("memory://a/b")


def test_a_package_that_is_missing_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(url: str) -> None:
        raise ImportError("Install s3fs to access S3")

    monkeypatch.setattr(fsspec.core, "url_to_fs", missing)
    with pytest.raises(ImportError, match=r"Expected s3fs for s3://a/b, which is not installed: `make stores`, or pip"):
        list_objects("s3://a/b")
