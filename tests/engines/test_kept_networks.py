"""Converted networks on the disk: what was written comes back, and nothing else does."""

from __future__ import annotations

import logging
import zipfile
from pathlib import Path

import pytest

from scripts.engines.kept_networks import KeptNetwork

MEMBERS = {"backbone/xml": b"<net/>" * 50, "backbone/bin": bytes(range(256)) * 9}


@pytest.fixture
def kept(tmp_path: Path) -> KeptNetwork:
    return KeptNetwork(tmp_path / "model.pt", "openvino", "ab" * 32)


def test_it_comes_back(kept: KeptNetwork) -> None:
    assert kept.read() is None
    kept.write(MEMBERS)
    assert kept.read() == MEMBERS
    assert [path.name for path in kept.folder.iterdir()] == ["model.openvino.abababababababab.zip"]
    assert kept.folder.name.startswith(".")  # searches for scans leave hidden folders out


def test_equal_networks_give_equal_files(kept: KeptNetwork, tmp_path: Path) -> None:
    kept.write(MEMBERS)
    other = KeptNetwork(tmp_path / "other" / "model.pt", "openvino", "ab" * 32)
    other.write(MEMBERS)
    assert other.path.read_bytes() == kept.path.read_bytes()


@pytest.mark.parametrize("share", [0.0, 0.02, 0.3, 0.6, 0.97])
def test_a_changed_byte_is_not_believed(kept: KeptNetwork, caplog: pytest.LogCaptureFixture, share: float) -> None:
    kept.write(MEMBERS)
    content = bytearray(kept.path.read_bytes())
    content[int(share * len(content))] ^= 0x21
    kept.path.write_bytes(content)
    # Either the damage shows, or it lies in a byte of the zip that says nothing about the content.
    assert kept.read() in (None, MEMBERS)
    assert "damaged" in caplog.text or kept.read() == MEMBERS


def test_content_of_another_network_is_not_believed(kept: KeptNetwork, caplog: pytest.LogCaptureFixture) -> None:
    """A whole zip whose members are not those that its hashes name."""
    kept.write(MEMBERS)
    with zipfile.ZipFile(kept.path) as archive:
        held = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(kept.path, "w") as archive:
        for name, content in {**held, "backbone/bin": b"others"}.items():
            archive.writestr(name, content)
    assert kept.read() is None
    assert "is damaged and is made anew: its content is not what was written" in caplog.text


@pytest.mark.parametrize("content", [b"", b"PK", b"\0" * 100])
def test_what_is_not_a_zip_is_not_believed(kept: KeptNetwork, caplog: pytest.LogCaptureFixture, content: bytes) -> None:
    kept.folder.mkdir()
    kept.path.write_bytes(content)
    assert kept.read() is None
    assert len(caplog.records) == 1


def test_those_of_earlier_weights_go_and_others_stay(kept: KeptNetwork, tmp_path: Path) -> None:
    stay = [
        KeptNetwork(tmp_path / "model.pt", "onnx", "00" * 32),
        KeptNetwork(tmp_path / "model2.pt", "openvino", "00" * 32),
    ]
    for each in (*stay, KeptNetwork(tmp_path / "model.pt", "openvino", "00" * 32), kept):
        each.write(MEMBERS)
    assert sorted(kept.folder.iterdir()) == sorted([kept.path, *(each.path for each in stay)])


def test_a_place_that_cannot_be_written_gives_a_line(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / ".engines").write_text("a file in the place of the folder")
    kept = KeptNetwork(tmp_path / "model.pt", "openvino", "ab" * 32)
    with caplog.at_level(logging.WARNING):
        kept.write(MEMBERS)
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert "not kept and has to be made again next time" in caplog.text
