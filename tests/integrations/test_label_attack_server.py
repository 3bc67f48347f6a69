"""Attacks on a real MONAI Label server, as a web page, a careless client or a hostile file would play them.

Requests are written to the socket byte by byte: no client library tidies their paths and headers up.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from support.fake_labels import write_ball, write_scan, write_weights
from support.label_server import Server

pytestmark = pytest.mark.skipif("MP3D_LABEL_SERVER" not in os.environ, reason="`make test-label` starts servers")

OURS = "mp3d_bundle"
EVIL, FRIEND = "https://evil.example", "https://viewer.example"
BOUNDARY = "limit"


@dataclass
class Victim:
    """A server, its scans, and a folder next to them where nothing may appear."""

    server: Server
    studies: Path
    outside: Path

    def raw(self, head: str, body: bytes = b"", *headers: str, host: str | None = None) -> tuple[int, str, bytes]:
        """Status, headers and body of the answer to a request line."""
        port = int(self.server.address.rsplit(":", 1)[1])
        lines = [f"{head} HTTP/1.1", f"Host: {host or f'127.0.0.1:{port}'}", "Connection: close", *headers]
        if body and not any(line.lower().startswith(("content-length", "transfer")) for line in headers):
            lines.append(f"Content-Length: {len(body)}")
        answer = b""
        with socket.create_connection(("127.0.0.1", port), timeout=120) as plug:
            # It may answer before all was sent, and close.
            with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                plug.sendall("\r\n".join([*lines, "", ""]).encode("latin-1") + body)
            with contextlib.suppress(ConnectionResetError):
                while chunk := plug.recv(1 << 16):
                    answer += chunk
        top, _, rest = answer.partition(b"\r\n\r\n")
        return int(top.split()[1]) if top else 0, top.decode("latin-1").lower(), rest

    def files(self) -> dict[str, bytes]:
        """Everything in and next to the scans' folder, except the lists that MONAI Label keeps."""
        top = self.studies.parent
        kept = ("datastore_v2.json", ".lock")
        found = (path for path in top.rglob("*") if path.is_file() and path.name not in kept and path.suffix != ".log")
        parts = {"served", "temporary"}
        return {str(path.relative_to(top)): path.read_bytes() for path in found if not parts & {*path.parts}}


