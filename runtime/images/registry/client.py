"""A registry, by its API version 2 (OCI distribution-spec; docker's is the same).

Nothing that a registry says is believed: what it sends is hashed as it arrives. The modules
`download` and `upload` transfer blobs.
"""

from __future__ import annotations

import http.client
import os
import threading
from collections.abc import Callable, Mapping
from urllib.parse import quote

from runtime.images.formats.digest import DOCUMENT_LIMIT_BYTES, digest_of, is_digest
from runtime.images.formats.schema import (
    INDEX_TYPES,
    MANIFEST_TYPES,
    ImageIndex,
    ImageManifest,
    parse_manifest,
)
from runtime.images.registry.auth import Authenticator
from runtime.images.registry.connection import Body, Response, Security, Transport
from runtime.images.registry.http import (
    RegistryError,
    explain,
    is_loopback,
    origin,
)

_ACCEPT = ", ".join((*MANIFEST_TYPES, *INDEX_TYPES))
Progress = Callable[[int], None]
"""Called with the number of bytes transferred so far."""


class RegistryClient:
    """Speaks to one registry, `localhost:5000` say. Safe for threads.

    It does without TLS only if `security` says so, or on this machine. The environment says where
    credentials are (see `auth`); `pause_s` and `timeout_s` are those of `Transport`.
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
        """Close all connections; no request may be running."""
        self.transport.close()

    def ping(self) -> str:
        """Find the base URL, as in `https://localhost:5000`, or raise RegistryError."""
        with self._lock:
            if not self._base:
                self._base = self._find()
            return self._base

    def manifest(self, repository: str, reference: str) -> ImageManifest | ImageIndex:
        """Fetch the manifest or index of a tag or digest, and verify it.

        Raises:
            RegistryError: There is none, or access is denied.
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

        data, kind, claimed = self.transport.retry(attempt)
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

        return self.transport.retry(attempt)

    def put_manifest(self, repository: str, reference: str, manifest: ImageManifest) -> None:
        """Store a manifest's exact bytes under a tag or its digest, or raise RegistryError."""
        what = self.name(repository, reference)
        path = self._manifest_path(repository, reference)
        headers = {"Content-Type": manifest.media_type, "Content-Length": str(len(manifest.data))}

        def attempt() -> None:
            with self.send("PUT", path, repository, headers=headers, body=manifest.data,
                           push=True) as response:  # fmt: skip
                self.expect(response, (201, 202), what)
                stored = response.headers.get("Docker-Content-Digest") or manifest.digest
                if stored != manifest.digest:
                    raise RegistryError(
                        f"{what}: the registry stored {stored} where {manifest.digest} was sent"
                    )

        self.transport.retry(attempt)

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
        """Send one request with the authorization that is asked for; once more if that ran out.

        Args:
            method: HTTP's.
            path: Of the API, or a whole URL that the registry gave.
            repository: The one to read, or with `push` to write.
            headers: More header fields.
            body: Of the request.
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
        try:
            if response.status in (401, 403):
                raise self._denied(repository, response.status, response.problem())
            response.check_retry()
        except RegistryError:
            response.release()
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
        """Raise RegistryError, with `what` was asked for, unless the answer is a wanted one."""
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

        return self.transport.retry(attempt)

    def _ping(self, base: str) -> int:
        with self.transport.request("GET", f"{base}/v2/", {}) as response:
            if response.status == 401:
                asked = response.headers.get_all("WWW-Authenticate") or []
                self._authenticator.challenged(asked, base)
            response.check_retry()
            return response.status

    def name(self, repository: str, reference: str) -> str:
        """Return the name of a manifest or blob for messages."""
        mark = "@" if is_digest(reference) else ":"
        return f"{self.registry}/{repository}{mark}{reference}"

    @staticmethod
    def _manifest_path(repository: str, reference: str) -> str:
        return f"/v2/{repository}/manifests/{quote(reference, safe=':')}"
