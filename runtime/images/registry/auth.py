"""Credentials on this machine, and the tokens of a registry that they are traded for.

Credentials come from where docker and podman keep them (containers-auth.json(5), docker's
`config.json`), from the first file that has an entry for the registry:

    $REGISTRY_AUTH_FILE                         and then nowhere else
    $XDG_RUNTIME_DIR/containers/auth.json
    $XDG_CONFIG_HOME/containers/auth.json       ~/.config if not set
    $DOCKER_CONFIG/config.json                  ~/.docker if not set

Tokens follow distribution's token specification (spec/auth/token.md, spec/auth/oauth.md).
"""

from __future__ import annotations

import base64
import binascii
import json
import os
import re
import shutil
import subprocess
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

from runtime.errors import StoreError
from runtime.images.formats.schema import printable
from runtime.images.registry.connection import Transport
from runtime.images.registry.http import RegistryError, basic, origin
from runtime.images.store.files import decode_json

_FILE_LIMIT_BYTES = 1 << 20
_TOKEN_LIMIT_BYTES = 1 << 20
_HELPER_SECONDS = 30
_HELPER_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")
_TOKEN_SECONDS = 60
"""Lifetime of a token without one of its own (token.md)."""
_CHALLENGE = re.compile(r"\s*([A-Za-z]+)(?: +|\s*,|$)")
_PARAMETER = re.compile(r'\s*([A-Za-z0-9_-]+)\s*=\s*(?:"((?:[^"\\]|\\.)*)"|([^\s,"]+))\s*(?:,|$)')


@dataclass(frozen=True, slots=True)
class Credentials:
    """Holds secrets, never printed; an absent one is empty.

    Attributes:
        password: Or an access token in its place.
        identity_token: OAuth's refresh token, which buys access tokens.
        registry_token: A bearer token as it is.
    """

    username: str = field(default="", repr=False)
    password: str = field(default="", repr=False)
    identity_token: str = field(default="", repr=False)
    registry_token: str = field(default="", repr=False)

    @property
    def basic(self) -> str:
        """The header of basic authentication."""
        return basic(self.username, self.password)


def find_credentials(
    registry: str, repository: str, environment: Mapping[str, str]
) -> Credentials | None:
    """Find what the user's files and credential helpers have for a registry, host and port.

    Entries for the repository, or for its first parts, come before those for the host; the
    environment says where the files are.

    Raises:
        RegistryError: A file is damaged, or a helper failed.
    """
    parts = repository.split("/")
    keys = ["/".join([registry, *parts[:count]]) for count in range(len(parts), -1, -1)]
    for path in _files(environment):
        document = _read(path)
        if document is not None and (found := _in_file(document, keys, registry, path)):
            return found
    return None


def _files(environment: Mapping[str, str]) -> list[Path]:
    if chosen := environment.get("REGISTRY_AUTH_FILE"):
        return [Path(chosen)]
    home = Path(environment.get("HOME") or os.path.expanduser("~"))
    files = [
        Path(environment.get("XDG_CONFIG_HOME") or home / ".config") / "containers/auth.json",
        Path(environment.get("DOCKER_CONFIG") or home / ".docker") / "config.json",
    ]
    if runtime := environment.get("XDG_RUNTIME_DIR"):
        files.insert(0, Path(runtime) / "containers/auth.json")
    return files


def _read(path: Path) -> dict[str, Any] | None:
    try:
        with path.open("rb") as file:
            return decode_json(file.read(_FILE_LIMIT_BYTES + 1) or b"{}", path)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise RegistryError(f"cannot read {path}: {error.strerror}") from error
    except StoreError as error:
        raise RegistryError(str(error)) from None


def _in_file(
    document: dict[str, Any], keys: list[str], registry: str, path: Path
) -> Credentials | None:
    helpers = document.get("credHelpers")
    if isinstance(helpers, dict):
        for key in keys:
            if isinstance(helper := helpers.get(key), str):
                return _ask_helper(helper, key, path)
    entries = document.get("auths")
    if isinstance(entries, dict):
        named = {_plain_key(key): entry for key, entry in entries.items()}
        for key in keys:
            if found := _entry(named.get(key), key, path):
                return found
    if isinstance(store := document.get("credsStore"), str) and store:
        return _ask_helper(store, registry, path)
    return None


