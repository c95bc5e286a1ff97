"""The registry client against a server that misbehaves in one way at a time."""

from __future__ import annotations

import gzip
import os
import selectors
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from socketserver import StreamRequestHandler, ThreadingTCPServer

import pytest

from runtime.images.formats.schema import BlobDescriptor, ImageManifest, ManifestError
from runtime.images.registry.client import RegistryClient
from runtime.images.registry.connection import Security
from runtime.images.registry.download import BlobStream, fetch_document
from runtime.images.registry.http import BrokenTransferError, RegistryError, origin, retry_after
from runtime.images.registry.upload import CHUNK_BYTES, Sent, push_blob
from tests.support.registry import (
    FaultyRegistry,
    Handler,
    digest_of,
    docker_registry,
    faulty_registry,
    missing,
    no_credentials,
)
from tests.support.tars import make_tar, member

TAR = make_tar(member("f", data=b"x" * 3000))


@pytest.fixture
def registry() -> Iterator[FaultyRegistry]:
    with faulty_registry() as found:
        yield found


@pytest.fixture
def client(registry: FaultyRegistry, tmp_path: Path) -> Iterator[RegistryClient]:
    found = make_client(registry.address, tmp_path)
    yield found
    found.close()


def make_client(address: str, folder: Path, security: Security | None = None) -> RegistryClient:
    return RegistryClient(
        address, security, environment=no_credentials(folder), pause_s=0.01, timeout_s=5
    )


def blob(registry: FaultyRegistry, data: bytes) -> BlobDescriptor:
    return BlobDescriptor("", registry.add_blob(data), len(data), None, {})


def read(client: RegistryClient, descriptor: BlobDescriptor) -> bytes:
    with BlobStream(client, "app", descriptor) as stream:
        return b"".join(iter(lambda: stream.read(1 << 20), b""))


def break_after(count: int, times: int = 1) -> Callable[[Handler], bool]:
    """Break blobs off after so many bytes, so many times."""
    left = [times]

    def fault(handler: Handler) -> bool:
        if "/blobs/" not in handler.path or handler.command != "GET" or not left[0]:
            return False
        left[0] -= 1
        data = handler.registry.blobs[handler.path.rpartition("/")[2]]
        start = 0
        if wanted := handler.headers.get("Range"):
            start = int(wanted.removeprefix("bytes=").partition("-")[0])
            handler.send_response(206)
            handler.send_header("Content-Range", f"bytes {start}-{len(data) - 1}/{len(data)}")
        else:
            handler.send_response(200)
        handler.send_header("Content-Length", str(len(data) - start))
        handler.end_headers()
        handler.wfile.write(data[start : start + count])
        handler.break_off()
        return True

    return fault


# Reading.


def test_a_manifest_and_its_blobs(registry: FaultyRegistry, client: RegistryClient) -> None:
    digest = registry.add_image("app", "1", TAR)
    found = client.manifest("app", "1")
    assert isinstance(found, ImageManifest)
    assert found.digest == digest
    assert client.manifest("app", digest) == found
    assert read(client, found.layers[0]) == TAR
    assert digest_of(fetch_document(client, "app", found.config)) == found.config.digest
    assert client.has_blob("app", found.layers[0].digest)
    assert not client.has_blob("app", "sha256:" + "0" * 64)


def test_a_broken_download_goes_on_where_it_broke(
    registry: FaultyRegistry, client: RegistryClient
) -> None:
    data = os.urandom(500_000)
    registry.faults.append(break_after(100_000, 3))
    assert read(client, blob(registry, data)) == data
    ranges = [request.headers.get("Range") for request in registry.seen("GET", "/blobs/")]
    assert ranges == [None, "bytes=100000-", "bytes=200000-", "bytes=300000-"]


def test_a_server_without_ranges(registry: FaultyRegistry, client: RegistryClient) -> None:
    data = os.urandom(500_000)
    registry.ranges = False
    descriptor = blob(registry, data)

    def fault(handler: Handler) -> bool:
        if "/blobs/" not in handler.path or len(registry.seen("GET", "/blobs/")) > 2:
            return False
        handler.send_response(200)
        handler.send_header("Content-Length", str(len(data)))
        handler.end_headers()
        handler.wfile.write(data[:123_456])
        handler.break_off()
        return True

    registry.faults.append(fault)
    assert read(client, descriptor) == data
    assert len(registry.seen("GET", "/blobs/")) == 3


