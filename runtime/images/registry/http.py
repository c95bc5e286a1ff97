"""URLs and headers for registries, and errors of the connection."""

from __future__ import annotations

import base64
import contextlib
import email.utils
import http.client
import ipaddress
import socket
import ssl
import time
from collections.abc import Iterator
from urllib.parse import urljoin, urlsplit

from runtime.errors import ImageError
from runtime.images.formats.schema import printable

_DEFAULT_PORTS = {"http": 80, "https": 443}


class RegistryError(ImageError):
    """A registry cannot be reached, or refuses; `status` is that of its answer, if any."""

    def __init__(self, message: str, *, status: int | None = None) -> None:
        super().__init__(message)
        self.status = status


class BrokenTransferError(RegistryError):
    """A transfer broke or was put off: worth another try, after `wait_s` if the server says so."""

    def __init__(self, message: str, *, wait_s: float | None = None) -> None:
        super().__init__(message)
        self.wait_s = wait_s


def origin(url: str) -> tuple[str, str, int]:
    """Return scheme, host and port of an http or https URL, or raise RegistryError."""
    try:
        parts = urlsplit(url)
        # The form for name servers: some names cannot be written so.
        host, port = (parts.hostname or "").encode("idna").decode("ascii"), parts.port
    except ValueError:
        host, port = "", None
    if not host or parts.scheme not in _DEFAULT_PORTS or "@" in parts.netloc:
        raise RegistryError(f"{printable(url)!r} is no URL to fetch from")
    return parts.scheme, host, port or _DEFAULT_PORTS[parts.scheme]


def join(url: str, target: str) -> str:
    """Resolve a Location that came from `url`, or raise RegistryError."""
    try:
        return urljoin(url, target)
    except ValueError:
        raise RegistryError(f"{printable(target)!r} is no URL to fetch from") from None


def place(url: str) -> str:
    """Return host and port for messages; never the query, which may hold a signature."""
    return printable(urlsplit(url).netloc)


def basic(username: str, password: str) -> str:
    """Return the header of basic authentication (RFC 7617)."""
    return "Basic " + base64.b64encode(f"{username}:{password}".encode()).decode("ascii")


def is_loopback(host: str) -> bool:
    """Whether a host is this machine by its name alone; no name server is asked."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


@contextlib.contextmanager
def unwrapped() -> Iterator[None]:
    """Raise the OSError or http.client.HTTPException in an exception of urllib3's."""
    from urllib3.exceptions import HTTPError

    try:
        yield
    except HTTPError as error:
        cause: BaseException | None = error
        while cause and not isinstance(cause, OSError | http.client.HTTPException):
            cause = cause.__cause__ or cause.__context__
        raise cause or http.client.HTTPException(str(error)) from None


def explain(error: BaseException) -> str:
    """Return in words why the connection failed."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return (
            f"the server's certificate is not trusted ({error.verify_message}); name a folder with "
            "its authority by --cert-dir"
        )
    if isinstance(error, TimeoutError):
        return "the server stopped answering"
    if isinstance(error, http.client.IncompleteRead | http.client.RemoteDisconnected):
        return "the connection was closed too early"
    if isinstance(error, OSError):
        return error.strerror or str(error)
    if isinstance(error, http.client.HTTPException):
        return f"the server does not speak HTTP ({printable(error) or type(error).__name__})"
    return str(error)


def is_final(error: BaseException) -> bool:
    """Whether trying again cannot help: the name does not exist, the certificate is not trusted."""
    if isinstance(error, socket.gaierror):
        return error.errno != socket.EAI_AGAIN
    return isinstance(error, ssl.SSLCertVerificationError)


def retry_after(text: str | None) -> float | None:
    """Read the header of that name, seconds or a date (RFC 9110, 10.2.3), as seconds from now."""
    if text is None:
        return None
    if text.strip().isdigit():
        return float(text.strip()[:6])
    try:
        moment = email.utils.parsedate_to_datetime(text)
    except ValueError:
        return None
    return max(0.0, moment.timestamp() - time.time())
