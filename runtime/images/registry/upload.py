"""Sending a blob to a registry (OCI distribution-spec, "Pushing blobs").

A blob that the repository has is not sent; one that another repository there has is mounted from
it; others go up in one piece, or in chunks if they are large. An upload that breaks goes on from
where the registry says it got, and from the beginning if the registry does not know any more.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from enum import Enum
from pathlib import Path
from urllib.parse import urlencode

from runtime.images.registry.client import Progress, RegistryClient
from runtime.images.registry.connection import Response, RetryCounter
from runtime.images.registry.http import BrokenTransferError, RegistryError, join, origin, place

CHUNK_BYTES = 16 << 20
_BLOCK_BYTES = 1 << 17
_RANGE = re.compile(r"(?:bytes=)?0-(\d+)")


class Sent(Enum):
    """Says how a blob came to be in a repository."""

    EXISTED = "Layer already exists"
    MOUNTED = "Mounted"
    PUSHED = "Pushed"


def push_blob(
    client: RegistryClient,
    repository: str,
    digest: str,
    path: Path,
    *,
    mount_from: tuple[str, ...] = (),
    progress: Progress = lambda _: None,
) -> Sent:
    """Send a blob to a repository that lacks it; the registry verifies its digest.

    `mount_from` are other repositories of the registry that may have it.

    Raises:
        RegistryError: The registry refused, or was lost five times without progress.
        OSError: The blob could not be read.
    """
    if client.has_blob(repository, digest, push=True):
        return Sent.EXISTED
    upload = _Upload(client, repository, digest, path, progress)
    for other in mount_from:
        if upload.mount(other):
            return Sent.MOUNTED
    upload.run()
    return Sent.PUSHED


class _Upload:
    def __init__(
        self, client: RegistryClient, repository: str, digest: str, path: Path, progress: Progress
    ) -> None:
        self._client = client
        self._repository = repository
        self._digest = digest
        self._path = path
        self._progress = progress
        self._size = path.stat().st_size
        self._location = ""
        self._done = 0
        self._chunk_bytes = CHUNK_BYTES
        self._asks_where = False
        self._what = client.name(repository, digest)

    def mount(self, other: str) -> bool:
        """Try to get it from another repository; if not, an upload has been opened instead."""
        if self._location:
            return False

        def attempt() -> bool:
            query = urlencode({"mount": self._digest, "from": other})
            try:
                with self._post(f"?{query}", also=(other,)) as response:
                    if response.status == 202:
                        self._remember(response)
                    return response.status == 201
            except BrokenTransferError:
                raise
            except RegistryError:
                # Refused: it may be a repository that we must not see. Sending works as well.
                return False

        return self._client.transport.retry(attempt)

    def run(self) -> None:
        self._client.transport.retry(self._attempt, RetryCounter(lambda: self._done))

    def _post(self, query: str = "", also: tuple[str, ...] = ()) -> Response:
        path = f"/v2/{self._repository}/blobs/uploads/{query}"
        headers = {"Content-Length": "0"}
        return self._client.send(
            "POST", path, self._repository, headers=headers, push=True, also=also
        )

    def _attempt(self) -> None:
        if self._asks_where:
            self._ask_where()
        self._asks_where = True
        if not self._location:
            self._open()
        if self._done == 0 and self._size <= self._chunk_bytes:
            self._finish(self._size)
        else:
            while self._done < self._size:
                self._send_chunk()
            self._finish(0)

    def _open(self) -> None:
        self._done = 0
        with self._post() as response:
            self._client.expect(response, (202,), self._what)
            self._remember(response)
            least = response.headers.get("OCI-Chunk-Min-Length") or ""
            if least.isdigit():
                self._chunk_bytes = max(self._chunk_bytes, int(least[:12]))

    def _send_chunk(self) -> None:
        start = self._done
        length = min(self._chunk_bytes, self._size - start)
        span = {"Content-Range": f"{start}-{start + length - 1}"}
        self._remember(self._send_bytes("PATCH", self._location, start, length, span))
        self._done = start + length

    def _finish(self, length: int) -> None:
        """Close the upload with its digest, and with all of its content if it is a small one."""
        mark = "&" if "?" in self._location else "?"
        url = f"{self._location}{mark}{urlencode({'digest': self._digest})}"
        self._send_bytes("PUT", url, 0, length, {})
        self._done = self._size

    def _send_bytes(
        self, method: str, url: str, start: int, length: int, span: dict[str, str]
    ) -> Response:
        headers = {"Content-Type": "application/octet-stream", "Content-Length": str(length)}
        with self._client.send(method, url, self._repository, push=True, headers=headers | span,
                               body=lambda: self._pieces(start, length)) as response:  # fmt: skip
            if response.status in (404, 416):
                self._location, self._done = "", 0
                raise BrokenTransferError(f"{self._what}: the registry lost the upload")
            wanted = 202 if method == "PATCH" else 201
            self._client.expect(response, (wanted,), self._what)
            return response

    def _ask_where(self) -> None:
        """After a break: how far did it get? An upload that the registry has lost starts again."""
        if not self._location:
            return
        with self._client.send("GET", self._location, self._repository, push=True) as response:
            match = _RANGE.fullmatch(response.headers.get("Range") or "")
            if response.status == 204 and match is not None:
                there = int(match[1]) + 1
                if self._done <= there <= self._size and self._size > self._chunk_bytes:
                    # "0-0" is what registries say of one byte and of none.
                    self._done = 0 if there == 1 else there
                    self._remember(response)
                    return
        self._location, self._done = "", 0

    def _remember(self, response: Response) -> None:
        location = response.headers.get("Location") or ""
        target = join(response.url, location)
        where = f"{self._what}: {place(response.url)}"
        if not location:
            raise RegistryError(f"{where} does not say where to send it")
        if response.url.startswith("https:") and origin(target)[0] != "https":
            raise RegistryError(f"{where} wants it without TLS")
        self._location = target

    def _pieces(self, start: int, length: int) -> Iterator[bytes]:
        with self._path.open("rb") as file:
            file.seek(start)
            sent = 0
            while sent < length:
                data = file.read(min(_BLOCK_BYTES, length - sent))
                if not data:
                    raise RegistryError(f"{self._path} became shorter while it was sent")
                yield data
                sent += len(data)
                self._progress(start + sent)
