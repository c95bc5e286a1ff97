"""HTTP to registries, on the standard library: connections kept open, redirects, TLS, tries.

What may go where, since a registry's answers decide where the next request goes:

- plain http goes only to this machine (loopback), unless the user asked for it; a redirect from
  https to http is never followed
- `Authorization` goes to the origin (scheme, host, port) it was made for, never along a redirect
- only GET and HEAD follow redirects; other requests go where they are sent
"""

from __future__ import annotations

import base64
import contextlib
import http.client
import json
import random
import socket
import ssl
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self, TypeVar
from urllib.parse import unquote, urlsplit

from runtime.images.formats.schema import printable
from runtime.images.registry.http import (
    BrokenTransferError,
    RegistryError,
    explain,
    is_final,
    is_loopback,
    join,
    origin,
    place,
    retry_after,
)

Body = bytes | Callable[[], Iterable[bytes]] | None
"""What is sent: bytes, or a maker of pieces, which can be asked again."""
_REDIRECTS = (301, 302, 303, 307, 308)
_REDIRECT_LIMIT = 5
_AGAIN = (408, 425, 429, 500, 502, 503, 504)
"""Answers that another try may change."""
_WAIT_LIMIT_S = 60.0
_CERTIFICATE_FOLDERS = ("/etc/containers/certs.d", "/etc/docker/certs.d")
TRIES = 5
_PROGRESS_BYTES = 1 << 20
_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class Security:
    """How a registry is spoken to.

    Attributes:
        plain_http: Without TLS, wherever it is.
        verify: Check the server's certificate.
        certificates: A folder with `*.crt` (authorities), `*.cert` and `*.key` (our own), as
            docker-registry clients keep them in certs.d; None means those of the machine.
    """

    plain_http: bool = False
    verify: bool = True
    certificates: Path | None = None


class Response:
    """An answer; a context manager, after which its connection may be used again.

    Attributes:
        status: Its code.
        headers: Its header fields.
        url: Where it came from, redirects followed.
    """

    def __init__(
        self, raw: http.client.HTTPResponse, url: str, discard: Callable[[], None]
    ) -> None:
        self._raw = raw
        self._discard = discard
        self.url = url
        self.status = raw.status
        self.headers = raw.headers

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        # What is left unread would be taken for the next answer.
        if not self._raw.isclosed() or self._raw.will_close:
            self._discard()

    def read(self, size: int) -> bytes:
        """Up to `size` bytes of the body; none only at its end."""
        return self._raw.read(size)

    def read_all(self, limit_bytes: int) -> bytes:
        """The whole body.

        Raises:
            RegistryError: It is longer than the limit.
        """
        pieces, length = [], 0
        while piece := self._raw.read(1 << 16):
            pieces.append(piece)
            length += len(piece)
            if length > limit_bytes:
                raise RegistryError(
                    f"{place(self.url)} sent more than {limit_bytes} bytes where less was expected"
                )
        if self._raw.length:
            raise BrokenTransferError(f"{place(self.url)} closed the connection too early")
        return b"".join(pieces)

    def problem(self) -> str:
        """Why it refused, from the body that registries send (distribution-spec, errors)."""
        text = f"{self.status} {printable(self._raw.reason)}".strip()
        with contextlib.suppress(
            OSError, http.client.HTTPException, RegistryError, ValueError, RecursionError
        ):
            errors = json.loads(self.read_all(1 << 16)).get("errors")
            first = errors[0]
            said = first.get("message") or first.get("code")
            return f"{text}, {printable(said)}" if said else text
        return text

    def check_retry(self) -> None:
        """Raise BrokenTransferError if the answer says to come again."""
        if self.status in _AGAIN:
            wait_s = retry_after(self.headers.get("Retry-After"))
            raise BrokenTransferError(f"{place(self.url)} answered {self.problem()}", wait_s=wait_s)


