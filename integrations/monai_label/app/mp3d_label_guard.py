"""The guard in front of MONAI Label's web application: only requests that this app needs get through.

A server on 127.0.0.1 is reached by every web page that its user visits. Browsers send what a page asks for, with
preflight or without; MONAI Label answers any of them, and its routes take paths for ids. So a request must name a
known host of this server (a page may point its own host name at 127.0.0.1), must not come from a page of
another origin, and must match a route of `ROUTES`: path, method, and every part of the query by a pattern. Everything
else is rejected before MONAI Label sees it. 3D Slicer sends neither ``Origin`` nor ``Sec-Fetch-Site`` and still works.

Pure ASGI, only the standard library.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Awaitable, Callable, Iterable, Mapping, MutableMapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qsl

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

LOCAL_HOSTS = ("127.0.0.1", "localhost", "[::1]")
MEBIBYTE = 1 << 20
JSON_BYTES = MEBIBYTE
# Label maps of other bundles are the largest labels: a byte for each voxel of a large scan.
LABEL_BYTES = 512 * MEBIBYTE
IMAGE_MEBIBYTES = 4096

_FLAG = r"(true|false|True|False|0|1|)"
_WORD = r"[A-Za-z0-9][A-Za-z0-9_.-]{0,99}"
# Names of files in the scans' folder: without slashes, leading dots and line ends.
IMAGE_ID = r"(?!\.)[^/\\\x00-\x1f\x7f-\x9f]{1,200}"
TAG = r"[A-Za-z0-9][A-Za-z0-9_. -]{0,63}"
_SESSION = r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}"
_OPTIONAL = "(?:{})?"
_LABEL = {"label": IMAGE_ID, "tag": TAG}
_IDS = ("image", "id", "label")
# Bytes of a body in which a form ends; little may follow.
_TAIL = 4096
# Requests for scans and labels, by any method.
_OF_SCANS = r"/(?:infer|datastore|activelearning)/"

_HOST = re.compile(r"(?P<name>\[[0-9a-f:]+\]|[a-z0-9](?:[a-z0-9._-]*[a-z0-9])?)(?::[0-9]{1,5})?")
_ORIGIN = re.compile(r"https?://(?:\[[0-9a-f:]+\]|[a-z0-9](?:[a-z0-9._-]*[a-z0-9])?)(?::[0-9]{1,5})?")


@dataclass(frozen=True)
class Route:
    """A request that this app needs.

    Attributes:
        methods: Of HTTP.
        path: Pattern of the whole path, decoded once.
        query: Patterns of the values that MONAI Label reads; it ignores others.
        limit: Largest body in bytes; None for the largest image.
    """

    methods: tuple[str, ...]
    path: str
    query: Mapping[str, str] = field(default_factory=dict)
    limit: int | None = 0


ROUTES = (
    Route(("GET",), r"/(info/?)?"),
    Route(
        ("POST",),
        rf"/infer/(?!wsi(?:_v2)?/){_WORD}",
        {
            "image": _OPTIONAL.format(IMAGE_ID),
            "session_id": _OPTIONAL.format(_SESSION),
            "output": _OPTIONAL.format("image|json|all"),
        },
        None,
    ),
    Route(("GET", "DELETE"), r"/batch/infer", {"all": _FLAG, "check_if_running": _FLAG}),
    Route(
        ("POST",),
        rf"/batch/infer/{_WORD}",
        {"images": "all|labeled|unlabeled", "run_sync": _FLAG},
        JSON_BYTES,
    ),
    Route(("GET", "DELETE"), r"/train/", {"all": _FLAG, "check_if_running": _FLAG}),
    Route(("POST",), rf"/train/(?:{_WORD})?", {"run_sync": _FLAG, "enqueue": _FLAG}, JSON_BYTES),
    Route(("POST",), rf"/activelearning/{_WORD}", limit=JSON_BYTES),
    Route(("GET",), r"/datastore/", {"output": _OPTIONAL.format("train|stats|all")}),
    Route(("PUT",), r"/datastore/(?:image)?", {"image": _OPTIONAL.format(IMAGE_ID), "user": _WORD}, None),
    Route(
        ("GET", "HEAD"),
        r"/datastore/image",
        {"image": IMAGE_ID, "check_sum": r"(?:(?:SHA256|SHA512|MD5):)?[0-9a-fA-F]{1,128}"},
    ),
    Route(("GET",), r"/datastore/image/info", {"image": IMAGE_ID}),
    Route(
        ("PUT",),
        r"/datastore/label",
        {"image": IMAGE_ID, "tag": _OPTIONAL.format(TAG), "user": _WORD},
        LABEL_BYTES,
    ),
    Route(("GET",), r"/datastore/label", _LABEL),
    Route(("HEAD",), r"/datastore/label", {"image": IMAGE_ID, "tag": TAG}),
    Route(("DELETE",), r"/datastore/label", {"id": IMAGE_ID, "tag": TAG, "user": _WORD}),
    Route(("GET",), r"/datastore/label/info", _LABEL),
    # Only if MONAI Label's own log-in is on; otherwise 404.
    Route(("GET",), r"/auth/(?:token/valid)?"),
    Route(("POST",), r"/auth/token", limit=JSON_BYTES),
    Route(("PUT",), r"/session/", {"uncompress": "(false|False|0|)", "expiry": r"[0-9]{0,6}"}, None),
    Route(("GET", "DELETE"), rf"/session/{_SESSION}", {"update_ts": _FLAG, "image": _FLAG}),
)


class Refusal(Exception):
    """A request that is not passed on.

    Args:
        status: Of HTTP.
        detail: The reason, for the client.
    """

    def __init__(self, status: int, detail: str) -> None:
        super().__init__(detail)
        self.status = status
        self.detail = detail


@dataclass(frozen=True)
class Guard:
    """An ASGI application that passes on harmless requests.

    Attributes:
        app: Gets the requests that pass.
        hosts: Host names of this server, in lower case, without port.
        origins: Origins of pages that may use it, as browsers write them.
        image_bytes: Largest body of an image.
        studies: Folder of the scans; "" for a DICOMweb server.
        device: The one that the folder is on when the server starts.
    """

    app: App
    hosts: tuple[str, ...] = LOCAL_HOSTS
    origins: tuple[str, ...] = ()
    image_bytes: int = IMAGE_MEBIBYTES * MEBIBYTE
    studies: str = ""
    device: int | None = field(init=False)

    def __post_init__(self) -> None:
        """Note where the folder is."""
        object.__setattr__(self, "device", _device(self.studies) if self.studies else None)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, or answer it. Websockets are not supported."""
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
            return
        if scope["type"] != "http":
            await send({"type": "websocket.close", "code": 1008})
            return
        origin = None
        try:
            host = self._host(scope)
            origin = self._origin(scope, host)
            if scope["method"] == "OPTIONS" and origin is not None:
                await _answer(send, 204, b"", [*_cors(origin), *_preflight(scope)])
                return
            limit = self._route(scope)
            limit = self.image_bytes if limit is None else limit
            _check_length(scope, limit)
            self._check_studies(scope)
        except Refusal as refusal:
            body = json.dumps({"detail": refusal.detail}).encode()
            await _answer(send, refusal.status, body, _cors(origin) if origin else [])
            return
        if scope["path"] == "/":
            await _answer(send, 307, b"", [(b"location", b"/info/")])
            return
        await _limited(self.app, scope, receive, send, limit, _cors(origin) if origin else [])

    def _host(self, scope: Scope) -> str:
        """The host that a request names; the address alone would accept a page of any name."""
        values = _headers(scope, b"host")
        match = _HOST.fullmatch(values[0].lower()) if len(values) == 1 else None
        if match is None or match["name"] not in self.hosts:
            raise Refusal(421, f"Expected a request to one of the hosts {', '.join(self.hosts)}.")
        return values[0].lower()

    def _origin(self, scope: Scope, host: str) -> str | None:
        """The page that a request comes from, if it may use this server; None for programs and for our own pages."""
        values = _headers(scope, b"origin")
        if not values:
            from_page = any(site not in ("same-origin", "none") for site in _headers(scope, b"sec-fetch-site"))
            followed = scope["method"] == "GET" and _headers(scope, b"sec-fetch-dest") == ["document"]
            if from_page and not followed:
                raise Refusal(403, "Requests from pages of another site are rejected.")
            return None
        if len(values) == 1 and values[0] in self.origins:
            return values[0]
        if len(values) == 1 and values[0].lower() in (f"http://{host}", f"https://{host}"):
            return None
        raise Refusal(403, "Requests from pages of another origin are rejected (--allow_origin allows one).")

    def _check_studies(self, scope: Scope) -> None:
        """Scans and labels are in the folder that the server was started with; what runs can still be stopped."""
        needed = scope["method"] == "POST" or re.match(_OF_SCANS, scope["path"])
        if self.studies and needed and (self.device is None or _device(self.studies) != self.device):
            raise Refusal(
                503,
                "Expected the folder of the scans as it was when the server started, but it is gone, or its drive is "
                "not mounted. Put it back and start the server again.",
            )

    def _route(self, scope: Scope) -> int | None:
        """The largest body that a request may have; its path and query are those of a known route."""
        known = [route for route in ROUTES if re.fullmatch(route.path, scope["path"])]
        if not known:
            raise Refusal(404, "Expected a request that this app serves.")
        route = next((route for route in known if scope["method"] in route.methods), None)
        if route is None:
            methods = sorted({method for route in known for method in route.methods})
            raise Refusal(405, f"Expected {' or '.join(methods)} here.")
        check_query(scope.get("query_string", b""), route.query)
        return route.limit


