"""A registry, by its API version 2 (OCI distribution-spec; docker's is the same).

Nothing that a registry says is believed: what it sends is hashed as it arrives. Blobs come and go
by `runtime.images.registry.download` and `runtime.images.registry.upload`.
"""

from __future__ import annotations

import http.client
import os
import threading
from collections.abc import Callable, Mapping
from urllib.parse import quote

from runtime.images.formats.digest import digest_of, is_digest
from runtime.images.formats.schema import (
    DOCUMENT_LIMIT_BYTES,
    INDEX_TYPES,
    MANIFEST_TYPES,
    ImageIndex,
    ImageManifest,
    parse_manifest,
)
from runtime.images.registry.auth import Authenticator
from runtime.images.registry.connection import Body, Response, Security, Transport
from runtime.images.registry.http import (
    BrokenTransferError,
    RegistryError,
    explain,
    is_loopback,
    origin,
)

_ACCEPT = ", ".join((*MANIFEST_TYPES, *INDEX_TYPES))
Progress = Callable[[int], None]
"""Called with the number of bytes that are there so far."""


class RegistryClient:
    """One registry. Safe for threads.

    Args:
        registry: Host and perhaps port, as in `localhost:5000`.
        security: How it is spoken to. Without TLS only if it says so, or on this machine.
        environment: Says where credentials are (see `runtime.images.registry.auth`).
        pause_s: How long before the second try of what failed.
        timeout_s: How long a silent server is waited for.
    """

    def __init__(
        self,
        registry: str,
        security: Security | None = None,
        *,
        environment: Mapping[str, str] = os.environ,
        pause_s: float = 0.5,
        timeout_s: float = 60.0,
    ) -> None:
        self.registry = registry
        self._security = security or Security()
        self.transport = Transport(self._security, timeout_s=timeout_s, pause_s=pause_s)
        self._authenticator = Authenticator(registry, self.transport, environment)
        self._lock = threading.Lock()
        self._base = ""

    def close(self) -> None:
        """Close all connections; nothing may be under way."""
        self.transport.close()

    # Reading; `runtime.images.registry.download` fetches the blobs.

    def ping(self) -> str:
        """Find out how the registry is spoken to, and that it is one.

        Returns:
            Its base URL, as in `https://localhost:5000`.

        Raises:
            RegistryError: It cannot be reached, or does not speak version 2.
        """
        with self._lock:
            if not self._base:
                self._base = self._find()
            return self._base

    def manifest(self, repository: str, reference: str) -> ImageManifest | ImageIndex:
        """The manifest or index of a tag or digest, as it is, verified.

        Raises:
            RegistryError: There is none, or it may not be seen.
            ManifestError: It is malformed, or not what its digest says.
        """
        what = self.name(repository, reference)

        def attempt() -> tuple[bytes, str, str]:
            with self.send("GET", self._manifest_path(repository, reference), repository,
                            headers={"Accept": _ACCEPT}) as response:  # fmt: skip
                self.expect(response, (200,), what)
                data = response.read_all(DOCUMENT_LIMIT_BYTES)
                kind = response.headers.get("Content-Type") or ""
                return data, kind, response.headers.get("Docker-Content-Digest") or ""

        data, kind, claimed = self.transport.trying(attempt)
        wanted = reference if is_digest(reference) else claimed
        if is_digest(wanted) and digest_of(data) != wanted:
            raise RegistryError(
                f"{what}: the registry sent {digest_of(data)} where {wanted} was expected"
            )
        return parse_manifest(data, kind, what)

    def has_blob(self, repository: str, digest: str, *, push: bool = False) -> bool:
        """Whether the repository has the blob."""

        def attempt() -> bool:
            path = f"/v2/{repository}/blobs/{digest}"
            with self.send("HEAD", path, repository, push=push) as response:
                self.expect(response, (200, 404), self.name(repository, digest))
                return response.status == 200

        return self.transport.trying(attempt)

    # Writing; `runtime.images.registry.upload` sends the blobs.

    def put_manifest(self, repository: str, reference: str, manifest: ImageManifest) -> None:
        """Store a manifest's exact bytes under a tag or its digest; all it needs must be there.

        Raises:
            RegistryError: The registry refused, or understood it to be something else.
        """
        what = self.name(repository, reference)
        headers = {
            "Content-Type": manifest.media_type,
            "Content-Length": str(len(manifest.data)),
        }

        def attempt() -> None:
            sending = self.send(
                "PUT",
                self._manifest_path(repository, reference),
                repository,
                headers=headers,
                body=manifest.data,
                push=True,
            )
            with sending as response:
                self.expect(response, (201, 202), what)
                stored = response.headers.get("Docker-Content-Digest") or manifest.digest
                if stored != manifest.digest:
                    raise RegistryError(
                        f"{what}: the registry stored {stored} where {manifest.digest} was sent"
                    )

        self.transport.trying(attempt)

    # The machinery, also for uploads.

    def send(
        self,
        method: str,
        path: str,
        repository: str,
        *,
        headers: Mapping[str, str] | None = None,
        body: Body = None,
        push: bool = False,
        also: tuple[str, ...] = (),
    ) -> Response:
        """One request with whatever authorization is asked for; once more if that ran out.

        Args:
            method: HTTP's.
            path: Of the API, or a whole URL that the registry gave.
            repository: Which one it is about.
            headers: More header fields.
            body: What is sent.
            push: Whether the right to write is needed.
            also: More repositories that must be readable.

        Raises:
            BrokenTransferError: The registry says to come again.
            RegistryError: It asks for an authorization that we cannot give.
        """
        url = path if path.startswith(("http://", "https://")) else self.ping() + path
        scopes = (
            f"repository:{repository}:{'pull,push' if push else 'pull'}",
            *(f"repository:{other}:pull" for other in also),
        )
        fields = dict(headers or {})
        trusted = origin(url) == origin(self.ping())
        for last in (False, True):
            if trusted and (proof := self._authenticator.header(repository, scopes)):
                fields["Authorization"] = proof
            response = self.transport.request(method, url, fields, body)
            # A 401 from where we were redirected to says nothing about us here.
            if last or response.status != 401 or origin(response.url) != origin(url):
                break
            # The connection must be free before a token is fetched over it.
            with response:
                problem = response.problem()
            asked = response.headers.get_all("WWW-Authenticate") or []
            was_basic = fields.get("Authorization", "").startswith("Basic")
            if not trusted or was_basic or not self._authenticator.challenged(asked, url, scopes):
                raise self._denied(repository, response.status, problem)
        if response.status in (401, 403):
            with response:
                raise self._denied(repository, response.status, response.problem())
        try:
            response.check_retry()
        except BrokenTransferError:
            with response:
                raise
        return response

    def _denied(self, repository: str, status: int, problem: str) -> RegistryError:
        if self._authenticator.has_credentials(repository):
            remedy = "the credentials kept for it do not suffice"
        else:
            remedy = "there are no credentials for it; log in with `docker login` or `podman login`"
        return RegistryError(
            f"{self.registry} does not let us at {repository} ({problem}): {remedy}", status=status
        )

    def expect(self, response: Response, wanted: tuple[int, ...], what: str) -> None:
        """Raise RegistryError unless the answer is one of those wanted; `what` was asked for."""
        if response.status not in wanted:
            raise RegistryError(
                f"{what}: the registry answered {response.problem()}", status=response.status
            )

    def _find(self) -> str:
        if self._security.plain_http:
            schemes = ["http"]
        elif is_loopback(origin(f"http://{self.registry}")[1]):
            schemes = ["http", "https"]
        else:
            schemes = ["https"]

        def attempt() -> str:
            found = ""
            for scheme in schemes:
                base = f"{scheme}://{self.registry}"
                try:
                    status = self._ping(base)
                except (http.client.HTTPException, ConnectionResetError) as error:
                    # A server that speaks TLS says so, or just hangs up on plain http.
                    found = explain(error)
                    continue
                except OSError as error:
                    reason = explain(error)
                    raise RegistryError(f"cannot reach the registry {base}: {reason}") from error
                if status in (200, 401):
                    return base
                found = f"it answered {status}"
                if status != 400:
                    break
            raise RegistryError(f"{self.registry} is no registry that speaks version 2: {found}")

        return self.transport.trying(attempt)

    def _ping(self, base: str) -> int:
        with self.transport.request("GET", f"{base}/v2/", {}) as response:
            if response.status == 401:
                asked = response.headers.get_all("WWW-Authenticate") or []
                self._authenticator.challenged(asked, base)
            response.check_retry()
            return response.status

    def name(self, repository: str, reference: str) -> str:
        """A manifest or blob as messages call it."""
        mark = "@" if is_digest(reference) else ":"
        return f"{self.registry}/{repository}{mark}{reference}"

    @staticmethod
    def _manifest_path(repository: str, reference: str) -> str:
        return f"/v2/{repository}/manifests/{quote(reference, safe=':')}"
