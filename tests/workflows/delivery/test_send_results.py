"""DICOM results reach a server of either kind as they are, and a server that takes none is named."""

from __future__ import annotations

import base64
import contextlib
import http.server
import importlib.util
import io
import json
import re
import shutil
import socket
import subprocess
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from email.parser import BytesParser
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from monai.bundle import ConfigParser
from pydicom.uid import DeflatedExplicitVRLittleEndian

from scripts.data.scans.scan import read_scan
from scripts.inference.outputs.dicom.presentation_state import PresentationWriter
from scripts.inference.outputs.dicom.structured_report import DicomWriter
from scripts.workflows.delivery.send_results import Sender
from support.fake_dicom import write_ct
from support.fake_results import results_of
from support.fake_scans import ball_scan

CONFIG = Path(__file__).resolve().parents[3] / "mp3d_bundle" / "configs" / "inference.json"
SYNTAXES = ("1.2.840.10008.1.2.1", "1.2.840.10008.1.2")
SR, SEG = "1.2.840.10008.5.1.4.1.1.88.34", "1.2.840.10008.5.1.4.1.1.66.4"
FILES = ("lesions_sr.dcm", "lesions_seg.dcm")


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A report and a deflated segmentation."""
    series = write_ct(tmp_path_factory.mktemp("ct"), ball_scan(), spacing=(1.0, 1.0, 2.5))
    made = DicomWriter(deflate_above_megabytes=0.0)(results_of(read_scan(series), [(24, 10, 4, 37, 23, 9)], (0.9,)))
    folder = tmp_path_factory.mktemp("out")
    for name, content in made.items():
        (folder / name).write_bytes(content)
    seg = pydicom.dcmread(folder / "lesions_seg.dcm")
    assert seg.file_meta.TransferSyntaxUID == DeflatedExplicitVRLittleEndian
    return folder


def check(received: list[pydicom.Dataset], folder: Path) -> None:
    """What came is what was sent."""
    for name, there in zip(FILES, received, strict=True):
        here = pydicom.dcmread(folder / name)
        assert there.SOPInstanceUID == here.SOPInstanceUID
        assert there.SeriesInstanceUID == here.SeriesInstanceUID
    mine, theirs = pydicom.dcmread(folder / "lesions_seg.dcm"), received[1]
    np.testing.assert_array_equal(theirs.pixel_array, mine.pixel_array)
    assert theirs.pixel_array.any()
    assert received[0].ContentSequence[-1].ConceptNameCodeSequence[0].CodeValue


@contextlib.contextmanager
def archive(
    status: int = 0x0000, classes: tuple[str, ...] | None = None, syntaxes: Sequence[str] = SYNTAXES
) -> Iterator[tuple[str, list[pydicom.Dataset]]]:
    """A storage provider on a free port."""
    network = pytest.importorskip("pynetdicom", reason="pynetdicom is not installed; it is no dependency of the bundle")
    received: list[pydicom.Dataset] = []

    def store(event: Any) -> int:
        dataset = event.dataset
        dataset.file_meta = event.file_meta
        received.append(dataset)
        return status

    entity = network.AE(ae_title="ARCHIVE")
    entity.require_called_aet = True
    for context in network.AllStoragePresentationContexts:
        if classes is None or context.abstract_syntax in classes:
            entity.add_supported_context(context.abstract_syntax, list(syntaxes))
    server = entity.start_server(("127.0.0.1", 0), block=False, evt_handlers=[(network.evt.EVT_C_STORE, store)])
    try:
        yield f"ARCHIVE@127.0.0.1:{server.server_address[1]}", received
    finally:
        server.shutdown()


@contextlib.contextmanager
def web_server(
    status: int = 200, kind: str = "application/dicom+json", answer: Callable[[list[str]], str] = lambda uids: "{}"
) -> Iterator[tuple[str, list[pydicom.Dataset]]]:
    """A DICOMweb server that stores, on a free port; ``answer`` gets the UIDs of what came."""
    pytest.importorskip("dicomweb_client", reason="dicomweb-client is not installed; it is no dependency of the bundle")
    received: list[pydicom.Dataset] = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            head = f"Content-Type: {self.headers['Content-Type']}\r\n\r\n".encode()
            for part in BytesParser().parsebytes(head + body).walk():
                if part.get_content_type() == "application/dicom":
                    content: Any = part.get_payload(decode=True)
                    received.append(pydicom.dcmread(io.BytesIO(content)))
                    vars(received[-1])["requested"] = (self.path, self.headers["Host"], self.headers["Authorization"])
            self.send_response(status)
            self.send_header("Content-Type", kind)
            self.send_header("Location", "/elsewhere")
            self.end_headers()
            self.wfile.write(answer([one.SOPInstanceUID for one in received]).encode())

        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()

        def log_message(self, format: str, *args: Any) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://user:secret@127.0.0.1:{server.server_address[1]}/dicomweb", received
    finally:
        server.shutdown()
        server.server_close()


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


@pytest.fixture(scope="module")
def orthanc(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[int, int]]:
    """The archive Orthanc with its DICOMweb plugin (Debian: orthanc, orthanc-dicomweb): its two ports."""
    program, plugins = shutil.which("Orthanc"), sorted(Path("/usr").glob("*/orthanc/plugins/libOrthancDicomWeb.so"))
    if program is None or not plugins:
        pytest.skip("Orthanc with its DICOMweb plugin is not installed")
    for package in ("pynetdicom", "dicomweb_client"):
        pytest.importorskip(package, reason=f"{package} is not installed; it is no dependency of the bundle")
    folder = tmp_path_factory.mktemp("orthanc")
    dicom, web = free_port(), free_port()
    settings = {
        "Name": "test",
        "StorageDirectory": str(folder / "store"),
        "IndexDirectory": str(folder / "store"),
        "Plugins": [str(plugins[0])],
        "DicomWeb": {"Enable": True},
        "DicomAet": "ORTHANC",
        "DicomPort": dicom,
        "HttpPort": web,
        "RemoteAccessAllowed": False,
        "AuthenticationEnabled": False,
        # Only what is stored is asked for.
        "DicomAlwaysAllowStore": True,
        "UnknownSopClassAccepted": False,
    }
    (folder / "orthanc.json").write_text(json.dumps(settings), encoding="utf-8")
    with (folder / "log.txt").open("w") as log:
        running = subprocess.Popen([program, str(folder / "orthanc.json")], stdout=log, stderr=log)
    try:
        for _ in range(150):
            with contextlib.suppress(OSError):
                json_of(web, "system")
                break
            assert running.poll() is None, (folder / "log.txt").read_text()
            time.sleep(0.1)
        yield dicom, web
    finally:
        running.terminate()
        running.wait(30)


def content_of(port: int, path: str) -> bytes:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/{path}", timeout=10) as answer:
        return answer.read()


def json_of(port: int, path: str) -> Any:
    return json.loads(content_of(port, path))


@pytest.mark.parametrize("way", ["C-STORE", "STOW-RS"])
def test_orthanc_keeps_what_is_sent(orthanc: tuple[int, int], results: Path, way: str) -> None:
    dicom, web = orthanc
    address = f"ORTHANC@127.0.0.1:{dicom}" if way == "C-STORE" else f"http://127.0.0.1:{web}/dicom-web"
    assert json_of(web, "instances") == []
    assert Sender(address)(results) == 2
    kept = json_of(web, "instances")
    received = [pydicom.dcmread(io.BytesIO(content_of(web, f"instances/{one}/file"))) for one in kept]
    check(sorted(received, key=lambda one: one.Modality, reverse=True), results)
    # As a viewer finds them.
    series = json_of(web, f"dicom-web/studies/{received[0].StudyInstanceUID}/series")
    assert sorted(one["00080060"]["Value"][0] for one in series) == ["SEG", "SR"]
    for one in json_of(web, "patients"):
        request = urllib.request.Request(f"http://127.0.0.1:{web}/patients/{one}", method="DELETE")
        urllib.request.urlopen(request, timeout=10).close()


def test_a_presentation_state_is_sent_with_them(results: Path, tmp_path: Path) -> None:
    series = write_ct(tmp_path / "ct", ball_scan(), spacing=(1.0, 1.0, 2.5))
    state = PresentationWriter()(results_of(read_scan(series), [(24, 10, 4, 37, 23, 9)], (0.9,)))
    for path in results.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    (tmp_path / "lesions_pr.dcm").write_bytes(state["lesions_pr.dcm"])
    with archive() as (address, received):
        assert Sender(address)(tmp_path) == 3
    check(received[:2], results)
    assert received[2].SOPInstanceUID == pydicom.dcmread(tmp_path / "lesions_pr.dcm").SOPInstanceUID


def test_an_archive_receives_both_files(results: Path) -> None:
    with archive() as (address, received):
        assert Sender(address)(results) == 2
        # The same again is no error.
        assert Sender(address)(results) == 2
    check(received[:2], results)


def test_a_web_server_receives_both_files(results: Path) -> None:
    with web_server() as (address, received):
        assert Sender(address)(results) == 2
    check(received, results)


def test_an_archive_that_takes_none_is_named(results: Path) -> None:
    with (
        archive(0xA700) as (address, _),
        pytest.raises(OSError, match=r"to 127\.0\.0\.1: status A700 for Comprehensive 3D SR"),
    ):
        Sender(address)(results)
    with archive() as (address, _), pytest.raises(OSError, match="no association as OTHER"):
        Sender(address.replace("ARCHIVE", "OTHER"))(results)
    with archive(classes=("1.2.840.10008.5.1.4.1.1.2",)) as (address, received):
        with pytest.raises(OSError, match=r"Could not send lesions_sr\.dcm, lesions_seg\.dcm"):
            Sender(address)(results)
        assert received == []


def test_a_web_server_that_takes_none_is_named_without_the_password(results: Path) -> None:
    with web_server(503) as (address, _):
        with pytest.raises(OSError, match=r"Could not send .* the same command sends them again") as caught:
            Sender(address)(results)
        assert "secret" not in str(caught.value)


@pytest.mark.parametrize(("taken", "refused"), [(SR, "seg"), (SEG, "sr")])
def test_what_an_archive_does_not_take_costs_no_other_file(
    results: Path, taken: str, refused: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    with (
        archive(classes=(taken,)) as (address, received),
        pytest.raises(
            OSError, match=rf"Could not send lesions_{refused}\.dcm of .*has been accepted.*sends them again"
        ),
    ):
        Sender(address)(results)
    assert [one.SOPClassUID for one in received] == [taken]
    assert f"sent {'lesions_sr.dcm' if taken == SR else 'lesions_seg.dcm'}" in caplog.text


def test_an_archive_that_knows_the_files_has_them(results: Path) -> None:
    with archive(0x0111) as (address, _):
        assert Sender(address)(results) == 2
    with archive(syntaxes=SYNTAXES[1:]) as (address, received):
        assert Sender(address)(results) == 2
    check(received, results)


def stored(*uids: str) -> dict[str, Any]:
    return {"00081199": {"vr": "SQ", "Value": [{"00081155": {"vr": "UI", "Value": [uid]}} for uid in uids]}}


def failed(uid: str, reason: int) -> dict[str, Any]:
    item = {"00081155": {"vr": "UI", "Value": [uid]}, "00081197": {"vr": "US", "Value": [reason]}}
    return {"00081198": {"vr": "SQ", "Value": [item]}}


@pytest.mark.parametrize("kind", ["application/dicom+json", "application/json; charset=UTF-8"])
@pytest.mark.parametrize(
    ("status", "answer", "told"),
    [
        (202, lambda uids: stored(uids[0]) | failed(uids[1], 0x0122), r"lesions_seg\.dcm of .*: reason 0122 for Seg"),
        (202, lambda uids: stored(uids[1]) | failed(uids[0], 0xA700), r"lesions_sr\.dcm of .*: reason A700 for Comp"),
        (
            409,
            lambda uids: failed(uids[0], 0x0110),
            r"lesions_sr\.dcm, lesions_seg\.dcm of .*: reason 0110 .*; it is not",
        ),
        (409, lambda uids: {}, r"lesions_sr\.dcm, lesions_seg\.dcm of .*: 409"),
        (200, lambda uids: stored(uids[1]), r"lesions_sr\.dcm of .*: it is not among the stored ones"),
        (200, lambda uids: stored(*uids), None),
        (409, lambda uids: stored(uids[0]) | failed(uids[1], 0x0111), None),
    ],
)
def test_what_a_web_server_answers_of_each_file_is_told(
    results: Path, kind: str, status: int, answer: Callable[[list[str]], Any], told: str | None
) -> None:
    with web_server(status, kind, lambda uids: json.dumps(answer(uids))) as (address, _):
        if told is None:
            assert Sender(address)(results) == 2
        else:
            with pytest.raises(OSError, match=rf"Could not send {told}"):
                Sender(address)(results)


def test_a_page_in_the_place_of_an_answer_is_not_taken_for_one(results: Path) -> None:
    with (
        web_server(200, "text/html", lambda uids: "<p>Sign in") as (address, _),
        pytest.raises(OSError, match="expected an answer in JSON or XML, got text/html"),
    ):
        Sender(address)(results)
    with web_server(302) as (address, _), pytest.raises(OSError, match="redirects to /elsewhere"):
        Sender(address)(results)


def test_a_web_server_is_called_by_its_name(results: Path) -> None:
    with web_server() as (address, received):
        Sender(address.replace("user:secret", "user:se%40cret") + "/")(results)
    path, host, user = received[0].requested
    assert path == "/dicomweb/studies"
    assert host.startswith("127.0.0.1")
    assert base64.b64decode(user.removeprefix("Basic ")) == b"user:se@cret"


def test_a_folder_without_dicom_sends_nothing(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    pytest.importorskip("pynetdicom", reason="pynetdicom is not installed; it is no dependency of the bundle")
    assert Sender("A@127.0.0.1:1")(tmp_path) == 0
    assert "nothing to send" in caplog.text


@pytest.mark.parametrize("address", ["", "host:104", "A@host", "A@host:0", "A@host:99999", "ftp://host", "A@b@c:1"])
def test_other_addresses_are_rejected(address: str) -> None:
    with pytest.raises(ValueError, match="Expected TITLE@HOST:PORT or the http"):
        Sender(address)


def test_a_missing_package_is_named_before_the_work(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ImportError, match=r"package pynetdicom for --send, .*pip install pynetdicom\."):
        Sender("A@host:104")
    with pytest.raises(ImportError, match=r"pip install dicomweb-client\."):
        Sender("https://host/dicomweb")


def test_the_packages_are_an_extra() -> None:
    found = re.search(r"(?m)^send = \[(.*)\]$", (CONFIG.parents[2] / "pyproject.toml").read_text(encoding="utf-8"))
    assert found is not None
    assert {re.split("[<>=]", name.strip(' "'))[0] for name in found[1].split(",")} == {"dicomweb-client", "pynetdicom"}


def test_config_sends_to_the_server_that_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: True)
    parser = ConfigParser(ConfigParser.load_config_files([str(CONFIG)]))
    assert parser.get("evaluator")["send"] == "@sender"
    assert parser.get_parsed_content("sender") is None
    parser["send"] = "A@host:104"
    parser.parse(reset=True)
    assert parser.get_parsed_content("sender") == Sender("A@host:104")
