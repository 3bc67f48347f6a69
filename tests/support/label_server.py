"""A MONAI Label server in a process of its own, spoken to over HTTP with nothing but the standard library."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import time
import urllib.error
import urllib.parse
import urllib.request
import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).resolve().parents[2]
PYTHON = REPOSITORY / ".venv-label" / "bin" / "python"


@dataclass(frozen=True)
class Answer:
    """What came back."""

    status: int
    body: bytes
    kind: str

    def json(self) -> Any:
        """The body as JSON."""
        return json.loads(self.body)

    def parts(self) -> dict[str, bytes]:
        """The parts of a multipart body by name."""
        boundary = b"--" + re.search("boundary=([^;]+)", self.kind)[1].strip('"').encode()  # type: ignore[index]
        found = {}
        for part in self.body.split(boundary)[1:-1]:
            head, _, content = part.partition(b"\r\n\r\n")
            found[re.search(rb'name="([^"]+)"', head)[1].decode()] = content.removesuffix(b"\r\n")  # type: ignore[index]
        return found


def free_port() -> int:
    """A port without a listener."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class Server:
    """``serve.py`` on a free port, ready to answer.

    Args:
        log: File for the output of the server.
        arguments: Of ``serve.py``, without host and port.
        variables: More environment variables.
    """

    def __init__(self, log: Path, *arguments: str | Path, **variables: str) -> None:
        self.port, self.log = free_port(), log
        self.address = f"http://127.0.0.1:{self.port}"
        command = [str(PYTHON), str(REPOSITORY / "integrations" / "monai_label" / "serve.py")]
        # Nothing listens on port 9 of this machine: whatever the server wanted to fetch would fail.
        offline = dict.fromkeys(("HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy"), "http://127.0.0.1:9")
        self._process = subprocess.Popen(
            [*command, "--port", str(self.port), *map(str, arguments)],
            stdout=log.open("wb"),
            stderr=subprocess.STDOUT,
            env={**os.environ, **offline, "NO_PROXY": "127.0.0.1", "OMP_NUM_THREADS": "1", **variables},
            start_new_session=True,
        )
        self._wait()

    def _wait(self, seconds: float = 300.0) -> None:
        end = time.monotonic() + seconds
        while time.monotonic() < end and self._process.poll() is None:
            try:
                if self.ask("GET", "/info/").status == 200:
                    return
            except OSError:
                time.sleep(0.5)
        self.close()
        raise AssertionError(f"the server did not start:\n{self.log.read_text()[-4000:]}")

    def ask(self, method: str, path: str, body: Any = None, **query: str) -> Answer:
        """One request; a dict of ``bytes`` or text goes as a form, other data as JSON."""
        headers, data = {}, None
        if isinstance(body, dict) and body and all(isinstance(part, (bytes, tuple)) for part in body.values()):
            data, headers["Content-Type"] = _form(body)
        elif body is not None:
            data, headers["Content-Type"] = json.dumps(body).encode(), "application/json"
        address = f"{self.address}{path}{'?' + urllib.parse.urlencode(query) if query else ''}"
        request = urllib.request.Request(address, data=data, headers=headers, method=method)
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        try:
            with opener.open(request, timeout=600) as reply:
                return Answer(reply.status, reply.read(), reply.headers.get("Content-Type", ""))
        except urllib.error.HTTPError as error:
            return Answer(error.code, error.read(), error.headers.get("Content-Type", ""))

    def infer(self, model: str, image: str, output: str = "json", params: Any = None, **query: str) -> Answer:
        """``POST /infer/MODEL``; ``params`` as data, or as the bytes that are sent."""
        sent = params if isinstance(params, bytes) else json.dumps(params or {}).encode()
        return self.ask("POST", f"/infer/{model}", {"params": sent}, image=image, output=output, **query)

    def close(self) -> None:
        """End the server and what it started."""
        if self._process.poll() is None:
            os.killpg(self._process.pid, signal.SIGTERM)
            try:
                self._process.wait(timeout=20)
            except subprocess.TimeoutExpired:
                os.killpg(self._process.pid, signal.SIGKILL)
                self._process.wait(timeout=20)


def _form(parts: dict[str, Any]) -> tuple[bytes, str]:
    """A multipart form; a part is its content, or (file name, content)."""
    boundary = uuid.uuid4().hex
    lines = []
    for name, part in parts.items():
        file, content = part if isinstance(part, tuple) else (None, part)
        head = f'--{boundary}\r\nContent-Disposition: form-data; name="{name}"'
        head += f'; filename="{file}"\r\nContent-Type: application/octet-stream' if file else ""
        lines += [head.encode(), b"\r\n\r\n", content, b"\r\n"]
    return b"".join([*lines, f"--{boundary}--\r\n".encode()]), f"multipart/form-data; boundary={boundary}"
