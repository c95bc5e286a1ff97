"""HTTP to registries: what may go where, and how often it is tried.

urllib3 keeps connections open, speaks TLS and goes by proxies. This module decides where requests
go and when they are repeated, since a registry's answers name the target of the next request:

- plain http goes only to this machine (loopback), unless the user asked for it; a redirect from
  https to http is never followed
- `Authorization` goes to the origin (scheme, host, port) it was made for, never along a redirect
- only GET and HEAD follow redirects; other requests go where they are sent
"""

from __future__ import annotations

import contextlib
import http.client
import json
import random
import socket
import ssl
import threading
import weakref
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self, TypeVar
from urllib.parse import unquote, urlsplit

from runtime.images.formats.schema import printable
from runtime.images.registry import http as wire
from runtime.images.registry.http import BrokenTransferError, RegistryError, origin, place

if TYPE_CHECKING:
    # Imported with the first request: a launch does without (25 ms).
    from urllib3 import BaseHTTPResponse, HTTPConnectionPool, PoolManager

Body = bytes | Callable[[], Iterable[bytes]] | None
"""Bytes, or a maker of pieces, which another try calls again."""
_REDIRECTS = (301, 302, 303, 307, 308)
_REDIRECT_LIMIT = 5
_AGAIN = (408, 425, 429, 500, 502, 503, 504)
"""Answers that another try may change."""
_MALFORMED = (ValueError, RecursionError, LookupError, TypeError, AttributeError)
"""Errors of reading a document of another shape."""
_WAIT_LIMIT_S = 60.0
_CERTIFICATE_FOLDERS = ("/etc/containers/certs.d", "/etc/docker/certs.d")
TRIES = 5
_AS_IT_IS = {
    # The rules above are stricter than urllib3's, and `retry` knows more: where a blob broke off,
    # how long to wait, and that a PATCH must not go out again before the server has said how far it
    # got.
    "redirect": False,
    "retries": False,
    # A blob is read in pieces, hashed and measured as it was sent, and resumed where it broke off.
    "preload_content": False,
    "decode_content": False,
    "enforce_content_length": False,
}
"""Turns off what urllib3 would do by itself and must not do here."""
_KEPT_CONNECTIONS = 8
"""To each server: more than layers are fetched or sent at a time."""
_DRAIN_BYTES = 1 << 12
_PROGRESS_BYTES = 1 << 20
_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class Security:
    """Says how to connect to a registry.

    Attributes:
        plain_http: Without TLS, also on other machines.
        verify: Check the server's certificate.
        certificates: A folder with `*.crt` (authorities), `*.cert` and `*.key` (our own), as
            docker-registry clients keep them in certs.d; None means those of the machine.
    """

    plain_http: bool = False
    verify: bool = True
    certificates: Path | None = None


class Response:
    """Holds an answer; a context manager, after which its connection may be used again.

    Attributes:
        url: Where it came from, redirects followed.
    """

    def __init__(self, raw: BaseHTTPResponse, url: str) -> None:
        self._raw = raw
        self.url = url
        self.status = raw.status
        self.headers = raw.headers

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.release()

    def release(self) -> None:
        """Give the connection back, or close it."""
        # What is left unread would be taken for the next answer. A little, such as the page that
        # comes with a redirect, is faster read than a new connection made.
        left = self._raw.length_remaining
        if left is not None and left <= _DRAIN_BYTES:
            self._raw.drain_conn()
        else:
            self._raw.close()
        self._raw.release_conn()

    def read(self, size: int) -> bytes:
        """Up to `size` bytes of the body; none only at its end."""
        with wire.unwrapped():
            return self._raw.read(size)

    def read_all(self, limit_bytes: int) -> bytes:
        """Read the whole body, or raise RegistryError if it is longer than the limit."""
        data = self.read(limit_bytes + 1)
        if len(data) > limit_bytes:
            raise RegistryError(
                f"{place(self.url)} sent more than {limit_bytes} bytes where less was expected"
            )
        if self._raw.length_remaining:
            raise BrokenTransferError(f"{place(self.url)} closed the connection too early")
        return data

    def problem(self) -> str:
        """Why it refused, from the body that registries send (distribution-spec, errors)."""
        text = f"{self.status} {printable(self._raw.reason)}".strip()
        with contextlib.suppress(OSError, http.client.HTTPException, RegistryError, *_MALFORMED):
            first = json.loads(self.read_all(1 << 16))["errors"][0]
            if message := first.get("message") or first.get("code"):
                return f"{text}, {printable(message)}"
        return text

    def check_retry(self) -> None:
        """Raise BrokenTransferError if the answer says to come again."""
        if self.status in _AGAIN:
            wait_s = wire.retry_after(self.headers.get("Retry-After"))
            raise BrokenTransferError(f"{place(self.url)} answered {self.problem()}", wait_s=wait_s)