def test_five_breaks_without_progress_are_enough(
    registry: FaultyRegistry, client: RegistryClient
) -> None:
    registry.faults.append(break_after(10, 100))
    with pytest.raises(RegistryError, match=r"closed the connection after \d+ of 5000.*5 times"):
        read(client, blob(registry, bytes(5000)))
    assert len(registry.seen("GET", "/blobs/")) == 5


def test_progress_counts_afresh(registry: FaultyRegistry, client: RegistryClient) -> None:
    data = os.urandom(10 << 20)
    registry.faults.append(break_after((1 << 20) + 10, 9))
    # Compared by digest: a failure must not print ten megabytes.
    assert digest_of(read(client, blob(registry, data))) == digest_of(data)


@pytest.mark.parametrize(
    "span",
    ["bytes 0-99/500", "bytes 101-499/500", "bytes 100-499/501", "bytes 100-", "", "100-499"],
)
def test_a_range_that_was_not_asked_for(
    registry: FaultyRegistry, client: RegistryClient, span: str
) -> None:
    descriptor = blob(registry, bytes(500))

    def fault(handler: Handler) -> bool:
        if not handler.headers.get("Range"):
            return False
        handler.answer(206, bytes(400), Content_Range=span)
        return True

    registry.faults += [break_after(100), fault]
    with pytest.raises(RegistryError, match="asked for bytes from 100 on and sent"):
        read(client, descriptor)


def test_another_length_than_the_descriptor_says(
    registry: FaultyRegistry, client: RegistryClient
) -> None:
    digest = registry.add_blob(bytes(100))
    for size in (99, 101):
        with pytest.raises(RegistryError, match=f"has 100 bytes of .*descriptor says {size}"):
            read(client, BlobDescriptor("", digest, size, None, {}))


def test_more_than_was_announced(registry: FaultyRegistry, client: RegistryClient) -> None:
    def fault(handler: Handler) -> bool:
        if "/blobs/" not in handler.path:
            return False
        handler.send_response(200)
        handler.send_header("Connection", "close")
        handler.end_headers()
        handler.wfile.write(bytes(200))
        handler.break_off()
        return True

    descriptor = blob(registry, bytes(100))
    registry.faults.append(fault)
    with pytest.raises(RegistryError, match="sends more than the 100 bytes"):
        read(client, descriptor)


def test_documents_of_the_wrong_digest(registry: FaultyRegistry, client: RegistryClient) -> None:
    digest = registry.add_image("app", "1", TAR)
    registry.manifests["app", digest] = registry.manifests["app", "1"][0], b"{}"
    with pytest.raises(RegistryError, match=f"where {digest} was expected"):
        client.manifest("app", digest)
    descriptor = blob(registry, b"{}")
    registry.blobs[descriptor.digest] = b"[]"
    with pytest.raises(RegistryError, match="that is not sha256:"):
        fetch_document(client, "app", descriptor)


def test_a_manifest_that_is_not_what_its_header_says(
    registry: FaultyRegistry, client: RegistryClient
) -> None:
    def fault(handler: Handler) -> bool:
        if "/manifests/" in handler.path:
            handler.answer(200, b"{}", Docker_Content_Digest="sha256:" + "0" * 64)
            return True
        return False

    registry.faults.append(fault)
    with pytest.raises(RegistryError, match="where sha256:0000"):
        client.manifest("app", "1")


def test_a_huge_manifest(registry: FaultyRegistry, client: RegistryClient) -> None:
    registry.add_manifest("app", "1", b'{"a":"' + b"x" * (4 << 20) + b'"}')
    with pytest.raises(RegistryError, match="more than 4194304 bytes"):
        client.manifest("app", "1")


def test_a_manifest_of_the_wrong_shape(registry: FaultyRegistry, client: RegistryClient) -> None:
    registry.add_manifest("app", "1", {"schemaVersion": 2, "layers": "all of them"})
    with pytest.raises(ManifestError, match="app:1"):
        client.manifest("app", "1")


def test_content_is_not_decoded(registry: FaultyRegistry, client: RegistryClient) -> None:
    """A blob is what was sent, whatever coding the server calls it."""
    packed = gzip.compress(TAR)
    descriptor = blob(registry, packed)

    def fault(handler: Handler) -> bool:
        if "/blobs/" not in handler.path:
            return False
        handler.answer(200, packed, Content_Encoding="gzip")
        return True

    registry.faults.append(fault)
    assert read(client, descriptor) == packed


