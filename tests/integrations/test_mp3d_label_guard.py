"""The guard in front of MONAI Label, request by request, without MONAI Label."""

from __future__ import annotations

import json
import random
from collections.abc import Coroutine
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from support.module_files import load_module

APP = Path(__file__).resolve().parents[2] / "integrations" / "monai_label" / "app"
guard = load_module(APP / "mp3d_label_guard.py")
SESSION = "123e4567-e89b-12d3-a456-426614174000"
HOME = "127.0.0.1:8000"
FRIEND = "https://viewer.example"


@dataclass
class Behind:
    """Stands in for MONAI Label: reads the body and keeps the requests that came through."""

    seen: list[Any] = field(default_factory=list)

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        size, more = 0, scope["type"] == "http"
        while more:
            message = await receive()
            if message["type"] == "http.disconnect":
                return
            size, more = size + len(message.get("body", b"")), message.get("more_body", False)
        self.seen.append((scope.get("method"), scope.get("path"), size))
        headers = [(b"access-control-allow-origin", b"*"), (b"access-control-allow-credentials", b"true")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": b"{}"})


@dataclass
class Answer:
    status: int = 0
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""


def drive(work: Coroutine[Any, Any, None]) -> None:
    """Run what waits for nothing."""
    with pytest.raises(StopIteration):
        work.send(None)


def ask(
    method: str = "GET", path: str = "/info/", query: str = "", *, body: tuple[bytes, ...] = (b"",), **settings: Any
) -> tuple[Answer, list[Any]]:
    """One request; ``headers`` as pairs, ``host`` by itself."""
    behind, answer = Behind(), Answer()
    headers = [("host", settings.pop("host", HOME)), *settings.pop("headers", ())]
    application = guard.Guard(behind, **settings)
    parts = list(body)

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": parts.pop(0), "more_body": bool(parts)}

    async def send(message: dict[str, Any]) -> None:
        if message["type"] == "http.response.start":
            assert not answer.status
            answer.status = message["status"]
            answer.headers = {name.decode(): value.decode() for name, value in message["headers"]}
        else:
            answer.body += message.get("body", b"")

    scope = {"type": "http", "method": method, "path": path, "query_string": query.encode("latin-1"), "scheme": "http"}
    pairs = [(name.encode(), value.encode("latin-1")) for name, value in headers if value is not None]
    drive(application({**scope, "headers": pairs}, receive, send))
    return answer, behind.seen


# What 3D Slicer, the docs and the tests ask for.
NEEDED = [
    ("GET", "/info/", ""),
    ("GET", "/auth/", ""),
    ("POST", "/infer/mp3d_bundle", "image=scan_001&output=json"),
    ("POST", "/infer/mp3d_bundle", f"image=&session_id={SESSION}"),
    ("POST", "/infer/lung.nodule-ct", "image=Doe%2C+John+%C3%A9+%281%29"),
    ("POST", "/batch/infer/mp3d_bundle", "images=unlabeled&run_sync=true"),
    ("GET", "/batch/infer", ""),
    ("DELETE", "/batch/infer", ""),
    ("POST", "/train/mp3d_bundle", "run_sync=true"),
    ("POST", "/train/", ""),
    ("GET", "/train/", "check_if_running=true"),
    ("DELETE", "/train/", ""),
    ("POST", "/activelearning/first", ""),
    ("GET", "/datastore/", "output=all"),
    ("PUT", "/datastore/", "image=scan_001"),
    ("PUT", "/datastore/image", "image=scan_001"),
    ("GET", "/datastore/image", "image=scan_001"),
    ("HEAD", "/datastore/image", "image=scan_001&check_sum=SHA256:00ff"),
    ("GET", "/datastore/image/info", "image=scan_001"),
    ("PUT", "/datastore/label", "image=scan_001&tag=final"),
    ("PUT", "/datastore/label", "image=scan_001"),
    ("GET", "/datastore/label", "label=scan_001&tag=version_1"),
    ("HEAD", "/datastore/label", "image=scan_001&tag=final"),
    ("DELETE", "/datastore/label", "id=scan_001&tag=final"),
    ("PUT", "/session/", "uncompress=false&expiry=3600&client_id=user-xyz"),
    ("GET", f"/session/{SESSION}", "image=true"),
    ("DELETE", f"/session/{SESSION}", ""),
]


@pytest.mark.parametrize(("method", "path", "query"), NEEDED)
def test_what_is_needed_passes_without_an_origin_and_from_named_ones_only(method: str, path: str, query: str) -> None:
    for host in (HOME, "localhost:1", "LOCALHOST", "[::1]:8000", "127.0.0.1"):
        answer, seen = ask(method, path, query, host=host)
        assert (answer.status, len(seen)) == (200, 1), answer.body
        assert "access-control-allow-origin" not in answer.headers
    answer, seen = ask(method, path, query, headers=[("origin", FRIEND)], origins=(FRIEND,))
    assert (answer.status, len(seen)) == (200, 1)
    assert answer.headers["access-control-allow-origin"] == FRIEND
    assert "access-control-allow-credentials" not in answer.headers
    # Pages of this server itself, and what a browser's own address line asks for.
    for headers in ([("origin", f"http://{HOME}")], [("sec-fetch-site", "none")], [("sec-fetch-site", "same-origin")]):
        assert ask(method, path, query, headers=headers)[0].status == 200
    foreign = (FRIEND, "null", "", "*", "http://127.0.0.1:9000", "http://127.0.0.1", f"http://{HOME}.evil.example")
    for origin in (*foreign, f"{FRIEND}:444", f"{FRIEND}/", "file://", f"http://evil@{HOME}", f"http://{HOME}, x"):
        for named in ((), ("https://other.example",)):
            answer, seen = ask(method, path, query, headers=[("origin", origin)], origins=named)
            assert (answer.status, seen) == (403, []), origin
            assert "access-control-allow-origin" not in answer.headers
    for headers in ([("sec-fetch-site", "cross-site")], [("sec-fetch-site", "same-site")], [("origin", FRIEND)] * 2):
        assert ask(method, path, query, headers=headers)[0].status == 403


@pytest.mark.parametrize(
    "host",
    [
        *(
            "evil.example",
            "evil.example:8000",
            "127.0.0.1.evil.example",
            "evil.example:127.0.0.1",
            "127.0.0.1:8000@evil",
        ),
        *("localhost.", "", "127.0.0.1:", "127.0.0.1:99999999", "127.0.0.1 evil", "127.0.0.2", "[::2]", "2130706433"),
        *("0.0.0.0:8000", "localhost/evil", "http://localhost", "localhost\\@evil", "127.1", "[::1", "lócalhost", None),
    ],
)
def test_names_that_were_pointed_here_are_no_hosts(host: str | None) -> None:
    for method, path, query in NEEDED[:3]:
        answer, seen = ask(method, path, query, host=host)
        assert (answer.status, seen) == (421, [])
    assert ask(host=HOME, headers=[("host", host or "evil.example")])[0].status == 421


def test_a_host_that_was_named_is_known() -> None:
    hosts = (*guard.LOCAL_HOSTS, guard.checked_host("Scanner.example"), guard.checked_host("fe80::1"))
    for host in ("scanner.example:8000", "SCANNER.example", "[fe80::1]:80", "127.0.0.1"):
        assert ask(host=host, hosts=hosts)[0].status == 200
    for wrong in ("a.example:80", "a b", "", "*", "http://a", "a/b", "evil@a"):
        with pytest.raises(ValueError, match="Expected the name or address of a host"):
            guard.checked_host(wrong)
    assert guard.checked_origin(" HTTPS://Viewer.example:8443/ ") == "https://viewer.example:8443"
    for wrong in ("*", "null", "viewer.example", "https://viewer.example/page", "ftp://a", "https://", "https://a b"):
        with pytest.raises(ValueError, match="Expected an origin"):
            guard.checked_origin(wrong)


def test_a_preflight_is_answered_for_named_origins_only() -> None:
    asked = [("access-control-request-method", "PUT"), ("access-control-request-private-network", "true")]
    answer, seen = ask("OPTIONS", "/datastore/label", headers=[("origin", FRIEND), *asked], origins=(FRIEND,))
    assert (answer.status, seen) == (204, [])
    assert answer.headers["access-control-allow-origin"] == FRIEND
    assert answer.headers["access-control-allow-private-network"] == "true"
    for headers in (asked, [("origin", "https://evil.example"), *asked]):
        answer, seen = ask("OPTIONS", "/datastore/label", headers=headers, origins=(FRIEND,))
        assert (answer.status >= 400, seen) == (True, [])
        assert not [name for name in answer.headers if name.startswith("access-control")]


# Everything else that MONAI Label 0.8.5 serves, and other ways to write what it does.
CLOSED = [
    *(("GET", path) for path in ("/logs/", "/logs/gpu", "/docs", "/openapi.json", "/static/ohif/index.html")),
    *(("GET", path) for path in ("/ohif/", "/ohif/../x", "/model/mp3d_bundle", "/model/info/mp3d_bundle", "/scoring/")),
    *((method, f"/proxy/dicom/{op}x") for method in ("GET", "POST") for op in ("wado/", "qido/", "stow/", "")),
    *(("PUT", path) for path in ("/model/mp3d_bundle", "/datastore/image/info", "/datastore/label/info")),
    *(("DELETE", path) for path in ("/model/mp3d_bundle", "/datastore/", "/datastore/image", "/scoring/")),
    *(("POST", path) for path in ("/reload", "/scoring/", "/scoring/x", "/infer/wsi/x", "/infer/wsi_v2/x", "/info/")),
    *(("POST", f"/infer/{name}") for name in ("..", "../x", "a/b", "", "%2e%2e", "a\\b", "a\0", ".x", "a b", "a\n")),
    *(("GET", f"/session/{name}") for name in ("..", "", "x", f"{SESSION}/..", f"../{SESSION}", SESSION[:-1])),
    *((method, "/info/") for method in ("TRACE", "CONNECT", "PATCH", "get", "POST", "PROPFIND")),
    *(("GET", path) for path in ("//info/", "/info/x", "/INFO/", "/info/\0", "*", "", "/datastore", "http://a/info/")),
]


@pytest.mark.parametrize(("method", "path"), CLOSED)
def test_other_routes_are_closed(method: str, path: str) -> None:
    answer, seen = ask(method, path)
    assert (answer.status in (404, 405), seen) == (True, [])
    # Neither header nor query makes another request of it.
    for headers in ([("x-http-method-override", "GET")], [("x-original-url", "/info/")], [("x-forwarded-host", HOME)]):
        assert ask(method, path, "_method=GET", headers=headers)[1] == []


NAMED = [
    ("POST", "/infer/mp3d_bundle", "image"),
    ("PUT", "/datastore/", "image"),
    ("PUT", "/datastore/image", "image"),
    ("GET", "/datastore/image", "image"),
    ("GET", "/datastore/image/info", "image"),
    ("PUT", "/datastore/label", "image"),
    ("PUT", "/datastore/label", "tag"),
    ("GET", "/datastore/label", "label"),
    ("GET", "/datastore/label", "tag"),
    ("GET", "/datastore/label/info", "label"),
    ("DELETE", "/datastore/label", "id"),
    ("DELETE", "/datastore/label", "tag"),
]
PATHS = [
    *("../x", "..%2Fx", "%2e%2e%2fx", "%2e%2e", "..", ".", "/etc/passwd", "%2Fetc%2Fpasswd", "a/b", "a%2Fb", "a%5Cb"),
    *("..%5Cx", "a%00", "%00", "a%0Ab", "a%0D%0Ab", "a%7F", ".lock", ".hidden", "a" * 300, "C%3A%5Cx", "%c2%85"),
]


@pytest.mark.parametrize(("method", "path", "name"), NAMED)
def test_ids_and_tags_are_no_paths(method: str, path: str, name: str) -> None:
    for value in PATHS:
        answer, seen = ask(method, path, f"{name}={value}")
        assert (answer.status, seen) == (400 if name == "tag" else 404, []), value
        assert ask(method, path, f"{name}=good&{name}={value}")[0].status == 400
        assert ask(method, path, f"%{ord(name[0]):02x}{name[1:]}={value}")[0].status == answer.status
    assert ask(method, path, f"{name}=a&{name}=a")[0].status == 400
    assert ask(method, path, f"{name}=a&other={PATHS[0]}")[0].status == 200
    assert ask(method, path, "&".join(f"x{i}=" for i in range(100)))[0].status == 400


def test_what_would_unpack_or_choose_code_is_not_asked_for() -> None:
    for query in ("uncompress=true", "uncompress=1", "uncompress=yes", "expiry=-1", f"expiry={'9' * 400}"):
        assert ask("PUT", "/session/", query)[0].status == 400
    assert ask("POST", "/infer/x", "output=dicom_seg")[0].status == 400
    assert ask("POST", "/infer/x", "session_id=..")[0].status == 400
    assert ask("HEAD", "/datastore/image", "image=a&check_sum=x:y")[0].status == 400


def test_bodies_are_cut_off(monkeypatch: pytest.MonkeyPatch) -> None:
    for method, path, limit in (
        ("POST", "/train/x", guard.JSON_BYTES),
        ("PUT", "/datastore/", 1000),
        ("GET", "/info/", 0),
    ):
        answer, seen = ask(method, path, headers=[("content-length", str(limit + 1))], image_bytes=1000)
        assert (answer.status, seen) == (413, [])
        # The received bytes count, for any declared length.
        chunks = (b"x" * (limit // 2), b"x" * (limit - limit // 2), b"x")
        answer, seen = ask(method, path, body=chunks, image_bytes=1000)
        assert (answer.status, seen) == (413, [])
        assert str(limit) in json.loads(answer.body)["detail"]
        answer, seen = ask(method, path, body=chunks[:2], image_bytes=1000)
        assert (answer.status, seen) == (200, [(method, path, limit)])
    for wrong in ("-1", "1e3", "0x10", "٣", ""):
        with pytest.raises(UnicodeEncodeError) if wrong == "٣" else monkeypatch.context():
            assert ask("PUT", "/datastore/", headers=[("content-length", wrong)])[0].status == 400


@pytest.mark.parametrize("kind", ["multipart/form-data; boundary=x1", 'Multipart/Form-Data; a=b; boundary="x1"; c=d'])
def test_a_form_that_is_cut_short_is_rejected(kind: str) -> None:
    whole = b'--x1\r\nContent-Disposition: form-data; name="params"\r\n\r\n{"score_threshold": 0.9}\r\n--x1--\r\n'
    headers = [("content-type", kind)]
    for body in ((whole,), (whole[:30], whole[30:-5], whole[-5:]), (whole, b""), (whole + b"after it",), (b"",)):
        answer, seen = ask("POST", "/infer/m", body=body, headers=headers)
        assert (answer.status, seen) == (200, [("POST", "/infer/m", sum(map(len, body)))])
    for cut in (40, 60, len(whole) - 9, len(whole) - 4):
        for body in ((whole[:cut],), (whole[:30], whole[30:cut])):
            answer, seen = ask("POST", "/infer/m", body=body, headers=headers)
            assert (answer.status, seen) == (400, [])
            assert "a whole form" in json.loads(answer.body)["detail"]
    assert ask("POST", "/train/m", body=(b"{}",), headers=[("content-type", "application/json")])[0].status == 200


def test_a_folder_of_scans_that_is_gone_or_not_mounted_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def answered(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})

    folder = tmp_path / "studies"
    folder.mkdir()
    application = guard.Guard(answered, studies=str(folder))
    sent: list[Any] = []

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)

    def status(method: str, path: str) -> int:
        sent.clear()
        scope = {"type": "http", "method": method, "path": path, "headers": [(b"host", HOME.encode())]}
        drive(application(scope, None, send))
        return sent[0]["status"]

    asked = [
        ("GET", "/datastore/"),
        ("POST", "/infer/m"),
        ("POST", "/train/m"),
        ("DELETE", "/train/"),
        ("GET", "/info/"),
    ]
    (folder / "new.nii").touch()
    assert [status(*one) for one in asked] == [200] * 5
    folder.rename(tmp_path / "away")
    assert [status(*one) for one in asked] == [503, 503, 503, 200, 200]
    assert status("GET", "/datastore/") == 503
    assert b"the folder of the scans" in sent[1]["body"]
    assert str(tmp_path).encode() not in sent[1]["body"]
    (tmp_path / "away").rename(folder)
    assert status("GET", "/datastore/") == 200
    # What is left of a drive that is not mounted is a folder of another device.
    monkeypatch.setattr(guard, "_device", lambda path: application.device + 1)
    assert status("GET", "/datastore/") == 503
    monkeypatch.undo()
    assert ask("GET", "/datastore/")[0].status == 200


def test_answers_are_for_programs(monkeypatch: pytest.MonkeyPatch) -> None:
    for path in ("/info/", "/logs/"):
        headers = ask(path=path)[0].headers
        assert headers["x-content-type-options"] == "nosniff"
        assert "default-src 'none'" in headers["content-security-policy"]
    assert ask(path="/")[0].headers["location"] == "/info/"


def test_there_are_no_websockets() -> None:
    behind, sent = Behind(), []

    async def send(message: Any) -> None:
        sent.append(message)

    drive(guard.Guard(behind)({"type": "websocket", "path": "/info/", "headers": []}, None, send))
    assert (sent, behind.seen) == ([{"type": "websocket.close", "code": 1008}], [])


def test_a_thousand_mutated_requests_pass_only_as_what_they_should_be() -> None:
    drawn = random.Random(10)
    pieces = ["..", "/", "%2e", "%2f", "\\", "\0", "$", "@", "\n", "?", "#", ";", "&", "=", "é", "wsi/", "x" * 99, " "]
    passed = 0
    for _ in range(1000):
        method, path, query = drawn.choice(NEEDED)
        where = drawn.randrange(len(path) + 1)
        if drawn.random() < 0.5:
            path = path[:where] + drawn.choice(pieces) + path[where:]
        where = drawn.randrange(len(query) + 1)
        query = (query[:where] + drawn.choice(pieces) + query[where:]).replace("\n", "%0a")
        answer, seen = ask(method, path, query)
        assert (answer.status == 200) == bool(seen)
        passed += bool(seen)
        for _, reached, _ in seen:
            assert ".." not in reached.split("/")
            assert not any(sign in reached for sign in ("\\", "\0", "%", "\n", "$", "@", "?", "wsi/"))
    assert 0 < passed < 800