class RetryCounter:
    """Counts failures in a row; after another MiB of progress, in bytes, it starts again."""

    def __init__(self, progressed: Callable[[], int] = lambda: 0) -> None:
        self._progressed = progressed
        self._reached = progressed()
        self._failures = 0

    def failed(self) -> int:
        """Count one more, and return how many there are."""
        done = self._progressed()
        if done >= self._reached + _PROGRESS_BYTES:
            self._failures, self._reached = 0, done
        self._failures += 1
        return self._failures


class Transport:
    """Sends requests. Safe for threads, which share the connections that are kept open.

    It waits `timeout_s` for a silent server, and `pause_s` before the second try; the pause doubles
    from try to try.
    """

    def __init__(
        self, security: Security, *, timeout_s: float = 60.0, pause_s: float = 0.5
    ) -> None:
        self._security = security
        self._timeout_s = timeout_s
        self._pause_s = pause_s
        self._lock = threading.Lock()
        self._pools: dict[tuple[str, str, int], HTTPConnectionPool] = {}
        self._sockets: weakref.WeakSet[socket.socket] = weakref.WeakSet()
        self._stopped = threading.Event()

    def stop(self) -> None:
        """End all requests, in whatever thread, with an error there."""
        self._stopped.set()
        with self._lock:
            for opened in self._sockets:
                with contextlib.suppress(OSError):
                    opened.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """Close all connections; no request may be running."""
        with self._lock:
            for pool in self._pools.values():
                pool.close()
            self._pools.clear()

    def request(
        self, method: str, url: str, headers: Mapping[str, str], body: Body = None
    ) -> Response:
        """Send a request, and follow redirects if it is a GET or HEAD.

        Raises:
            RegistryError: The URL is not allowed, or leads nowhere.
            OSError, http.client.HTTPException: The connection failed.
        """
        fields = dict(headers)
        for _ in range(_REDIRECT_LIMIT + 1):
            response = self._once(method, url, fields, body)
            if response.status not in _REDIRECTS or method not in ("GET", "HEAD"):
                return response
            with response:
                target = wire.join(url, response.headers.get("Location") or "")
            if origin(target) != origin(url):
                fields.pop("Authorization", None)
            if url.startswith("https:") and not target.startswith("https:"):
                raise RegistryError(f"{place(url)} redirects to {printable(target)}, without TLS")
            url = target
        raise RegistryError(f"{place(url)} redirects more than {_REDIRECT_LIMIT} times")

    def retry(self, attempt: Callable[[], _T], counter: RetryCounter | None = None) -> _T:
        """Repeat `attempt` after broken connections and answers that say to come later.

        One `counter` may span several steps of one transfer.

        Raises:
            RegistryError: It failed every time; says how the last time.
        """
        counter = counter or RetryCounter()
        while True:
            try:
                return attempt()
            except (OSError, http.client.HTTPException, BrokenTransferError) as error:
                if self._stopped.is_set():
                    raise RegistryError("stopped") from None
                if wire.is_final(error):
                    raise RegistryError(wire.explain(error)) from error
                failures = counter.failed()
                if failures == TRIES:
                    text = f"{wire.explain(error)} (tried {TRIES} times)"
                    raise RegistryError(text) from error
                wait_s = self._pause_s * 2 ** (failures - 1) * random.uniform(0.75, 1.25)
                if isinstance(error, BrokenTransferError) and error.wait_s is not None:
                    wait_s = min(error.wait_s, _WAIT_LIMIT_S)
                self._stopped.wait(wait_s)

    def _once(self, method: str, url: str, headers: dict[str, str], body: Body) -> Response:
        if self._stopped.is_set():
            raise RegistryError("stopped")
        parts = urlsplit(url)
        target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        if not target.isascii() or any(c <= " " or c == "\x7f" for c in target):
            raise RegistryError(f"{place(url)} gave a malformed URL: {printable(url)!r}")
        # urllib3 sends the target's escapes as RFC 3986, 6.2.2.1, wants them: the same resource.
        fields = {"User-Agent": "steelyard", "Accept-Encoding": "identity", **headers}
        pieces = body() if callable(body) else body
        with wire.unwrapped():
            raw = self._pool(url).urlopen(method, target, pieces, fields, **_AS_IT_IS)
        return Response(raw, url)

    def _pool(self, url: str) -> HTTPConnectionPool:
        scheme, host, port = key = origin(url)
        if scheme == "http" and not (self._security.plain_http or wire.is_loopback(host)):
            raise RegistryError(
                f"{printable(host)} is not this machine, so it is not spoken to without TLS; "
                "--plain-http allows it"
            )
        with self._lock:
            if key not in self._pools:
                self._pools[key] = self._new_pool(scheme, host, port)
            return self._pools[key]

    def _new_pool(self, scheme: str, host: str, port: int) -> HTTPConnectionPool:
        import urllib3

        manager = urllib3.PoolManager()
        settings: dict[str, Any] = {"timeout": self._timeout_s, "maxsize": _KEPT_CONNECTIONS}
        if scheme == "https":
            settings["ssl_context"] = _tls(self._security, f"{host}:{port}", host)
            manager = _proxy(host, port) or manager
            if not self._security.verify:
                # The user asked for that: nothing to warn of.
                urllib3.disable_warnings(urllib3.exceptions.InsecureRequestWarning)
        pool = manager.connection_from_host(host, port, scheme, settings)

        class Watched(pool.ConnectionCls):  # type: ignore[misc, name-defined]
            """Lets `stop` find its socket, which it gives away with the last answer on it."""

            def connect(watched) -> None:  # noqa: N805
                super().connect()
                with self._lock:
                    self._sockets.add(watched.sock)
                if self._stopped.is_set():
                    raise RegistryError("stopped")

        pool.ConnectionCls = Watched
        return pool