@pytest.mark.parametrize(
    "body",
    [b"[]", b"{}", b'{"errors":[]}', b'{"errors":5}', b'{"errors":[1]}', b"\xff", b"[" * 9999],
)
def test_refusals_without_a_proper_reason(
    registry: FaultyRegistry, client: RegistryClient, body: bytes
) -> None:
    def fault(handler: Handler) -> bool:
        if "/manifests/" in handler.path:
            handler.answer(404, body)
            return True
        return False

    registry.faults.append(fault)
    with pytest.raises(RegistryError, match=r"answered 404 Not Found$"):
        client.manifest("app", "1")


# Connections.


def test_connections_are_kept_and_shared(
    registry: FaultyRegistry, client: RegistryClient, tmp_path: Path
) -> None:
    """One after the other, whatever was asked and by whom, it takes one connection."""
    registry.add_image("app", "1", TAR)
    descriptor = blob(registry, TAR)
    ports: set[int] = set()

    def fault(handler: Handler) -> bool:
        ports.add(handler.client_address[1])
        if handler.path.startswith("/v2/moved/"):
            target = handler.path.replace("moved", "app")
            handler.answer(307, b"<a>it is there</a>", Location=target)
            return True
        return False

    registry.faults.append(fault)
    client.manifest("moved", "1")
    assert not client.has_blob("app", "sha256:" + "0" * 64)
    digest, path = file_of(tmp_path, b"hello")
    push_blob(client, "app", digest, path)
    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(read, client, descriptor).result() == TAR
    assert len(registry.requests) == 8
    assert len(ports) == 1


def test_a_server_that_hangs_up_between_requests(
    registry: FaultyRegistry, client: RegistryClient
) -> None:
    registry.add_image("app", "1", TAR)

    def fault(handler: Handler) -> bool:
        kind, data = registry.manifests["app", "1"]
        if "/manifests/" in handler.path:
            handler.answer(200, data, Content_Type=kind)
            handler.break_off()
            return True
        return False

    registry.faults.append(fault)
    for _ in range(10):
        client.manifest("app", "1")


@pytest.mark.parametrize(
    "lines", [b"SSH-2.0-OpenSSH", b"HTTP/1.1 200 OK\r\nContent-Length: 5, 6", b"HTTP/1.1 x"]
)
def test_a_server_that_does_not_speak_http(tmp_path: Path, lines: bytes) -> None:
    class Odd(StreamRequestHandler):
        def handle(self) -> None:
            while self.rfile.readline().strip():
                pass
            self.wfile.write(lines + b"\r\n\r\n")

    with ThreadingTCPServer(("127.0.0.1", 0), Odd) as server:
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        client = make_client("127.0.0.1:1", tmp_path)
        port = server.server_address[1]
        with pytest.raises(RegistryError, match=r"the server does not speak HTTP.*tried 5 times"):
            client.transport.retry(
                lambda: client.transport.request("GET", f"http://127.0.0.1:{port}/", {})
            )
        server.shutdown()


@pytest.mark.parametrize("status", [301, 307, 503])
def test_what_writes_is_neither_redirected_nor_repeated(
    registry: FaultyRegistry, client: RegistryClient, status: int
) -> None:
    def fault(handler: Handler) -> bool:
        handler.answer(status, Location="/elsewhere", Retry_After="0")
        return True

    registry.faults.append(fault)
    headers = {"Content-Length": "1"}
    for method in ("POST", "PATCH", "PUT"):
        url = f"http://{registry.address}/there"
        with client.transport.request(method, url, headers, b"x") as response:
            assert response.status == status
    assert [request.path for request in registry.requests] == ["/there"] * 3


# Trying again.


@pytest.mark.parametrize("status", [429, 500, 502, 503, 504])
def test_come_again(registry: FaultyRegistry, client: RegistryClient, status: int) -> None:
    registry.add_image("app", "1", TAR)
    left = [4]

    def fault(handler: Handler) -> bool:
        if not left[0]:
            return False
        left[0] -= 1
        handler.answer(status, b"busy", Retry_After="0")
        return True

    registry.faults.append(fault)
    client.manifest("app", "1")
    left[0] = 1000
    with pytest.raises(RegistryError, match=f"answered {status}.*tried 5 times"):
        client.manifest("app", "1")


