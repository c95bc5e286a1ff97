"""Credentials as docker and podman keep them, and the tokens that they are traded for."""

from __future__ import annotations

import base64
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

from runtime.images.registry.auth import Credentials, find_credentials, parse_challenges
from runtime.images.registry.client import RegistryClient
from runtime.images.registry.http import RegistryError
from tests.support.registry import FaultyRegistry, Handler, faulty_registry, no_credentials
from tests.support.tars import make_tar, member


def basic(name: str, word: str) -> str:
    return base64.b64encode(f"{name}:{word}".encode()).decode()


def write(path: Path, document: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(document if isinstance(document, str) else json.dumps(document))


def helper(folder: Path, name: str, script: str) -> None:
    path = folder / f"docker-credential-{name}"
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)


@pytest.fixture
def environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    (tmp_path / "bin").mkdir()
    monkeypatch.setenv("PATH", f"{tmp_path}/bin:{os.environ['PATH']}")
    return no_credentials(tmp_path)


def test_nothing_there(environment: dict[str, str]) -> None:
    assert find_credentials("example.test", "app", environment) is None


@pytest.mark.parametrize(
    ("where", "variables"),
    [
        (".docker/config.json", {}),
        ("d/config.json", {"DOCKER_CONFIG": "d"}),
        (".config/containers/auth.json", {}),
        ("c/containers/auth.json", {"XDG_CONFIG_HOME": "c"}),
        ("r/containers/auth.json", {"XDG_RUNTIME_DIR": "r"}),
        ("any.json", {"REGISTRY_AUTH_FILE": "any.json"}),
    ],
)
def test_where_files_are(
    tmp_path: Path, environment: dict[str, str], where: str, variables: dict[str, str]
) -> None:
    write(tmp_path / where, {"auths": {"example.test:5000": {"auth": basic("me", "pass:word")}}})
    environment |= {name: str(tmp_path / value) for name, value in variables.items()}
    assert find_credentials("example.test:5000", "a/b", environment) == Credentials(
        "me", "pass:word"
    )
    assert find_credentials("example.test", "a/b", environment) is None


@pytest.mark.parametrize(
    ("key", "found"),
    [
        ("example.test", True),
        ("https://example.test", True),
        ("https://example.test/v1/", True),
        ("http://example.test/v2/", True),
        ("example.test/team", True),
        ("example.test/team/app", True),
        ("example.test/team/other", False),
        ("example.test/tea", False),
        ("example.test:443", False),
    ],
)
def test_keys(tmp_path: Path, environment: dict[str, str], key: str, found: bool) -> None:
    write(tmp_path / ".docker/config.json", {"auths": {key: {"username": "u", "password": "p"}}})
    credentials = find_credentials("example.test", "team/app", environment)
    assert credentials == (Credentials("u", "p") if found else None)


def test_the_nearest_key_and_the_first_file_count(
    tmp_path: Path, environment: dict[str, str]
) -> None:
    write(
        tmp_path / ".config/containers/auth.json",
        {
            "auths": {
                "e.test": {"auth": basic("far", "1")},
                "e.test/a": {"auth": basic("near", "2")},
            }
        },
    )
    write(tmp_path / ".docker/config.json", {"auths": {"e.test/a/b": {"auth": basic("late", "3")}}})
    assert find_credentials("e.test", "a/b", environment) == Credentials("near", "2")
    assert find_credentials("e.test", "c", environment) == Credentials("far", "1")


def test_tokens_in_files(tmp_path: Path, environment: dict[str, str]) -> None:
    entry = {"auth": basic("<token>", ""), "identitytoken": "refresh"}
    write(tmp_path / ".docker/config.json", {"auths": {"e.test": entry, "f.test": {}}})
    found = find_credentials("e.test", "a", environment)
    assert found is not None
    assert found.identity_token == "refresh"
    assert find_credentials("f.test", "a", environment) is None


def test_credentials_are_not_shown() -> None:
    assert "secret" not in repr(Credentials("me", "secret", "secret", "secret"))


@pytest.mark.parametrize(
    ("document", "said"),
    [
        ("{", "is not JSON"),
        ("[]", "JSON object"),
        ({"auths": {"e.test": {"auth": "%%%"}}}, "not base64"),
        ({"credsStore": "../../bin/sh"}, "no name of a credential helper"),
        ({"credsStore": "nowhere"}, "not in PATH"),
    ],
)
def test_damaged_files(
    tmp_path: Path, environment: dict[str, str], document: Any, said: str
) -> None:
    write(tmp_path / ".docker/config.json", document)
    with pytest.raises(RegistryError, match=said):
        find_credentials("e.test", "a", environment)


def test_helpers(tmp_path: Path, environment: dict[str, str]) -> None:
    helper(
        tmp_path / "bin",
        "good",
        'read -r key; printf \'{"ServerURL":"%s","Username":"%s","Secret":"s"}\' "$key" "$key"',
    )
    helper(tmp_path / "bin", "token", 'echo \'{"Username":"<token>","Secret":"refresh"}\'')
    helper(tmp_path / "bin", "none", "echo credentials not found in native keychain; exit 1")
    helper(tmp_path / "bin", "bad", "echo locked >&2; exit 1")
    helper(tmp_path / "bin", "odd", "echo hello")
    config = {
        "credsStore": "good",
        "credHelpers": {"t.test": "token", "n.test": "none", "b.test": "bad", "o.test": "odd"},
    }
    write(tmp_path / ".docker/config.json", config)
    assert find_credentials("e.test:1", "a", environment) == Credentials("e.test:1", "s")
    assert find_credentials("t.test", "a", environment) == Credentials(identity_token="refresh")
    assert find_credentials("n.test", "a", environment) is None
    with pytest.raises(RegistryError, match=r"docker-credential-bad.*locked"):
        find_credentials("b.test", "a", environment)
    with pytest.raises(RegistryError, match="gave no proper answer"):
        find_credentials("o.test", "a", environment)


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        ('Basic realm="x"', [("basic", {"realm": "x"})]),
        (
            'Bearer realm="https://a/t?x=1,2",service="s",scope="repository:a:pull,push"',
            [("bearer", {"realm": "https://a/t?x=1,2", "service": "s",
                         "scope": "repository:a:pull,push"})],
        ),
        (
            'Negotiate, BASIC realm = "a\\"b" , Bearer realm=c',
            [("negotiate", {}), ("basic", {"realm": 'a"b'}), ("bearer", {"realm": "c"})],
        ),
        ("", []),
        ('"', []),
        ("Bearer realm", [("bearer", {}), ("realm", {})]),
    ],
)  # fmt: skip
def test_challenges(header: str, expected: list[tuple[str, dict[str, str]]]) -> None:
    assert parse_challenges([header]) == expected


