"""Fetching a blob from a registry (OCI distribution-spec, "Pulling blobs")."""

from __future__ import annotations

import re
from typing import NoReturn, Self

from runtime.images.formats.digest import DOCUMENT_LIMIT_BYTES, digest_of
from runtime.images.formats.schema import BlobDescriptor, printable
from runtime.images.registry.client import RegistryClient
from runtime.images.registry.connection import Response, RetryCounter
from runtime.images.registry.http import BrokenTransferError, RegistryError, place

_BLOCK_BYTES = 1 << 17
_CONTENT_RANGE = re.compile(r"bytes (\d+)-(\d+)/(\d+|\*)")


def fetch_document(client: RegistryClient, repository: str, descriptor: BlobDescriptor) -> bytes:
    """Fetch a small blob, such as a configuration, and verify it, or raise RegistryError."""
    size = descriptor.size_bytes
    if size > DOCUMENT_LIMIT_BYTES:
        limit = f"a configuration has at most {DOCUMENT_LIMIT_BYTES}"
        raise RegistryError(f"{descriptor.digest} has {size} bytes; {limit}")
    with BlobStream(client, repository, descriptor) as stream:
        data = b"".join(iter(lambda: stream.read(_BLOCK_BYTES), b""))
    if digest_of(data) != descriptor.digest:
        raise RegistryError(
            f"{client.registry} sent a blob of {size} bytes that is not {descriptor.digest}"
        )
    return data


class BlobStream:
    """Streams a blob to one thread, as a context manager.

    A broken download goes on from where it broke (RFC 9110, 14.2), unseen by the reader; after five
    breaks without progress there is an error.
    """

    def __init__(self, client: RegistryClient, repository: str, descriptor: BlobDescriptor) -> None:
        self._client = client
        self._repository = repository
        self._descriptor = descriptor
        self._response: Response | None = None
        self._done = 0
        self._retries = RetryCounter(lambda: self._done)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._close()

    def _close(self) -> None:
        response, self._response = self._response, None
        if response is not None:
            response.release()

    def read(self, size: int, /) -> bytes:
        """Read up to `size` bytes, none only at the end; raise RegistryError for another length."""
        data = self._client.transport.retry(lambda: self._read(size), self._retries)
        self._done += len(data)
        return data

    def _read(self, size: int) -> bytes:
        left = self._descriptor.size_bytes - self._done
        if left == 0 and self._done:
            if self._response is not None and self._response.read(1):
                self._longer()
            return b""
        try:
            if self._response is None:
                self._response = self._open()
            data = self._response.read(min(size, _BLOCK_BYTES))
        except BaseException:
            self._close()
            raise
        if len(data) > left:
            self._longer()
        if left and not data:
            self._close()
            self._closed_early()
        return data

    def _open(self) -> Response:
        """Ask for what is still to come."""
        client, digest = self._client, self._descriptor.digest
        headers = {"Range": f"bytes={self._done}-"} if self._done else {}
        path = f"/v2/{self._repository}/blobs/{digest}"
        response = client.send("GET", path, self._repository, headers=headers)
        try:
            wanted = (200, 206) if headers else (200,)
            client.expect(response, wanted, client.name(self._repository, digest))
            if response.status == 206:
                self._check_range(response)
            self._check_length(response)
            skip = self._done if response.status == 200 else 0
            while skip:
                # It sends all of it again: what has been read already is passed over.
                passed = response.read(min(skip, _BLOCK_BYTES))
                skip = skip - len(passed) if passed else self._closed_early()
        except BaseException:
            response.release()
            raise
        return response

    def _check_range(self, response: Response) -> None:
        text = response.headers.get("Content-Range") or ""
        match = _CONTENT_RANGE.fullmatch(text)
        size = self._descriptor.size_bytes
        if match is None or int(match[1]) != self._done or match[3] not in ("*", str(size)):
            raise RegistryError(
                f"{place(response.url)} was asked for bytes from {self._done} on and sent "
                f"{printable(text)!r}"
            )

    def _check_length(self, response: Response) -> None:
        before = self._done if response.status == 206 else 0
        length = response.headers.get("Content-Length") or ""
        if length.isdigit() and before + int(length) != self._descriptor.size_bytes:
            raise RegistryError(
                f"{self._client.registry} has {before + int(length)} bytes of "
                f"{self._descriptor.digest}; its descriptor says {self._descriptor.size_bytes}"
            )

    def _longer(self) -> NoReturn:
        raise RegistryError(
            f"{self._client.registry} sends more than the {self._descriptor.size_bytes} bytes that "
            f"{self._descriptor.digest} has"
        )

    def _closed_early(self) -> NoReturn:
        raise BrokenTransferError(
            f"{self._client.registry} closed the connection after {self._done} of "
            f"{self._descriptor.size_bytes} bytes"
        )