def _proxy(host: str, port: int) -> PoolManager | None:
    """The proxy that HTTPS_PROXY names, unless NO_PROXY excepts the host or it is this machine."""
    if wire.is_loopback(host):
        return None
    # Slow to import, and pulling from this machine does without.
    from urllib.request import getproxies_environment, proxy_bypass

    proxy = None if proxy_bypass(f"{host}:{port}") else getproxies_environment().get("https")
    if not proxy:
        return None
    from urllib3 import ProxyManager
    from urllib3.util import Url, parse_url

    try:
        parts = parse_url(proxy if "://" in proxy else f"http://{proxy}")
    except ValueError:
        parts = Url()
    if parts.scheme != "http" or not parts.host:
        raise RegistryError("HTTPS_PROXY does not name a proxy of the form http://HOST:PORT")
    headers = {}
    if parts.auth:
        name, _, password = parts.auth.partition(":")
        headers["Proxy-Authorization"] = wire.basic(unquote(name), unquote(password))
    address = Url("http", host=parts.host, port=parts.port or 3128)
    return ProxyManager(address.url, proxy_headers=headers)


def _tls(security: Security, authority: str, host: str) -> ssl.SSLContext:
    context = ssl.create_default_context()
    if not security.verify:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    folders = [Path(base) / name for base in _CERTIFICATE_FOLDERS for name in (authority, host)]
    for folder in [security.certificates] if security.certificates else folders:
        try:
            paths = sorted(folder.iterdir())
        except (FileNotFoundError, NotADirectoryError):
            continue
        for path in paths:
            try:
                if path.suffix == ".crt":
                    context.load_verify_locations(path)
                elif path.suffix == ".cert":
                    context.load_cert_chain(path, path.with_suffix(".key"))
            except OSError as error:
                reason = error.strerror or error
                raise RegistryError(f"cannot use the certificate {path}: {reason}") from error
    return context