def _device(folder: str) -> int | None:
    """Number of the device of a folder, which changes with a mount; None if it is not there."""
    try:
        return os.stat(folder).st_dev
    except OSError:
        return None


def check_query(query: bytes, patterns: Mapping[str, str]) -> None:
    """Check a query string.

    Args:
        query: The raw query, percent-encoded.
        patterns: Patterns of the checked values.

    Raises:
        Refusal: If one of them occurs twice (readers differ in which one they use) or does not match.
    """
    try:
        pairs = parse_qsl(query.decode("latin-1"), keep_blank_values=True, max_num_fields=50)
    except ValueError as error:
        raise Refusal(400, "Expected at most 50 values in a query.") from error
    seen = set()
    for name, value in pairs:
        if name not in patterns:
            continue
        if name in seen:
            raise Refusal(400, f"Expected {name} once.")
        seen.add(name)
        if not re.fullmatch(patterns[name], value):
            if name in _IDS:
                raise Refusal(404, f"Expected the id of an image in the datastore, not a path, got {value[:100]!r}.")
            raise Refusal(400, f"Expected a valid value of {name}, got {value[:100]!r}.")


def checked_origin(text: str) -> str:
    """An origin as browsers write it.

    Raises:
        ValueError: If it is not an origin; ``*`` and ``null`` are not origins.
    """
    origin = text.strip().lower().rstrip("/")
    if not _ORIGIN.fullmatch(origin):
        raise ValueError(f"Expected an origin such as https://viewer.example or http://localhost:3000, got {text!r}.")
    return origin