def test_the_wait_that_is_asked_for_is_kept(
    registry: FaultyRegistry, client: RegistryClient
) -> None:
    registry.add_image("app", "1", TAR)
    asked: list[float] = []

    def fault(handler: Handler) -> bool:
        asked.append(time.monotonic())
        if len(asked) > 1:
            return False
        handler.answer(429, Retry_After="1")
        return True

    registry.faults.append(fault)
    client.ping()
    assert asked[1] - asked[0] >= 1.0


def test_retry_after() -> None:
    assert retry_after("7") == 7
    assert retry_after(None) is None
    assert retry_after("soon") is None
    assert retry_after("Wed, 21 Oct 2015 07:28:00 GMT") == 0


def test_a_registry_that_is_not_there(tmp_path: Path) -> None:
    with faulty_registry() as gone:
        address = gone.address
    client = make_client(address, tmp_path)
    with pytest.raises(RegistryError, match=f"cannot reach the registry http://{address}.*refused"):
        client.ping()


def test_something_that_is_no_registry(registry: FaultyRegistry, client: RegistryClient) -> None:
    def fault(handler: Handler) -> bool:
        handler.answer(404)
        return True

    registry.faults.append(fault)
    with pytest.raises(RegistryError, match="is no registry that speaks version 2"):
        client.ping()


def test_stopping_ends_what_waits(registry: FaultyRegistry, client: RegistryClient) -> None:
    released = threading.Event()

    def fault(handler: Handler) -> bool:
        if "/blobs/" in handler.path:
            released.wait(20)
        return False

    descriptor = blob(registry, bytes(100))
    registry.faults.append(fault)
    client.ping()
    timer = threading.Timer(0.2, client.transport.stop)
    timer.start()
    with pytest.raises(RegistryError, match="stopped"):
        read(client, descriptor)
    released.set()
    timer.join()


def test_stopping_ends_the_last_answer_of_a_connection(
    registry: FaultyRegistry, client: RegistryClient
) -> None:
    """Its connection has given the socket away, to the answer alone."""
    begun, released = threading.Event(), threading.Event()

    def fault(handler: Handler) -> bool:
        if "/blobs/" not in handler.path:
            return False
        handler.send_response(200)
        handler.send_header("Content-Length", "100")
        handler.send_header("Connection", "close")
        handler.end_headers()
        begun.set()
        released.wait(20)
        return True

    descriptor = blob(registry, bytes(100))
    registry.faults.append(fault)
    client.ping()
    with ThreadPoolExecutor(1) as pool:
        reading = pool.submit(read, client, descriptor)
        assert begun.wait(20)
        client.transport.stop()
        with pytest.raises(RegistryError, match="stopped"):
            reading.result()
        assert not released.is_set()
        released.set()


# Where requests may go.


def test_a_redirect_takes_no_authorization_along(tmp_path: Path) -> None:
    with faulty_registry() as registry, faulty_registry() as elsewhere:
        descriptor = blob(registry, TAR)
        elsewhere.blobs = registry.blobs

        def fault(handler: Handler) -> bool:
            if handler.headers.get("Authorization") is None:
                handler.answer(401, WWW_Authenticate='Basic realm="x"')
            elif "/blobs/" in handler.path:
                target = f"http://{elsewhere.address}/v2/x/blobs/{descriptor.digest}"
                handler.answer(307, Location=target)
            else:
                return False
            return True

        registry.faults.append(fault)
        folder = tmp_path / ".docker"
        folder.mkdir()
        (folder / "config.json").write_text(
            f'{{"auths": {{"{registry.address}": {{"username": "u", "password": "p"}}}}}}'
        )
        client = make_client(registry.address, tmp_path)
        assert read(client, descriptor) == TAR
        client.close()
        assert all("Authorization" not in request.headers for request in elsewhere.requests)
        assert len(elsewhere.requests) == 1
        assert registry.requests[-1].headers["Authorization"].startswith("Basic ")


@pytest.mark.parametrize(
    "target",
    [
        "http://192.0.2.1/x",
        "ftp://127.0.0.1/x",
        "http://a@127.0.0.1/x",
        "http://[::",
        "https://a..test/x",
        f"https://{'a' * 64}.test/x",
    ],
)
def test_redirects_that_are_not_followed(
    registry: FaultyRegistry, client: RegistryClient, target: str
) -> None:
    descriptor = blob(registry, TAR)

    def fault(handler: Handler) -> bool:
        if "/blobs/" in handler.path:
            handler.answer(302, Location=target)
            return True
        return False

    registry.faults.append(fault)
    with pytest.raises(RegistryError, match=r"without TLS|no URL to fetch from"):
        read(client, descriptor)