class Patience:
    """Counts how often something failed in a row.

    Args:
        progressed: How far it got, in bytes; after another MiB, failures count afresh.
    """

    def __init__(self, progressed: Callable[[], int] = lambda: 0) -> None:
        self._progressed = progressed
        self._reached = progressed()
        self._failures = 0

    def failed(self) -> int:
        """Count one more; gives how many there are."""
        done = self._progressed()
        if done >= self._reached + _PROGRESS_BYTES:
            self._failures, self._reached = 0, done
        self._failures += 1
        return self._failures


class Transport:
    """Sends requests. Safe for threads: each has connections of its own.

    Args:
        security: How servers are spoken to.
        timeout_s: How long a silent server is waited for.
        pause_s: How long before the second try; doubles from try to try.
    """

    def __init__(
        self, security: Security, *, timeout_s: float = 60.0, pause_s: float = 0.5
    ) -> None:
        self._security = security
        self._timeout_s = timeout_s
        self._pause_s = pause_s
        self._local = threading.local()
        self._lock = threading.Lock()
        # The socket beside its connection, which gives it away with the last answer on it.
        self._open: dict[http.client.HTTPConnection, socket.socket] = {}
        self._contexts: dict[str, ssl.SSLContext] = {}
        self._stopped = threading.Event()

    def stop(self) -> None:
        """End all that is under way, in whatever thread, with an error there."""
        self._stopped.set()
        with self._lock:
            for opened in self._open.values():
                with contextlib.suppress(OSError):
                    opened.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """Close all connections; nothing may be under way."""
        with self._lock:
            for connection in self._open:
                connection.close()
            self._open.clear()
        self._local = threading.local()

    def request(
        self, method: str, url: str, headers: Mapping[str, str], body: Body = None
    ) -> Response:
        """Send a request, and follow redirects if it is a GET or HEAD.

        Raises:
            RegistryError: The URL may not be spoken to, or leads nowhere.
            OSError, http.client.HTTPException: The connection failed.
        """
        fields = dict(headers)
        for _ in range(_REDIRECT_LIMIT + 1):
            response = self._once(method, url, fields, body)
            if response.status not in _REDIRECTS or method not in ("GET", "HEAD"):
                return response
            with response:
                target = join(url, response.headers.get("Location") or "")
            if origin(target) != origin(url):
                fields.pop("Authorization", None)
            if url.startswith("https:") and not target.startswith("https:"):
                raise RegistryError(f"{place(url)} redirects to {printable(target)}, without TLS")
            url = target
        raise RegistryError(f"{place(url)} redirects more than {_REDIRECT_LIMIT} times")

    def trying(self, attempt: Callable[[], _T], patience: Patience | None = None) -> _T:
        """Do something until it succeeds, is refused, or patience ends.

        Args:
            attempt: Is tried again after a broken connection and when told to come later.
            patience: Kept by who does one thing in several steps.

        Raises:
            RegistryError: It failed every time; says how the last time.
        """
        patience = patience or Patience()
        while True:
            try:
                return attempt()
            except (OSError, http.client.HTTPException, BrokenTransferError) as error:
                if self._stopped.is_set():
                    raise RegistryError("stopped") from None
                if is_final(error):
                    raise RegistryError(explain(error)) from error
                failures = patience.failed()
                if failures == TRIES:
                    text = f"{explain(error)} (tried {TRIES} times)"
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
        kept = self._connections().get(origin(url))
        connection = kept or self._connect(url)
        try:
            return self._exchange(connection, method, url, target, headers, body)
        except (http.client.RemoteDisconnected, ConnectionError):
            self._drop(url, connection)
            if kept is None or self._stopped.is_set():
                raise
            # A connection that was kept may have been closed meanwhile: no failure yet.
            connection = self._connect(url)
            try:
                return self._exchange(connection, method, url, target, headers, body)
            except BaseException:
                self._drop(url, connection)
                raise
        except BaseException:
            self._drop(url, connection)
            raise

    def _exchange(
        self,
        connection: http.client.HTTPConnection,
        method: str,
        url: str,
        target: str,
        headers: dict[str, str],
        body: Body,
    ) -> Response:
        fields = {"User-Agent": "steelyard", "Accept-Encoding": "identity", **headers}
        pieces = body() if callable(body) else body
        broken: OSError | None = None
        try:
            connection.request(method, target, pieces, fields)
        except (BrokenPipeError, ConnectionResetError) as error:
            # The server may have answered before it closed: that answer is what counts.
            broken = error
        try:
            raw = connection.getresponse()
        except (OSError, http.client.HTTPException):
            if broken is not None:
                raise broken from None
            raise
        if broken is not None or raw.will_close:
            self._connections().pop(origin(url), None)
        return Response(raw, url, lambda: self._drop(url, connection))

    def _connections(self) -> dict[tuple[str, str, int], http.client.HTTPConnection]:
        found: dict[tuple[str, str, int], http.client.HTTPConnection] | None
        found = getattr(self._local, "connections", None)
        if found is None:
            found = self._local.connections = {}
        return found

    def _connect(self, url: str) -> http.client.HTTPConnection:
        scheme, host, port = origin(url)
        if scheme == "http" and not (self._security.plain_http or is_loopback(host)):
            raise RegistryError(
                f"{printable(host)} is not this machine, so it is not spoken to without TLS; "
                "--plain-http allows it"
            )
        connection: http.client.HTTPConnection
        if scheme == "https":
            context = self._context(f"{host}:{port}", host)
            connection = _secure_connection(host, port, self._timeout_s, context)
        else:
            connection = http.client.HTTPConnection(host, port, timeout=self._timeout_s)
        connection.connect()
        self._connections()[origin(url)] = connection
        with self._lock:
            self._open[connection] = connection.sock
        return connection

    def _drop(self, url: str, connection: http.client.HTTPConnection) -> None:
        if self._connections().get(origin(url)) is connection:
            del self._connections()[origin(url)]
        with self._lock:
            self._open.pop(connection, None)
        connection.close()

    def _context(self, authority: str, host: str) -> ssl.SSLContext:
        with self._lock:
            if authority not in self._contexts:
                self._contexts[authority] = _tls(self._security, authority, host)
            return self._contexts[authority]