def form(**parts: bytes | tuple[str, bytes]) -> tuple[bytes, str]:
    """A multipart form as a page can send it without preflight, and its header."""
    lines = []
    for name, part in parts.items():
        file, content = part if isinstance(part, tuple) else (None, part)
        lines.append(f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="{name}"'.encode())
        lines.append(f'; filename="{file}"'.encode() if file is not None else b"")
        lines += [b"\r\n\r\n", content, b"\r\n"]
    return b"".join([*lines, f"--{BOUNDARY}--\r\n".encode()]), f"Content-Type: multipart/form-data; boundary={BOUNDARY}"


@pytest.fixture(scope="module")
def victim(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Victim]:
    """Our app with a narrow network, one scan, one submitted label, and links in the folder that lead out of it."""
    top = tmp_path_factory.mktemp("top")
    studies, outside = top / "studies", top / "outside"
    (studies / "labels").mkdir(parents=True)
    outside.mkdir()
    write_scan(studies / "ball.nii.gz")
    # What else is found next to scans, and a scan that has the name of a file where the server is started.
    (studies / "ball.xml").write_text("<x/>")
    write_scan(studies / "Makefile.nii.gz")
    (studies / "labels" / "linked").symlink_to(outside)
    weights = write_weights(top / "served" / "weights.pt")
    arguments = ("--studies", studies, "--folder", top / "served", "--weights", weights, "--allow_origin", FRIEND)
    temporary = top / "temporary"
    temporary.mkdir()
    server = Server(top / "server.log", *arguments, "--max_upload_mb", "1", TMPDIR=str(temporary))
    yield Victim(server, studies, outside)
    server.close()


@pytest.fixture(autouse=True)
def unharmed(request: pytest.FixtureRequest) -> Iterator[None]:
    """Whatever a test of an attack did, files are what they were and the server answers."""
    victim: Victim = request.getfixturevalue("victim")
    before = victim.files()
    yield
    if not request.node.name.startswith("test_what_may_be_done"):
        assert victim.files() == before
    assert victim.server.ask("GET", "/info/").status == 200


def label(path: Path) -> bytes:
    return write_ball(path).read_bytes()


def test_a_page_of_another_site_is_rejected_whatever_it_asks(victim: Victim, tmp_path: Path) -> None:
    body, kind = form(label=("x.json", label(tmp_path / "x.json")))
    asked = [
        ("GET /info/", b""),
        ("GET /datastore/image?image=ball", b""),
        ("PUT /datastore/label?image=ball&tag=final", body),
        ("PUT /datastore/?image=new", form(file=("x.nii", b"1"))[0]),
        (f"POST /infer/{OURS}?image=ball", form(params=b"{}")[0]),
        (f"POST /train/{OURS}", b"{}"),
        ("DELETE /datastore/label?id=ball&tag=final", b""),
    ]
    for head, sent in asked:
        for origin in (EVIL, "null", f"{FRIEND}.evil.example", "http://127.0.0.1", "http://localhost:1"):
            status, top, _ = victim.raw(head, sent, kind, f"Origin: {origin}")
            assert (status, "access-control" in top) == (403, False), (head, origin)
        # As images and scripts are asked for, and by a name that was pointed at this address.
        assert victim.raw(head, sent, kind, "Sec-Fetch-Site: cross-site", "Sec-Fetch-Mode: no-cors")[0] == 403
        for host in ("evil.example", "127.0.0.1.evil.example", "localhost.evil.example:80"):
            assert victim.raw(head, sent, kind, host=host)[0] == 421
    status, top, _ = victim.raw(
        "OPTIONS /datastore/label", b"", f"Origin: {EVIL}", "Access-Control-Request-Method: PUT"
    )
    assert (status, "access-control" in top) == (403, False)
    status, top, _ = victim.raw("OPTIONS /info/", b"", f"Origin: {FRIEND}", "Access-Control-Request-Method: GET")
    assert (status, f"access-control-allow-origin: {FRIEND}" in top) == (204, True)
    status, top, _ = victim.raw("GET /info/", b"", f"Origin: {FRIEND}")
    assert (status, f"access-control-allow-origin: {FRIEND}\r\n" in top, "credentials" in top) == (200, True, False)


PATHS = [
    "../x",
    "..%2fx",
    "%2e%2e%2fx",
    "%252e%252e%252fx",
    "..%5cx",
    "%2fetc%2fpasswd",
    "/etc/passwd",
    "x%00",
    "..",
    "",
]


def test_nothing_is_written_to_a_path(victim: Victim, tmp_path: Path) -> None:
    scan = (victim.studies / "ball.nii.gz").read_bytes()
    box, absolute = label(tmp_path / "x.json"), str(victim.outside / "x").replace("/", "%2f")
    image, kind = form(file=("x.nii.gz", scan))
    sent, _ = form(label=("x.json", box))
    for path in [*PATHS[:9], absolute, f"ball&image={absolute}", f"{absolute}&image=ball"]:
        if path != "%252e%252e%252fx":  # decoded once it is a name, though an odd one
            assert victim.raw(f"PUT /datastore/?image={path}", image, kind)[0] in (400, 404), path
            assert victim.raw(f"PUT /datastore/image?image={path}", image, kind)[0] in (400, 404), path
        assert victim.raw(f"PUT /datastore/label?image={path}&tag=final", sent, kind)[0] in (400, 404), path
        assert victim.raw(f"PUT /datastore/label?image=ball&tag={path}", sent, kind)[0] in (400, 404), path
        assert victim.raw(f"DELETE /datastore/label?id={path}&tag=final")[0] in (400, 404), path
        assert victim.raw(f"GET /datastore/image?image={path}")[0] in (400, 404), path
        assert victim.raw(f"POST /infer/{OURS}?image={path}", *form(params=b"{}"))[0] in (400, 404), path
    for name in ("x.sh", "../../x.py", "x.nii.gz/../../x.so", "x.html", "x.nhdr", "x.mhd", "x.pkl", "x.pt"):
        for head, body in (
            ("PUT /datastore/?image=new", form(file=(name, scan))[0]),
            ("PUT /datastore/label?image=ball&tag=final", form(label=(name, box))[0]),
            (f"POST /infer/{OURS}", form(file=(name, scan))[0]),
        ):
            assert victim.raw(head, body, kind)[0] == 400, (head, name)
    # Through a link in the folder, and over a scan that is there.
    assert victim.raw("PUT /datastore/label?image=ball&tag=linked", sent, kind)[0] == 400
    for head in ("PUT /datastore/?image=ball", "PUT /datastore/image?image=ball"):
        assert victim.raw(head, image, kind)[0] == 409
    assert victim.raw("PUT /datastore/", *form(file=("/scans/mine/ball.nii", scan)))[0] == 409
    for name in ("..", "../..", "a\0b"):
        assert victim.raw("PUT /session/", *form(files=(name, scan)))[0] in (400, 422), name
    assert victim.raw("PUT /session/?uncompress=true", *form(files=("x.zip", b"PK")))[0] == 400


def test_only_what_is_needed_is_served(victim: Victim) -> None:
    closed = ["/logs/", "/logs/gpu", "/docs", "/openapi.json", "/ohif/", "/static/x", "/scoring/", f"/model/{OURS}"]
    closed += ["/proxy/dicom/wado/x", "/proxy/dicom/..%2f..%2fx", f"/model/info/{OURS}", "/files", "/wsi", "/nosuch"]
    for path in [*closed, "/info/..%2flogs%2f", "/info/../logs/", "//logs/", "/%6cogs/", "/session/..%2f..%2fx"]:
        for method in ("GET", "POST", "PUT", "DELETE", "PATCH", "TRACE"):
            sent = victim.raw(f"{method} {path}", b"", "X-HTTP-Method-Override: GET", "X-Original-URL: /info/")
            assert sent[0] in (404, 405), (method, path)
    assert victim.raw("POST /reload")[0] == 404
    assert victim.raw("DELETE /datastore/image?id=ball")[0] == 405
    assert victim.raw("DELETE /datastore/?id=ball")[0] == 405
    for head in ("GET /info/", "GET /x"):
        upgraded = ("Upgrade: websocket", "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==", "Sec-WebSocket-Version: 13")
        status, _, _ = victim.raw(head, b"", "Connection: Upgrade", *upgraded)
        assert status != 101


def test_what_is_not_there_is_said_at_once(victim: Victim) -> None:
    begun = time.monotonic()
    for head, body, kind, status in (
        ("POST /train/nosuch", b"{}", "Content-Type: application/json", 404),
        ("POST /train/nosuch", b"", "X: y", 404),
        ("POST /train/nosuch?run_sync=true", b"{}", "Content-Type: application/json", 404),
        ("POST /batch/infer/nosuch", b"{}", "Content-Type: application/json", 404),
        ("POST /activelearning/nosuch", b"{}", "Content-Type: application/json", 404),
        ("POST /infer/nosuch?image=ball", *form(params=b"{}"), 404),
        ("POST /infer/", *form(params=b"{}"), 404),
        (f"POST /infer/{OURS}", *form(params=b"{}"), 400),
        (f"POST /infer/{OURS}?image=", *form(params=b"{}"), 400),
        (f"POST /infer/{OURS}", b"", "X: y", 400),
        (f"POST /infer/{OURS}?image=nosuch", *form(params=b"{}"), 404),
        (f"POST /infer/{OURS}?session_id=123e4567-e89b-12d3-a456-426614174000", *form(params=b"{}"), 404),
        ("GET /datastore/image?image=nosuch", b"", "X: y", 404),
        ("GET /datastore/label?label=nosuch&tag=final", b"", "X: y", 404),
        ("DELETE /datastore/label?id=ball&tag=nosuch", b"", "X: y", 404),
        ("PUT /datastore/label?image=ball", b"", "X: y", 422),
    ):
        got, _, answer = victim.raw(head, body, kind)
        assert got == status, (head, answer)
        assert json.loads(answer)["detail"]
    assert time.monotonic() - begun < 30
    assert victim.server.ask("GET", "/train/").status == 404  # none was started


BAD_PARAMS = [
    *({name: "/etc/passwd"} for name in ("image", "label", "image_path", "file")),
    *({"score_threshold": "$__import__('os').mkdir('TRACE')"}, {"device": "$__import__('os').mkdir('TRACE')"}),
    *(
        {"bundle_path": "TRACE"},
        {"session": {"image": "/etc/passwd"}},
        {"model": "nosuch"},
        {"x": {"_target_": "os.system"}},
    ),
    *({"label_tag": "../../x", "save_label": True}, {"model_filename": "../x.pt"}, {"score_threshold": 10**400}),
    *({"images": ["/etc/passwd"]}, {"gpus": "0;x"}, {"logging": "x"}, {"result_extension": "/../x"}),
]


@pytest.mark.parametrize("params", BAD_PARAMS)
def test_parameters_are_plain_data(victim: Victim, params: dict[str, Any]) -> None:
    trace = victim.outside / "trace"
    text = json.dumps(params).replace("TRACE", str(trace)).encode()
    assert victim.raw(f"POST /infer/{OURS}?image=ball", *form(params=text))[0] == 400
    if "model_filename" not in params and params.get("score_threshold") != 10**400:
        for head in (f"POST /train/{OURS}", f"POST /batch/infer/{OURS}", "POST /activelearning/first"):
            assert victim.raw(head, text, "Content-Type: application/json")[0] == 400, head
    assert not trace.exists()


def test_odd_json_is_rejected(victim: Victim, tmp_path: Path) -> None:
    box = label(tmp_path / "x.json")
    for text in (b"[" * 100_000, b'{"a":' * 5_000, b'{"max_epochs": ' + b"9" * 5000 + b"}", b"\xff", b"{", b"[1]"):
        assert victim.raw(f"POST /infer/{OURS}?image=ball", *form(params=text))[0] == 400, text[:9]
        assert (
            victim.raw("PUT /datastore/label?image=ball&tag=final", *form(params=text, label=("x.json", box)))[0] == 400
        )
        for head in (f"POST /train/{OURS}", f"POST /batch/infer/{OURS}", "POST /activelearning/first"):
            status, _, _ = victim.raw(head, text, "Content-Type: application/json")
            assert 400 <= status < 500, (head, text[:9])
    for value in ("Infinity", "NaN", "1e400", "-5", "1e300", '"9"', "[]", "{}", "true"):
        text = f'{{"max_epochs": {value}}}'.replace('"9"', '"x"').encode()
        status, _, _ = victim.raw(f"POST /train/{OURS}?run_sync=true", text, "Content-Type: application/json")
        assert 400 <= status < 500, value


def test_bodies_are_limited(victim: Victim) -> None:
    big = (2 << 20) + 1
    for head in ("PUT /datastore/?image=big", f"POST /infer/{OURS}", "PUT /session/", f"POST /train/{OURS}"):
        assert victim.raw(head, b"", f"Content-Length: {big}")[0] == 413
        body, kind = form(file=("x.nii", b"0" * big), files=("x.nii", b"0"))
        chunks = f"{len(body):x}\r\n".encode() + body + b"\r\n0\r\n\r\n"
        assert victim.raw(head, chunks, kind, "Transfer-Encoding: chunked")[0] == 413, head
    assert victim.raw("GET /info/", b"x" * 10)[0] == 413
    assert victim.raw("PUT /datastore/label?image=ball", b"", f"Content-Length: {'9' * 18}")[0] == 413


def test_what_may_be_done_by_programs_and_named_pages(victim: Victim, tmp_path: Path) -> None:
    box = label(tmp_path / "x.json")
    for name, headers in (("ball", ()), ("from page", (f"Origin: {FRIEND}",))):
        if name != "ball":
            scan = (victim.studies / "ball.nii.gz").read_bytes()
            body, kind = form(file=("C:\\scans\\from page.nii.gz", scan))
            status, _, answer = victim.raw("PUT /datastore/", body, kind, *headers)
            assert (status, json.loads(answer)["image"]) == (200, name)
        quoted = name.replace(" ", "%20")
        body, kind = form(label=("/tmp/lesions.json", box), params=b'{"client_id": "user-xyz"}')
        assert victim.raw(f"PUT /datastore/label?image={quoted}&tag=final", body, kind, *headers)[0] == 200
        assert (victim.studies / "labels" / "final" / f"{name}.json").read_bytes() == box
        status, _, answer = victim.raw(f"GET /datastore/label?label={quoted}&tag=final", b"", *headers)
        assert (status, answer) == (200, box)
        body, kind = form(params=b'{"score_threshold": 0.0}')
        status, _, answer = victim.raw(f"POST /infer/{OURS}?image={quoted}&output=json", body, kind, *headers)
        assert (status, len(json.loads(answer)["box"]) > 0) == (200, True)
        assert victim.raw(f"DELETE /datastore/label?id={quoted}&tag=final", b"", *headers)[0] == 200
        assert not (victim.studies / "labels" / "final" / f"{name}.json").exists()


def test_what_may_be_done_in_a_session(victim: Victim) -> None:
    scan = (victim.studies / "ball.nii.gz").read_bytes()
    status, _, answer = victim.raw("PUT /session/?uncompress=false", *form(files=("../ball.nii.gz", scan)))
    assert status == 200, answer
    session = json.loads(answer)["session_id"]
    try:
        status, _, answer = victim.raw(
            f"POST /infer/{OURS}?image=&session_id={session}&output=json", *form(params=b"{}")
        )
        assert status == 200, answer
    finally:
        assert victim.raw(f"DELETE /session/{session}")[0] == 200
    assert victim.raw(f"GET /session/{session}")[0] == 404


def test_what_a_client_sent_does_not_stay(victim: Victim) -> None:
    temporary = victim.studies.parent / "temporary"
    before = {*temporary.iterdir()}  # the settings of the log
    scan = (victim.studies / "ball.nii.gz").read_bytes()
    for parts, status, message in (
        ({"params": b"{}", "file": ("x.nii.gz", scan[:200])}, 422, "Expected a complete and undamaged file"),
        ({"params": b'{"score_threshold": 7}', "file": ("x.nii.gz", scan)}, 400, "from 0 to 1, got 7"),
        ({"params": b'{"score_threshold": "0_1"}', "file": ("x.nii.gz", scan)}, 400, "from 0 to 1, got '0_1'"),
        ({"params": b'{"score_treshold": 1}', "file": ("x.nii.gz", scan)}, 400, "Is score_threshold meant?"),
        ({"params": b"{}", "file": ("x.nii.gz", scan), "label": ("x.bin", b"1234")}, 400, "Expected a file ending in"),
    ):
        got, _, answer = victim.raw(f"POST /infer/{OURS}?output=json", *form(**parts))
        assert (got, message in answer.decode()) == (status, True), answer
        assert str(temporary) not in answer.decode()
    long = "%F0%9F%98%80" * 100
    body, kind = form(file=("x.nii.gz", scan))
    got, _, answer = victim.raw(f"PUT /datastore/?image={long}", body, kind)
    assert (got, b"at most 240 bytes" in answer) == (400, True)
    assert {*temporary.iterdir()} == before


def test_a_list_that_could_not_be_read_back_is_not_made(victim: Victim, tmp_path: Path) -> None:
    for info in (b'{"a": NaN}', rb'{"a": "\ud800"}'):
        body, kind = form(label=("x.json", label(tmp_path / "x.json")), params=info)
        assert victim.raw("PUT /datastore/label?image=ball&tag=final", body, kind)[0] == 400
    assert victim.raw("GET /datastore/?output=all")[0] == 200


def test_an_id_is_not_a_path_where_the_server_was_started(victim: Victim) -> None:
    status, _, answer = victim.raw("GET /datastore/?output=all")
    listed = {name: one["image"]["ext"] for name, one in json.loads(answer)["objects"].items()}
    assert (status, listed["ball"], listed["Makefile"]) == (200, ".nii.gz", ".nii.gz")
    status, _, answer = victim.raw(f"POST /infer/{OURS}?image=Makefile&output=json", *form(params=b"{}"))
    assert (status, json.loads(answer)["image"]) == (200, "Makefile.nii.gz")


def test_nothing_found_is_an_empty_file_if_only_a_file_is_asked_for(victim: Victim) -> None:
    body, kind = form(params=b'{"client_id": "user-xyz", "score_threshold": 1.0}')
    status, _, answer = victim.raw(f"POST /infer/{OURS}?image=ball&output=image", body, kind)
    assert (status, json.loads(answer)["markups"]) == (200, [])


def test_other_requests_are_answered_during_an_inference(victim: Victim) -> None:
    done = []
    asked = [threading.Thread(target=lambda: done.append(victim.server.infer(OURS, "ball"))) for _ in range(6)]
    for thread in asked:
        thread.start()
    while not done:
        assert victim.server.ask("GET", "/datastore/").status == 200
    before = len(done)
    begun = time.monotonic()
    assert victim.server.ask("GET", "/datastore/").status == 200
    waited = time.monotonic() - begun
    for thread in asked:
        thread.join()
    assert (before < 6, [answer.status for answer in done]) == (True, [200] * 6)
    # One after the other on the event loop, the request would have been the last.
    assert waited < 2
    assert len({json.dumps(answer.json()["lesions"]) for answer in done}) == 1


def test_the_server_is_on_this_machine_only(victim: Victim) -> None:
    # All of 127.* is this machine on Linux; a server on every address would answer there.
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.2", int(victim.server.address.rsplit(":", 1)[1])), timeout=5)