def test_redirects_in_a_circle(registry: FaultyRegistry, client: RegistryClient) -> None:
    descriptor = blob(registry, TAR)

    def fault(handler: Handler) -> bool:
        if "/blobs/" in handler.path:
            handler.answer(302, Location=handler.path)
            return True
        return False

    registry.faults.append(fault)
    with pytest.raises(RegistryError, match="redirects more than 5 times"):
        read(client, descriptor)


def test_no_plain_http_to_other_machines(tmp_path: Path) -> None:
    client = make_client("192.0.2.1:5000", tmp_path)
    with pytest.raises(RegistryError, match="--plain-http allows it"):
        client.transport.request("GET", "http://192.0.2.1:5000/v2/", {})
    with pytest.raises(RegistryError, match="no URL"):
        origin("file:///etc/passwd")


# TLS.


def make_certificate(folder: Path, name: str) -> tuple[Path, Path]:
    """A certificate that vouches for itself, in a folder like certs.d, and its key."""
    certificates = folder / "certs"
    certificates.mkdir()
    paths = (certificates / "ca.crt", folder / "key.pem")
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256",
         "-nodes", "-days", "2", "-subj", "/CN=test", "-addext", f"subjectAltName={name}",
         "-keyout", paths[1], "-out", paths[0]],
        check=True, capture_output=True,
    )  # fmt: skip
    return paths


@pytest.fixture
def tls_registry(tmp_path: Path) -> Iterator[tuple[str, Path]]:
    """docker-registry behind TLS with a certificate of its own; its address and certs.d folder."""
    if reason := missing("docker-registry", "openssl"):
        pytest.skip(reason)
    tls = make_certificate(tmp_path, "IP:127.0.0.1")
    folder = tmp_path / "registry"
    folder.mkdir()
    with docker_registry(folder, tls=tls) as address:
        yield address, tls[0].parent


def test_tls(tls_registry: tuple[str, Path], tmp_path: Path) -> None:
    address, certificates = tls_registry
    with pytest.raises(RegistryError, match=r"certificate is not trusted.*--cert-dir"):
        make_client(address, tmp_path).ping()
    for security in (Security(certificates=certificates), Security(verify=False)):
        client = make_client(address, tmp_path, security)
        assert client.ping() == f"https://{address}"
        client.close()


def test_a_certificate_that_is_none(tls_registry: tuple[str, Path], tmp_path: Path) -> None:
    address, certificates = tls_registry
    (certificates / "other.crt").write_text("nonsense")
    with pytest.raises(RegistryError, match="cannot use the certificate"):
        make_client(address, tmp_path, Security(certificates=certificates)).ping()


