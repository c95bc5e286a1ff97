"""What comes from registries and archives as JSON: read if it is well-formed, else one sentence."""

from __future__ import annotations

import json
from typing import Any

import pytest

from runtime.images.formats.schema import (
    DOCKER_INDEX,
    DOCKER_MANIFEST,
    OCI_INDEX,
    OCI_MANIFEST,
    ImageIndex,
    ImageManifest,
    ManifestError,
    Platform,
    choose_platform,
    parse_configuration,
    parse_manifest,
    printable,
)

A, B, C = (f"sha256:{letter * 64}" for letter in "abc")
CONFIG = {"mediaType": "application/vnd.oci.image.config.v1+json", "digest": A, "size": 7}
LAYER = {"mediaType": "application/vnd.oci.image.layer.v1.tar+gzip", "digest": B, "size": 9}
IMAGE = {"schemaVersion": 2, "mediaType": OCI_MANIFEST, "config": CONFIG, "layers": [LAYER]}


def entry(digest: str, platform: str | None = None, kind: str = OCI_MANIFEST) -> dict[str, Any]:
    found: dict[str, Any] = {"mediaType": kind, "digest": digest, "size": 5}
    if platform:
        names = ("os", "architecture", "variant")
        found["platform"] = dict(zip(names, platform.split("/"), strict=False))
    return found


def index(*entries: dict[str, Any]) -> ImageIndex:
    data = json.dumps({"schemaVersion": 2, "manifests": entries}).encode()
    found = parse_manifest(data, OCI_INDEX, "x")
    assert isinstance(found, ImageIndex)
    return found


def test_an_image() -> None:
    data = json.dumps(IMAGE).encode()
    found = parse_manifest(data, "", "x")
    assert isinstance(found, ImageManifest)
    assert (found.data, found.media_type, found.config.digest) == (data, OCI_MANIFEST, A)
    assert [(layer.digest, layer.size_bytes) for layer in found.layers] == [(B, 9)]


@pytest.mark.parametrize(
    ("content_type", "is_index", "expected"),
    [
        (DOCKER_MANIFEST, False, DOCKER_MANIFEST),
        (f"{DOCKER_MANIFEST}; charset=utf-8", False, DOCKER_MANIFEST),
        ("text/plain", False, OCI_MANIFEST),
        ("", False, OCI_MANIFEST),
        (DOCKER_INDEX, True, DOCKER_INDEX),
        ("application/json", True, OCI_INDEX),
    ],
)
def test_a_document_without_media_type(content_type: str, is_index: bool, expected: str) -> None:
    document = {"schemaVersion": 2, "manifests": []} if is_index else {**IMAGE}
    document.pop("mediaType", None)
    assert parse_manifest(json.dumps(document).encode(), content_type, "x").media_type == expected


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"schemaVersion": 1}, "schema 1"),
        ({"schemaVersion": "2"}, "schemaVersion is not 2"),
        ({"schemaVersion": True}, "schemaVersion is not 2"),
        ({"manifests": []}, "both layers and manifests"),
        ({"mediaType": "application/x"}, "which is no image"),
        ({"mediaType": OCI_INDEX}, "which is no image"),
        ({"layers": {}}, "no list of layers"),
        ({"layers": None}, "no list of layers"),
        ({"layers": [LAYER] * 501}, "501 layers"),
        ({"layers": [7]}, "must be an object"),
        ({"layers": [{**LAYER, "digest": "sha256:../../x"}]}, "no digest"),
        ({"layers": [{**LAYER, "digest": "sha512:" + "a" * 128}]}, "no digest"),
        ({"layers": [{**LAYER, "digest": 5}]}, "no digest"),
        ({"layers": [{**LAYER, "size": -1}]}, "no number of bytes"),
        ({"layers": [{**LAYER, "size": True}]}, "no number of bytes"),
        ({"layers": [{**LAYER, "size": 1.5}]}, "no number of bytes"),
        ({"layers": [{**LAYER, "size": 1 << 60}]}, "is the limit"),
        ({"layers": [{**LAYER, "mediaType": "a\nb"}]}, "malformed"),
        ({"layers": [{**LAYER, "mediaType": "application/x"}]}, "not supported"),
        (
            {"layers": [{**LAYER, "mediaType":
             "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip"}]},
            "may not distribute",
        ),
        ({"layers": [{**LAYER, "annotations": {"a": 1}}]}, "must be strings"),
        ({"layers": [{**LAYER, "annotations": [1]}]}, "must be strings"),
        ({"layers": [{**LAYER, "platform": [1]}]}, "malformed"),
        ({"layers": [{**LAYER, "platform": {"os": 1}}]}, "malformed"),
        ({"config": None}, "must be an object"),
        ({"config": {**CONFIG, "mediaType": "application/vnd.x"}}, "artifact of type"),
        ({"artifactType": "application/x"}, "artifact of type"),
    ],
)  # fmt: skip
def test_malformed_manifests(change: dict[str, Any], said: str) -> None:
    with pytest.raises(ManifestError, match=said) as caught:
        parse_manifest(json.dumps({**IMAGE, **change}).encode(), "", "here")
    text = str(caught.value)
    assert text.startswith("here")
    assert "\n" not in text