def _plain_key(key: str) -> str:
    """Docker once wrote `https://host/v1/` where it now writes `host`."""
    key = key.removeprefix("https://").removeprefix("http://").rstrip("/")
    return key.removesuffix("/v1").removesuffix("/v2")


def _entry(entry: object, key: str, path: Path) -> Credentials | None:
    if not isinstance(entry, dict):
        return None
    text = {name: value for name, value in entry.items() if isinstance(value, str)}
    username, password = text.get("username", ""), text.get("password", "")
    if packed := text.get("auth"):
        try:
            pair = base64.b64decode(packed, validate=True).decode()
        except (binascii.Error, ValueError):
            raise RegistryError(f"{path}: auth of {key} is not base64 of name:password") from None
        username, _, password = pair.partition(":")
        password = password.rstrip("\0")
    found = Credentials(
        username, password, text.get("identitytoken", ""), text.get("registrytoken", "")
    )
    return None if found == Credentials() else found


def _ask_helper(helper: str, key: str, path: Path) -> Credentials | None:
    """Call `docker-credential-<helper> get` (docker-credential-helpers' protocol)."""
    if not _HELPER_NAME.fullmatch(helper):
        raise RegistryError(f"{path}: {printable(helper)!r} is no name of a credential helper")
    program = f"docker-credential-{helper}"
    # Checked first: with an unreadable folder in PATH, starting one fails with EACCES.
    if shutil.which(program) is None:
        raise RegistryError(f"{path} names the helper {program}, which is not in PATH")
    named = f"{program}, which {path} names,"
    command = [program, "get"]
    try:
        done = subprocess.run(
            command, input=key.encode(), capture_output=True, timeout=_HELPER_SECONDS, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise RegistryError(f"{named} failed: {error}") from error
    message = (done.stdout.strip() or done.stderr.strip()).decode("utf-8", "replace")
    if done.returncode:
        if "credentials not found" in message:
            return None
        raise RegistryError(f"{named} failed: {printable(message)}")
    try:
        answer = json.loads(done.stdout)
        username, secret = answer["Username"], answer["Secret"]
    except (ValueError, KeyError, TypeError, RecursionError):
        raise RegistryError(f"{named} gave no proper answer") from None
    if username == "<token>":
        return Credentials(identity_token=str(secret))
    return Credentials(str(username), str(secret))


def parse_challenges(headers: list[str]) -> list[tuple[str, dict[str, str]]]:
    """Read schemes, in lower case, and parameters of WWW-Authenticate (RFC 9110, 11.6.1)."""
    challenges: list[tuple[str, dict[str, str]]] = []
    for header in headers:
        position = 0
        while position < len(header):
            if challenges and (match := _PARAMETER.match(header, position)):
                value = re.sub(r"\\(.)", r"\1", match[2]) if match[2] is not None else match[3]
                challenges[-1][1][match[1].lower()] = value
            elif match := _CHALLENGE.match(header, position):
                challenges.append((match[1].lower(), {}))
            else:
                break
            position = match.end()
    return challenges


class Authenticator:
    """Makes the Authorization header for one registry; keeps tokens until they run out."""

    def __init__(self, registry: str, transport: Transport, environment: Mapping[str, str]) -> None:
        self._registry = registry
        self._transport = transport
        self._environment = environment
        self._lock = threading.RLock()
        self._bearer: dict[str, str] = {}
        self._basic = False
        self._tokens: dict[tuple[str, ...], tuple[str, float]] = {}
        self._known: dict[str, Credentials | None] = {}

    def challenged(self, headers: list[str], url: str, scopes: tuple[str, ...] = ()) -> bool:
        """Read what a 401 from `url` asks for, and forget the token that it refused.

        Returns False if it asks for nothing that we can do.

        Raises:
            RegistryError: It would have the credentials sent without TLS, which it has itself.
        """
        with self._lock:
            self._tokens.pop(scopes, None)
            for scheme, parameters in parse_challenges(headers):
                if scheme == "bearer" and "realm" in parameters:
                    if url.startswith("https:") and origin(parameters["realm"])[0] != "https":
                        raise RegistryError(
                            f"{self._registry} names a token service without TLS, though it has "
                            "TLS itself"
                        )
                    self._bearer = parameters
                    return True
                if scheme == "basic":
                    self._basic = True
                    return True
        return False

    def header(self, repository: str, scopes: tuple[str, ...]) -> str | None:
        """Return the Authorization header for a request, None if none has been asked for.

        `scopes` are the rights that a token must give, as in `repository:app:pull`.

        Raises:
            RegistryError: The token service gave none.
        """
        with self._lock:
            if self._bearer:
                return "Bearer " + self._token(repository, scopes)
            if self._basic and (found := self._credentials(repository)):
                return found.basic
        return None

    def has_credentials(self, repository: str) -> bool:
        """Whether there are credentials for a repository."""
        with self._lock:
            return self._credentials(repository) is not None

    def _credentials(self, repository: str) -> Credentials | None:
        if repository not in self._known:
            self._known[repository] = find_credentials(
                self._registry, repository, self._environment
            )
        return self._known[repository]

    def _token(self, repository: str, scopes: tuple[str, ...]) -> str:
        token, until = self._tokens.get(scopes, ("", 0.0))
        if token and time.monotonic() < until:
            return token
        found = self._credentials(repository) or Credentials()
        if found.registry_token:
            return found.registry_token
        answer = self._fetch(found, scopes)
        given = answer.get("token") or answer.get("access_token")
        token = given if isinstance(given, str) else ""
        if not re.fullmatch(r"[!-~]+", token):
            raise RegistryError(f"the token service of {self._registry} gave no proper token")
        seconds = answer.get("expires_in")
        if not isinstance(seconds, int | float) or seconds <= 0:
            seconds = _TOKEN_SECONDS
        # A little early, so that it does not run out on the way.
        self._tokens[scopes] = token, time.monotonic() + 0.8 * seconds
        return token

    def _fetch(self, found: Credentials, scopes: tuple[str, ...]) -> dict[str, Any]:
        realm, service = self._bearer["realm"], self._bearer.get("service", "")
        try:
            origin(realm)
        except RegistryError as error:
            raise RegistryError(f"{self._registry} names no token service: {error}") from None
        if not scopes and "scope" in self._bearer:
            scopes = tuple(self._bearer["scope"].split())
        headers = {"Accept": "application/json"}
        body = None
        if found.identity_token:
            fields = {
                "grant_type": "refresh_token",
                "service": service,
                "client_id": "steelyard",
                "scope": " ".join(scopes),
                "refresh_token": found.identity_token,
            }
            body = urlencode(fields).encode()
            headers["Content-Type"] = "application/x-www-form-urlencoded"
            headers["Content-Length"] = str(len(body))
        else:
            query = [("service", service)] if service else []
            if found.username:
                query.append(("account", found.username))
                headers["Authorization"] = found.basic
            query += [("scope", scope) for scope in scopes]
            realm += ("&" if "?" in realm else "?") + urlencode(query)
        response = self._transport.request("POST" if body else "GET", realm, headers, body)
        with response:
            data = response.read_all(_TOKEN_LIMIT_BYTES)
            if response.status != 200:
                raise self._refused(response.status, found)
        try:
            answer = json.loads(data)
        except (ValueError, RecursionError):
            answer = None
        if not isinstance(answer, dict):
            raise RegistryError(f"the token service of {self._registry} did not answer in JSON")
        return answer

    def _refused(self, status: int, found: Credentials) -> RegistryError:
        text = f"the token service of {self._registry} answered {status}"
        if status != 429 and status < 500:
            if found == Credentials():
                text += ": there are no credentials for it here; log in with docker or podman"
            else:
                text += ": the credentials kept here are refused; log in anew with docker or podman"
        return RegistryError(text, status=status)
