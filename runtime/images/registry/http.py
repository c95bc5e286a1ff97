"""What the wire to a registry is made of: URLs, and the ways in which it fails."""

from __future__ import annotations

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
    """A registry that cannot be reached, refuses, or does not do what its API says.

    Attributes:
        status: Of its answer; None if there was none.
    """

    def __init__(self, message: str, *, status: int | None = None) -> None:
        super().__init__(message)
        self.status = status


class BrokenTransferError(RegistryError):
    """The connection ended, or said to come later, in the middle: worth another try.

    Attributes:
        wait_s: How long the other side asked us to wait; None if it did not.
    """

    def __init__(self, message: str, *, wait_s: float | None = None) -> None:
        super().__init__(message)
        self.wait_s = wait_s


def origin(url: str) -> tuple[str, str, int]:
    """Scheme, host and port.

    Raises:
        RegistryError: It is no http or https URL.
    """
    try:
        parts = urlsplit(url)
        # As name servers are asked for it: some names cannot be written so.
        host, port = (parts.hostname or "").encode("idna").decode("ascii"), parts.port
    except ValueError:
        host, port = "", None
    if not host or parts.scheme not in _DEFAULT_PORTS or "@" in parts.netloc:
        raise RegistryError(f"{printable(url)!r} is no URL to fetch from")
    return parts.scheme, host, port or _DEFAULT_PORTS[parts.scheme]


def join(url: str, target: str) -> str:
    """Where a Location that came from `url` leads.

    Raises:
        RegistryError: Nowhere.
    """
    try:
        return urljoin(url, target)
    except ValueError:
        raise RegistryError(f"{printable(target)!r} is no URL to fetch from") from None


def place(url: str) -> str:
    """Host and port of a URL, for messages; never its query, which may hold a signature."""
    return printable(urlsplit(url).netloc)


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
    """Raise what is wrong instead of what urllib3 wraps it in, which nobody here knows.

    Raises:
        OSError, http.client.HTTPException: The connection failed.
    """
    from urllib3.exceptions import HTTPError

    try:
        yield
    except HTTPError as error:
        cause: BaseException | None = error
        while cause and not isinstance(cause, OSError | http.client.HTTPException):
            cause = cause.__cause__ or cause.__context__
        raise cause or http.client.HTTPException(str(error)) from None


def explain(error: BaseException) -> str:
    """What went wrong on the wire, in words."""
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
    """Seconds, or a date (RFC 9110, 10.2.3)."""
    if text is None:
        return None
    if text.strip().isdigit():
        return float(text.strip()[:6])
    try:
        moment = email.utils.parsedate_to_datetime(text)
    except ValueError:
        return None
    return max(0.0, moment.timestamp() - time.time())
