"""Object stores to test with: fsspec's own in memory, and S3 served by moto on this machine."""

from __future__ import annotations

import importlib.util
import uuid
from collections.abc import Iterator
from pathlib import Path

import fsspec
import pytest

HAS_S3 = all(importlib.util.find_spec(name) for name in ("s3fs", "moto"))
needs_s3 = pytest.mark.skipif(not HAS_S3, reason="s3fs and moto are not installed: `make test-stores` installs them")
KINDS = ["memory", pytest.param("s3", marks=needs_s3)]


def open_bucket(kind: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The URL of an empty bucket of its own."""
    name = f"bucket-{uuid.uuid4().hex}"
    if kind == "memory":
        yield f"memory://{name}"
        if (store := fsspec.filesystem("memory")).exists(f"/{name}"):
            store.rm(f"/{name}", recursive=True)
        return
    server_module = importlib.import_module("moto.server")
    server = server_module.ThreadedMotoServer(ip_address="127.0.0.1", port=0)
    server.start()
    host, port = server.get_host_and_port()
    settings = {"ENDPOINT_URL": f"http://{host}:{port}", "ACCESS_KEY_ID": "a", "SECRET_ACCESS_KEY": "b"}
    for key, value in {**settings, "DEFAULT_REGION": "us-east-1"}.items():
        monkeypatch.setenv(f"AWS_{key}", value)
    store = fsspec.filesystem("s3", skip_instance_cache=True)
    store.clear_instance_cache()
    store.mkdir(name)
    try:
        yield f"s3://{name}"
    finally:
        store.clear_instance_cache()
        server.stop()


def upload(folder: Path, url: str) -> None:
    """Put all files of a folder below a URL."""
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            store, key = fsspec.core.url_to_fs(f"{url}/{path.relative_to(folder).as_posix()}")
            store.pipe_file(key, path.read_bytes())


def contents(url: str) -> dict[str, bytes]:
    """All objects below a URL by the rest of their keys."""
    store, key = fsspec.core.url_to_fs(url)
    store.invalidate_cache()
    if not store.exists(key):
        return {}
    return {name.removeprefix(key).lstrip("/"): store.cat_file(name) for name in sorted(store.find(key))}