@pytest.mark.parametrize(
    "data",
    [
        *(b"", b"[]", b"7", b"{", b"\xff\xfe", b'"x"'),
        b"[" * 100_000,
        b"9" * 5000,
        b"{" + b" " * (4 << 20),
    ],
    ids=range(9),
)
def test_no_documents(data: bytes) -> None:
    with pytest.raises(ManifestError) as caught:
        parse_manifest(data, OCI_MANIFEST, "here")
    assert len(str(caught.value)) < 300
    assert str(caught.value).isprintable()


@pytest.mark.parametrize(
    ("wanted", "expected"),
    [
        ("linux/amd64", A),
        ("linux/arm64", B),
        ("linux/arm64/v8", B),
        ("linux/arm/v6", C),
        ("linux/arm/v7", C),
    ],
)
def test_choosing_a_platform(wanted: str, expected: str) -> None:
    choice = index(
        entry("sha256:" + "0" * 64, "unknown/unknown"),
        entry(A, "linux/amd64"),
        entry("sha256:" + "1" * 64, "linux/amd64"),
        entry(B, "linux/arm64/v8"),
        entry(C, "linux/arm/v6"),
    )
    assert choose_platform(choice, Platform.parse(wanted), "x").digest == expected


def test_the_nearest_older_arm_is_chosen() -> None:
    choice = index(entry(A, "linux/arm/v5"), entry(B, "linux/arm/v6"), entry(C, "linux/arm/v8"))
    assert choose_platform(choice, Platform.parse("linux/arm/v7"), "x").digest == B


def test_a_platform_that_is_not_there() -> None:
    choice = index(entry(A, "linux/s390x"), entry(B, "windows/amd64"))
    with pytest.raises(ManifestError, match=r"no image for linux/amd64; it has: linux/s390x, wind"):
        choose_platform(choice, Platform.parse("linux/amd64"), "x")


def test_an_only_entry_without_platform_will_do() -> None:
    choice = index(entry(A), entry(B, "linux/amd64"), entry(C, kind="application/x"))
    assert choose_platform(choice, Platform.parse("linux/amd64"), "x").digest == B
    assert choose_platform(choice, Platform.parse("linux/riscv64"), "x").digest == A


@pytest.mark.parametrize("text", ["linux", "", "a/b/c/d", "linux/am d64", "linux/../x\n"])
def test_no_platforms(text: str) -> None:
    with pytest.raises(ManifestError, match="is no platform"):
        Platform.parse(text)


GOOD = {"os": "linux", "architecture": "amd64", "rootfs": {"type": "layers", "diff_ids": [B]}}


def test_a_configuration() -> None:
    details = parse_configuration(json.dumps(GOOD).encode(), 1, "x")
    assert details.diff_ids == (B,)
    assert details.platform == Platform("linux", "amd64")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"rootfs": None}, "diff IDs"),
        ({"rootfs": {"diff_ids": ["x"]}}, "diff IDs"),
        ({"rootfs": {"diff_ids": [[]]}}, "diff IDs"),
        ({"rootfs": {"diff_ids": [A, B]}}, "2 diff IDs, but the manifest 1"),
        ({"os": 5}, "must be plain words"),
        ({"architecture": ["a"]}, "must be plain words"),
        ({"variant": "\ud800"}, "must be plain words"),
        ({"os": "a\x1b[2J"}, "must be plain words"),
        ({"config": [1]}, "config must be an object"),
        ({"config": {"Env": "A=b\0c"}}, "zero byte"),
        ({"config": {"Env": [1]}}, "Env must be a list"),
        ({"config": {"Cmd": ["\ud800"]}}, "not Unicode"),
        ({"config": {"Labels": {"a\0": "b"}}}, "zero byte"),
        ({"config": {"User": 0.5}}, "User must be a string"),
    ],
)
def test_malformed_configurations(change: dict[str, Any], said: str) -> None:
    with pytest.raises(ManifestError, match=said) as caught:
        parse_configuration(json.dumps({**GOOD, **change}).encode(), 1, "here")
    assert str(caught.value).isprintable()


def test_messages_hold_no_control_characters() -> None:
    assert printable("a\x1b[2J\n\ud800é" + "x" * 300).startswith("a\\x1b[2J\\n\\ud800éx")
    assert len(printable("x" * 300)) == 201