# The token flow, against a server.


@pytest.fixture
def registry() -> Iterator[FaultyRegistry]:
    with faulty_registry() as found:
        found.add_image("team/app", "1", make_tar(member("f", data=b"x")))
        yield found


def ask_for_tokens(registry: FaultyRegistry, answer: dict[str, Any], status: int = 200) -> None:
    """Make it want a bearer token, which it gives itself under /token."""

    def fault(handler: Handler) -> bool:
        if handler.path.startswith("/token"):
            handler.answer(status, json.dumps(answer).encode())
            return True
        if handler.headers.get("Authorization") != "Bearer good":
            challenge = f'Bearer realm="http://{registry.address}/token",service="here"'
            handler.answer(401, WWW_Authenticate=challenge)
            return True
        return False

    registry.faults.append(fault)


@pytest.fixture
def client(registry: FaultyRegistry, environment: dict[str, str]) -> Iterator[RegistryClient]:
    found = RegistryClient(registry.address, environment=environment, pause_s=0.01)
    yield found
    found.close()


def test_an_anonymous_token(registry: FaultyRegistry, client: RegistryClient) -> None:
    ask_for_tokens(registry, {"token": "good", "expires_in": 300})
    client.manifest("team/app", "1")
    client.manifest("team/app", "1")
    (request,) = registry.seen("GET", "/token")
    query = parse_qs(urlsplit(request.path).query)
    assert query == {"service": ["here"], "scope": ["repository:team/app:pull"]}
    assert "Authorization" not in request.headers


def test_a_token_for_credentials(
    registry: FaultyRegistry, client: RegistryClient, tmp_path: Path
) -> None:
    entry = {"auth": basic("me", "word")}
    write(tmp_path / ".docker/config.json", {"auths": {registry.address: entry}})
    ask_for_tokens(registry, {"access_token": "good"})
    client.manifest("team/app", "1")
    client.has_blob("team/app", "sha256:" + "a" * 64, push=True)
    read, write_ = registry.seen("GET", "/token")
    assert read.headers["Authorization"] == "Basic " + basic("me", "word")
    assert parse_qs(urlsplit(write_.path).query)["scope"] == ["repository:team/app:pull,push"]


def test_an_identity_token_is_traded(
    registry: FaultyRegistry, client: RegistryClient, tmp_path: Path
) -> None:
    entry = {"identitytoken": "refresh"}
    write(tmp_path / ".docker/config.json", {"auths": {registry.address: entry}})
    ask_for_tokens(registry, {"access_token": "good"})
    client.manifest("team/app", "1")
    (request,) = registry.seen("POST", "/token")
    fields = parse_qs(request.body.decode())
    assert fields["grant_type"] == ["refresh_token"]
    assert fields["refresh_token"] == ["refresh"]
    assert fields["scope"] == ["repository:team/app:pull"]


def test_a_token_that_ran_out_is_fetched_anew(
    registry: FaultyRegistry, client: RegistryClient
) -> None:
    ask_for_tokens(registry, {"token": "good"})
    client.manifest("team/app", "1")
    refused: list[str] = []

    def once(handler: Handler) -> bool:
        if refused or handler.path.startswith("/token"):
            return False
        refused.append(handler.path)
        challenge = f'Bearer realm="http://{registry.address}/token",service="here"'
        handler.answer(401, WWW_Authenticate=challenge)
        return True

    registry.faults.insert(0, once)
    client.manifest("team/app", "1")
    assert len(refused) == 1
    assert len(registry.seen("GET", "/token")) == 2


@pytest.mark.parametrize(
    ("answer", "status", "said"),
    [
        ({}, 200, "no proper token"),
        ({"token": 5}, 200, "no proper token"),
        ({"token": "a\r\nX: y"}, 200, "no proper token"),
        ({}, 401, "no credentials for it here"),
        ({"token": "bad"}, 200, "does not let us at team/app"),
    ],
)
def test_tokens_that_are_none(
    registry: FaultyRegistry, client: RegistryClient, answer: Any, status: int, said: str
) -> None:
    ask_for_tokens(registry, answer, status)
    with pytest.raises(RegistryError, match=said):
        client.manifest("team/app", "1")


@pytest.mark.parametrize("realm", ["ftp://x/", "file:///etc/passwd", "http://192.0.2.1/token", "x"])
def test_tokens_are_not_fetched_from_anywhere(
    registry: FaultyRegistry, client: RegistryClient, realm: str
) -> None:
    def fault(handler: Handler) -> bool:
        handler.answer(401, WWW_Authenticate=f'Bearer realm="{realm}"')
        return True

    registry.faults.append(fault)
    with pytest.raises(RegistryError, match=r"token service|without TLS"):
        client.manifest("team/app", "1")
