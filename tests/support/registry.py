"""Registries on loopback for tests: docker-registry, and one that misbehaves on request."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

MANIFEST = "application/vnd.oci.image.manifest.v1+json"
INDEX = "application/vnd.oci.image.index.v1+json"
CONFIG = "application/vnd.oci.image.config.v1+json"
LAYER = "application/vnd.oci.image.layer.v1.tar"


USER, PASSWORD = "tester", "correct horse"
# bcrypt, the one kind that docker-registry reads, of PASSWORD.
_PASSWORD_LINE = "tester:$2y$04$zJrRivOmBk9EkMt.A4319.XETIyiNumMzRzLvDR9oKQJSFW8sq5yG\n"


def digest_of(data: bytes) -> str:
    return "sha256:" + hashlib.sha256(data).hexdigest()


def missing(*programs: str) -> str | None:
    """Why a test cannot run here, None if it can."""
    absent = [program for program in programs if shutil.which(program) is None]
    return f"not installed: {', '.join(absent)}" if absent else None


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
        return port


@contextlib.contextmanager
def docker_registry(
    folder: Path, *, login: bool = False, tls: tuple[Path, Path] | None = None
) -> Iterator[str]:
    """Debian's docker-registry; gives `127.0.0.1:PORT`.

    Args:
        folder: Empty; gets its data, configuration and log.
        login: Whether it asks for USER and PASSWORD.
        tls: Certificate and key, if it speaks TLS.
    """
    port = free_port()
    keys = f", tls: {{certificate: {tls[0]}, key: {tls[1]}}}" if tls else ""
    lines = [
        "version: 0.1",
        "log: {level: warn}",
        f"storage: {{filesystem: {{rootdirectory: {folder}/data}}, delete: {{enabled: true}}}}",
        f"http: {{addr: '127.0.0.1:{port}'{keys}}}",
    ]
    if login:
        (folder / "htpasswd").write_text(_PASSWORD_LINE)
        lines.append(f"auth: {{htpasswd: {{realm: test, path: {folder}/htpasswd}}}}")
    config = folder / "config.yml"
    config.write_text("\n".join(lines) + "\n")
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            ["docker-registry", "serve", str(config)],
            stdout=log,
            stderr=log,
            stdin=subprocess.DEVNULL,
        )
    try:
        _wait_for(port, process, folder / "log")
        yield f"127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait(10)


def _wait_for(port: int, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        assert process.poll() is None, log.read_text()
        with (
            contextlib.suppress(OSError),
            socket.create_connection(("127.0.0.1", port), timeout=2),
        ):
            return
        time.sleep(0.02)
    raise AssertionError(f"docker-registry did not come up: {log.read_text()}")


@dataclass
class Request:
    """What the server was sent."""

    method: str
    path: str
    headers: dict[str, str]
    body: bytes


Fault = Callable[["Handler"], bool]
"""Called before a request is served: True means that it has been answered."""


@dataclass
class FaultyRegistry:
    """A registry in memory with a hook before every answer.

    Attributes:
        blobs: By digest.
        manifests: By (repository, tag or digest): media type and bytes.
        faults: Tried in order for each request.
        requests: All that came.
    """

    address: str = ""
    blobs: dict[str, bytes] = field(default_factory=dict)
    manifests: dict[tuple[str, str], tuple[str, bytes]] = field(default_factory=dict)
    uploads: dict[str, bytes] = field(default_factory=dict)
    faults: list[Fault] = field(default_factory=list)
    requests: list[Request] = field(default_factory=list)
    ranges: bool = True

    def add_blob(self, data: bytes) -> str:
        self.blobs[digest_of(data)] = data
        return digest_of(data)

    def add_manifest(self, repository: str, tag: str, document: Any, kind: str = MANIFEST) -> str:
        data = document if isinstance(document, bytes) else json.dumps(document).encode()
        self.manifests[repository, tag] = self.manifests[repository, digest_of(data)] = kind, data
        return digest_of(data)

    def add_image(self, repository: str, tag: str, *tars: bytes, **changes: Any) -> str:
        """An image of uncompressed layers; gives the digest of its manifest."""
        config = {
            "architecture": "amd64",
            "os": "linux",
            "config": {"Cmd": ["/bin/true"]},
            "rootfs": {"type": "layers", "diff_ids": [digest_of(tar) for tar in tars]},
        }
        data = json.dumps(config | changes.pop("config", {})).encode()
        manifest = {
            "schemaVersion": 2,
            "mediaType": MANIFEST,
            "config": {"mediaType": CONFIG, "digest": self.add_blob(data), "size": len(data)},
            "layers": [
                {"mediaType": LAYER, "digest": self.add_blob(tar), "size": len(tar)} for tar in tars
            ],
        }
        return self.add_manifest(repository, tag, manifest | changes)

    def seen(self, method: str, part: str) -> list[Request]:
        return [r for r in self.requests if r.method == method and part in r.path]


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    # As registries do: head and body are two writes, and on a kept connection Nagle's algorithm
    # would hold the second back until the client's delayed acknowledgement, 40 ms.
    disable_nagle_algorithm = True
    registry: FaultyRegistry
    body: bytes

    def log_message(self, *_: object) -> None:
        pass

    def serve(self) -> None:
        registry = self.registry
        self.body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        registry.requests.append(
            Request(self.command, self.path, dict(self.headers.items()), self.body)
        )
        for fault in list(registry.faults):
            if fault(self):
                return
        parts = urlsplit(self.path)
        path, query = parts.path, parse_qs(parts.query)
        if path in ("/v2", "/v2/"):
            self.answer(200, b"{}")
            return
        repository, _, rest = path.removeprefix("/v2/").partition("/manifests/")
        if rest:
            self._manifest(repository, rest)
            return
        repository, _, rest = path.removeprefix("/v2/").partition("/blobs/")
        if rest.startswith("uploads/"):
            self._upload(repository, rest.removeprefix("uploads/"), query)
        else:
            self._blob(rest)

    do_GET = do_HEAD = do_POST = do_PATCH = do_PUT = serve  # noqa: N815

    def answer(self, status: int, data: bytes = b"", **headers: str) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        if "Content_Length" not in headers:
            self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    def break_off(self) -> None:
        """Close the connection, as if somebody had stumbled over the cable."""
        self.wfile.flush()
        self.close_connection = True
        self.connection.shutdown(socket.SHUT_RDWR)

    def _manifest(self, repository: str, reference: str) -> None:
        if self.command == "PUT":
            kind = self.headers.get("Content-Type") or ""
            self.registry.manifests[repository, reference] = kind, self.body
            self.answer(201, Docker_Content_Digest=digest_of(self.body))
            return
        kind, data = self.registry.manifests.get((repository, reference), ("", b""))
        if not data:
            error = {"errors": [{"code": "MANIFEST_UNKNOWN", "message": "manifest unknown"}]}
            self.answer(404, json.dumps(error).encode())
            return
        self.answer(200, data, Content_Type=kind, Docker_Content_Digest=digest_of(data))

    def _blob(self, digest: str) -> None:
        data = self.registry.blobs.get(digest)
        wanted = self.headers.get("Range")
        if data is None:
            self.answer(404)
        elif wanted and self.registry.ranges:
            start = int(wanted.removeprefix("bytes=").partition("-")[0])
            span = f"bytes {start}-{len(data) - 1}/{len(data)}"
            self.answer(206, data[start:], Content_Range=span)
        else:
            self.answer(200, data)

    def _upload(self, repository: str, name: str, query: dict[str, list[str]]) -> None:
        uploads = self.registry.uploads
        if self.command == "POST":
            if query.get("mount", [""])[0] in self.registry.blobs:
                self.answer(201)
                return
            name = f"u{len(self.registry.requests)}"
            uploads[name] = b""
        elif name not in uploads:
            self.answer(404)
            return
        where = f"/v2/{repository}/blobs/uploads/{name}"
        if self.command == "GET":
            self.answer(204, Location=where, Range=f"0-{max(0, len(uploads[name]) - 1)}")
            return
        uploads[name] += self.body
        if self.command == "PUT":
            data = uploads.pop(name)
            if digest_of(data) != query["digest"][0]:
                self.answer(400, b'{"errors":[{"code":"DIGEST_INVALID"}]}')
                return
            self.registry.blobs[digest_of(data)] = data
            self.answer(201)
            return
        self.answer(202, Location=where, Range=f"0-{max(0, len(uploads[name]) - 1)}")


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Clients that go away are what is tested here."""


@contextlib.contextmanager
def faulty_registry() -> Iterator[FaultyRegistry]:
    registry = FaultyRegistry()
    handler = type("BoundHandler", (Handler,), {"registry": registry})
    server = _Server(("127.0.0.1", 0), handler)
    registry.address = f"127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield registry
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def no_credentials(folder: Path) -> dict[str, str]:
    """An environment in which no credentials can be found: those of whoever runs the tests."""
    return {"HOME": str(folder), "PATH": os.environ["PATH"]}