def _secure_connection(
    host: str, port: int, timeout_s: float, context: ssl.SSLContext
) -> http.client.HTTPSConnection:
    """Straight there, or by the proxy that HTTPS_PROXY names unless NO_PROXY excepts the host."""
    proxy = None
    if not is_loopback(host):
        # Slow to import, and most who pull from this machine do without.
        from urllib.request import getproxies_environment, proxy_bypass

        if not proxy_bypass(f"{host}:{port}"):
            proxy = getproxies_environment().get("https")
    if not proxy:
        return http.client.HTTPSConnection(host, port, timeout=timeout_s, context=context)
    parts = urlsplit(proxy if "://" in proxy else f"http://{proxy}")
    if parts.scheme != "http" or not parts.hostname:
        raise RegistryError("HTTPS_PROXY does not name a proxy of the form http://HOST:PORT")
    connection = http.client.HTTPSConnection(
        parts.hostname, parts.port or 3128, timeout=timeout_s, context=context
    )
    headers = {}
    if parts.username:
        pair = f"{unquote(parts.username)}:{unquote(parts.password or '')}".encode()
        headers["Proxy-Authorization"] = "Basic " + base64.b64encode(pair).decode("ascii")
    connection.set_tunnel(host, port, headers)
    return connection


def _tls(security: Security, authority: str, host: str) -> ssl.SSLContext:
    context = ssl.create_default_context()
    if not security.verify:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    folders = [security.certificates] if security.certificates else []
    if not folders:
        names = (authority, host)
        folders = [Path(base) / name for base in _CERTIFICATE_FOLDERS for name in names]
    for folder in folders:
        for path in _certificates(folder):
            try:
                if path.suffix == ".crt":
                    context.load_verify_locations(path)
                else:
                    context.load_cert_chain(path, path.with_suffix(".key"))
            except OSError as error:
                reason = error.strerror or error
                raise RegistryError(f"cannot use the certificate {path}: {reason}") from error
    return context


def _certificates(folder: Path) -> Iterator[Path]:
    try:
        yield from (p for p in sorted(folder.iterdir()) if p.suffix in (".crt", ".cert"))
    except (FileNotFoundError, NotADirectoryError):
        return