def checked_host(text: str) -> str:
    """A host name or address without port, as ``Host`` headers give it.

    Raises:
        ValueError: If it is not valid.
    """
    host = text.strip().lower()
    host = f"[{host}]" if ":" in host and not host.startswith("[") else host
    match = _HOST.fullmatch(host)
    if match is None or match["name"] != host:
        raise ValueError(f"Expected the name or address of a host without a port, got {text!r}.")
    return host


def _headers(scope: Scope, name: bytes) -> list[str]:
    return [value.decode("latin-1").strip() for key, value in scope["headers"] if key.lower() == name]


def _cors(origin: str) -> list[tuple[bytes, bytes]]:
    headers = (("access-control-allow-origin", origin), ("access-control-expose-headers", "content-disposition"))
    return [(name.encode(), value.encode()) for name, value in (*headers, ("vary", "Origin"))]


def _preflight(scope: Scope) -> list[tuple[bytes, bytes]]:
    allowed = [
        (b"access-control-allow-methods", b"GET, HEAD, POST, PUT, DELETE"),
        (b"access-control-allow-headers", b"content-type"),
        (b"access-control-max-age", b"600"),
    ]
    if _headers(scope, b"access-control-request-private-network"):
        allowed.append((b"access-control-allow-private-network", b"true"))
    return allowed


