"""The archives of `docker save` before it wrote OCI layouts, turned into OCI images.

They have configurations and layers but no manifests: those are made here, the same for the same
archive. What a configuration says of the layers is verified on the way into the store; the oldest
kind says nothing, so the diff IDs are taken from the layers themselves.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from runtime.errors import ImageError
from runtime.images.archive.archive_files import (
    Member,
    Members,
    compact_json,
    find_hashed,
    read_member,
)
from runtime.images.formats import schema
from runtime.images.formats.digest import digest_of
from runtime.images.formats.pipeline import digest_unpacked
from runtime.images.formats.schema import LAYERS_LIMIT, ManifestError, are_strings, printable

_IMAGES_LIMIT = 1000
_SUFFIXES = ((b"\x1f\x8b", "+gzip"), (b"\x28\xb5\x2f\xfd", "+zstd"))
_KEPT = ("architecture", "author", "config", "created", "os")
_OTHER_PACKING = (b"\xfd7zXZ\0", b"BZh")

Found = tuple[schema.ImageManifest, dict[str, Member | bytes], tuple[str, ...]]
"""A manifest, what its digests stand for, and the names of the image."""


def docker_names(members: Members) -> dict[str, tuple[str, ...]]:
    """Read the names in `manifest.json`, by the digest of the image's configuration.

    Newer archives are OCI layouts that have this file as well: its names are the short ones.
    """
    if members.find("manifest.json") is None:
        return {}
    return {digest_of(read_member(members, config)): tags for config, tags, _ in _entries(members)}


def docker_images(members: Members) -> Iterator[Found]:
    """Read the images of an archive that is no OCI layout, or raise ImageError."""
    if members.find("manifest.json"):
        for config, tags, layers in _entries(members):
            data = read_member(members, config)
            parts = [find_hashed(members, layer) for layer in layers]
            yield _image(members, data, parts, tags)
    elif members.find("repositories"):
        yield from _oldest(members)
    else:
        raise ImageError(
            f"{members.where} is no image: it has neither index.json nor manifest.json nor "
            "repositories; a root filesystem is for `image import`"
        )


def _entries(members: Members) -> Iterator[tuple[str, tuple[str, ...], list[str]]]:
    """Configuration, names and layers of each image in manifest.json."""
    where = f"manifest.json in {members.where}"
    try:
        entries = json.loads(read_member(members, "manifest.json"))
    except (ValueError, RecursionError) as error:
        raise ManifestError(f"{where} is not JSON: {printable(error)}") from None
    if not isinstance(entries, list) or len(entries) > _IMAGES_LIMIT:
        raise ManifestError(f"{where} is not a list of at most {_IMAGES_LIMIT} images")
    for entry in entries:
        fields = entry if isinstance(entry, dict) else {}
        config = fields.get("Config")
        tags, layers = fields.get("RepoTags") or [], fields.get("Layers") or []
        are_lists = are_strings(tags) and are_strings(layers) and len(layers) <= LAYERS_LIMIT
        if not isinstance(config, str) or not are_lists:
            raise ManifestError(f"{where} is malformed: wanted are Config, RepoTags and Layers")
        yield config, tuple(tags), layers


def _image(members: Members, config: bytes, layers: list[Member], names: tuple[str, ...]) -> Found:
    blobs: dict[str, Member | bytes] = {digest_of(config): config}
    descriptors = []
    for layer in layers:
        blobs[layer.digest] = layer
        media_type = schema.OCI_LAYER + _packing(layer, members.where)
        descriptor = {"mediaType": media_type, "digest": layer.digest, "size": layer.size_bytes}
        descriptors.append(descriptor)
    document = {
        "schemaVersion": 2,
        "mediaType": schema.OCI_MANIFEST,
        "config": {
            "mediaType": schema.OCI_CONFIG,
            "digest": digest_of(config),
            "size": len(config),
        },
        "layers": descriptors,
    }
    data = compact_json(document)
    manifest = schema.parse_manifest(data, schema.OCI_MANIFEST, f"an image in {members.where}")
    assert isinstance(manifest, schema.ImageManifest)
    return manifest, blobs, names


def _packing(layer: Member, where: str) -> str:
    with layer.path.open("rb") as file:
        head = file.read(6)
    if head.startswith(_OTHER_PACKING):
        raise ImageError(f"{where} has a layer packed by xz or bzip2: images have gzip or zstd")
    return next((suffix for magic, suffix in _SUFFIXES if head.startswith(magic)), "")


# Before docker 1.10: a file for each layer with its parent, and a list of names.


def _oldest(members: Members) -> Iterator[Found]:
    where = f"repositories in {members.where}"
    repositories = schema.parse_json(read_member(members, "repositories"), where)
    names: dict[str, list[str]] = {}
    for repository, tags in repositories.items():
        if not isinstance(tags, dict) or not are_strings(list(tags.values())):
            raise ManifestError(f"{where} is malformed: wanted is name, then tag, then image")
        for tag, image in tags.items():
            names.setdefault(image, []).append(f"{repository}:{tag}")
    if len(names) > _IMAGES_LIMIT:
        raise ManifestError(f"{where} names more than {_IMAGES_LIMIT} images")
    for image, words in names.items():
        yield _oldest_image(members, image, tuple(words))


def _oldest_image(members: Members, image: str, names: tuple[str, ...]) -> Found:
    chain: list[dict[str, Any]] = []
    layers: list[Member] = []
    seen: set[str] = set()
    identifier: object = image
    while identifier:
        if not isinstance(identifier, str) or identifier in seen or len(seen) == LAYERS_LIMIT:
            raise ManifestError(
                f"{members.where}: the layers of {printable(names[0])} form no chain of at most "
                f"{LAYERS_LIMIT}"
            )
        seen.add(identifier)
        what = f"{printable(identifier)}/json in {members.where}"
        chain.append(schema.parse_json(read_member(members, f"{identifier}/json"), what))
        layers.append(find_hashed(members, f"{identifier}/layer.tar"))
        identifier = chain[-1].get("parent")
    layers.reverse()
    top = chain[0]
    config: dict[str, Any] = {name: top[name] for name in _KEPT if name in top}
    config["rootfs"] = {"type": "layers", "diff_ids": [_diff_id(layer) for layer in layers]}
    config["history"] = [_history(layer) for layer in reversed(chain)]
    return _image(members, compact_json(config), layers, names)


def _history(layer: dict[str, Any]) -> dict[str, str]:
    """An entry of the history, as docker's own migration made it (image/v1's HistoryFromConfig)."""
    made = layer.get("container_config")
    command = made.get("Cmd") if isinstance(made, dict) else None
    entry = {
        "created": layer.get("created"),
        "author": layer.get("author"),
        "comment": layer.get("comment"),
        "created_by": " ".join(command) if are_strings(command) else None,
    }
    return {name: text for name, text in entry.items() if isinstance(text, str) and text}


def _diff_id(layer: Member) -> str:
    with layer.path.open("rb") as file:
        return digest_unpacked(file)