def test_by_way_of_a_proxy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The name exists nowhere: only the proxy knows where it leads."""
    if reason := missing("docker-registry", "openssl"):
        pytest.skip(reason)
    (tmp_path / "registry").mkdir()
    tls = make_certificate(tmp_path, "DNS:registry.test")
    asked: list[tuple[str, str]] = []
    with docker_registry(tmp_path / "registry", tls=tls) as address:

        class Proxy(BaseHTTPRequestHandler):
            def do_CONNECT(self) -> None:
                asked.append((self.path, self.headers.get("Proxy-Authorization") or ""))
                self.send_response(200)
                self.end_headers()
                host, _, port = address.partition(":")
                with socket.create_connection((host, int(port))) as there:
                    pipe(self.connection, there)

            def log_message(self, *_: object) -> None:
                pass

        server = ThreadingHTTPServer(("127.0.0.1", 0), Proxy)
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        monkeypatch.setenv("HTTPS_PROXY", f"http://me:a%40b@127.0.0.1:{server.server_port}")
        monkeypatch.setenv("NO_PROXY", "other.test")
        client = make_client("registry.test:5000", tmp_path, Security(certificates=tls[0].parent))
        assert client.ping() == "https://registry.test:5000"
        client.close()
        server.shutdown()
        server.server_close()
    assert asked == [("registry.test:5000", "Basic bWU6YUBi")]


@pytest.mark.parametrize("proxy", ["socks5://127.0.0.1:1", "http://", "127.0.0.1:port"])
def test_a_proxy_that_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, proxy: str) -> None:
    monkeypatch.setenv("HTTPS_PROXY", proxy)
    with pytest.raises(RegistryError, match="HTTPS_PROXY does not name a proxy of the form"):
        make_client("registry.test:5000", tmp_path).ping()


def pipe(one: socket.socket, other: socket.socket) -> None:
    """Pass bytes between two sockets until either is closed."""
    with selectors.DefaultSelector() as selector:
        selector.register(one, selectors.EVENT_READ, other)
        selector.register(other, selectors.EVENT_READ, one)
        while True:
            for key, _ in selector.select(5):
                data = key.fileobj.recv(65536)  # type: ignore[union-attr]
                if not data:
                    return
                key.data.sendall(data)


# Writing.


def file_of(folder: Path, data: bytes) -> tuple[str, Path]:
    path = folder / "blob"
    path.write_bytes(data)
    return digest_of(data), path


def test_a_small_blob_goes_up_in_one_piece(
    registry: FaultyRegistry, client: RegistryClient, tmp_path: Path
) -> None:
    digest, path = file_of(tmp_path, b"hello")
    seen: list[int] = []
    assert push_blob(client, "app", digest, path, progress=seen.append) is Sent.PUSHED
    assert registry.blobs[digest] == b"hello"
    assert seen == [5]
    assert push_blob(client, "app", digest, path) is Sent.EXISTED
    assert [request.method for request in registry.requests] == [
        "GET", "HEAD", "POST", "PUT", "HEAD",
    ]  # fmt: skip


def test_a_large_blob_goes_up_in_chunks(
    registry: FaultyRegistry, client: RegistryClient, tmp_path: Path
) -> None:
    data = os.urandom(2 * CHUNK_BYTES + 5)
    digest, path = file_of(tmp_path, data)
    assert push_blob(client, "app", digest, path) is Sent.PUSHED
    assert registry.blobs[digest] == data
    spans = [request.headers["Content-Range"] for request in registry.seen("PATCH", "")]
    assert spans[0] == f"0-{CHUNK_BYTES - 1}"
    assert len(spans) == 3


@pytest.mark.parametrize("forgets", [False, True])
def test_a_broken_upload_goes_on(
    registry: FaultyRegistry, client: RegistryClient, tmp_path: Path, forgets: bool
) -> None:
    data = os.urandom(2 * CHUNK_BYTES + 5)
    digest, path = file_of(tmp_path, data)
    broken: list[str] = []

    def fault(handler: Handler) -> bool:
        if handler.command != "PATCH" or len(registry.seen("PATCH", "")) != 2 or broken:
            return False
        broken.append(handler.path)
        if forgets:
            registry.uploads.clear()
        else:
            # Half of the chunk has arrived when the line goes dead.
            registry.uploads[handler.path.rpartition("/")[2]] += handler.body[: CHUNK_BYTES // 2]
        handler.break_off()
        return True

    registry.faults.append(fault)
    assert push_blob(client, "app", digest, path) is Sent.PUSHED
    assert registry.blobs[digest] == data
    spans = [request.headers["Content-Range"] for request in registry.seen("PATCH", "")]
    assert spans[2].startswith("0-" if forgets else f"{CHUNK_BYTES * 3 // 2}-")


def test_mounting(registry: FaultyRegistry, client: RegistryClient, tmp_path: Path) -> None:
    digest, path = file_of(tmp_path, b"hello")

    def lacks(handler: Handler) -> bool:
        if handler.command == "HEAD":
            handler.answer(404)
            return True
        return False

    registry.faults.append(lacks)
    registry.add_blob(b"hello")
    assert push_blob(client, "app", digest, path, mount_from=("other",)) is Sent.MOUNTED
    registry.blobs.clear()
    assert push_blob(client, "app", digest, path, mount_from=("a", "b")) is Sent.PUSHED
    assert len(registry.seen("POST", "mount=")) == 2


def test_an_upload_that_is_refused(
    registry: FaultyRegistry, client: RegistryClient, tmp_path: Path
) -> None:
    _, path = file_of(tmp_path, b"hello")
    with pytest.raises(RegistryError, match=r"answered 400.*DIGEST_INVALID"):
        push_blob(client, "app", "sha256:" + "0" * 64, path)

    def fault(handler: Handler) -> bool:
        if handler.command == "POST":
            handler.answer(403, b'{"errors":[{"code":"DENIED","message":"read\\u001b[only"}]}')
            return True
        return False

    registry.faults.append(fault)
    with pytest.raises(RegistryError, match="does not let us at app") as caught:
        push_blob(client, "app", "sha256:" + "0" * 64, path)
    assert str(caught.value).isprintable()


def test_broken_transfers_are_registry_errors() -> None:
    assert BrokenTransferError("x", wait_s=3).status is None