def _check_length(scope: Scope, limit: int) -> None:
    for length in _headers(scope, b"content-length"):
        if not re.fullmatch(r"[0-9]{1,18}", length):
            raise Refusal(400, "Expected a length of the body in bytes.")
        if int(length) > limit:
            raise _too_large(limit)


def _too_large(limit: int) -> Refusal:
    return Refusal(413, f"Expected a body of at most {limit} bytes here.")


async def _answer(send: Send, status: int, body: bytes, headers: Iterable[tuple[bytes, bytes]]) -> None:
    plain = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": status, "headers": [*plain, *headers, *_SAFE]})
    await send({"type": "http.response.body", "body": body})


# Browsers must not guess the type of a response, run it, frame it, or show it to another site.
_SAFE = (
    (b"x-content-type-options", b"nosniff"),
    (b"content-security-policy", b"default-src 'none'; frame-ancestors 'none'"),
    (b"cross-origin-resource-policy", b"same-origin"),
)


async def _limited(
    app: App, scope: Scope, receive: Receive, send: Send, limit: int, headers: list[tuple[bytes, bytes]]
) -> None:
    """Pass a request on; stop its body at the limit, for any length in its headers, and a form without an end."""
    received, started = 0, False
    tail = b""
    end = _end_of_form(scope)
    refusal: Refusal | None = None

    async def counted() -> Message:
        nonlocal received, refusal, tail
        message = await receive()
        body = message.get("body", b"")
        received += len(body)
        tail = (tail + body[-_TAIL:])[-_TAIL:]
        last = message["type"] == "http.request" and not message.get("more_body", False)
        if received > limit:
            refusal = _too_large(limit)
        elif last and received and end is not None and end not in tail:
            # Of a form that was cut short, FastAPI would silently take what is whole.
            refusal = Refusal(400, "Expected a whole form (multipart/form-data), got one without its end.")
        return message if refusal is None else {"type": "http.disconnect"}

    async def marked(message: Message) -> None:
        nonlocal started
        if refusal is not None:
            return
        if message["type"] == "http.response.start":
            started = True
            kept = [pair for pair in message["headers"] if not pair[0].lower().startswith(b"access-control-")]
            message = {**message, "headers": [*kept, *headers, *_SAFE]}
        await send(message)

    try:
        await app(scope, counted, marked)
    finally:
        if refusal is not None and not started:
            await _answer(send, refusal.status, json.dumps({"detail": refusal.detail}).encode(), headers)


def _end_of_form(scope: Scope) -> bytes | None:
    """What ends the body of a form in parts; None of other requests."""
    kind = "".join(_headers(scope, b"content-type"))
    match = re.match(r"multipart/form-data\b.*?;\s*boundary=\"?([^\";]+)", kind, re.IGNORECASE)
    return None if match is None else b"--" + match[1].strip().encode("latin-1") + b"--"
