"""Saving images to a file that other tools read: every blob as it is stored, so digests stay.

    docker   an OCI archive with docker's manifest.json besides, as docker 25 and later write it;
             skopeo and podman read it as `docker-archive:` and as `oci-archive:`
    oci      an OCI archive
    oci-dir  an OCI layout as a folder

Equal images give equal archives: nothing of the hour or the writer gets in.
"""

from __future__ import annotations

import hashlib
import os
import secrets
import tarfile
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any, BinaryIO

from runtime.errors import StoreError
from runtime.images.archive.archive_files import blob_name, compact_json
from runtime.images.archive.load import CONTAINERD_NAME
from runtime.images.formats.digest import BLOCK_BYTES
from runtime.images.formats.image import Image
from runtime.images.formats.reference import parse_reference
from runtime.images.formats.schema import OCI_INDEX, ImageManifest
from runtime.images.registry.transfer import stored_manifest
from runtime.images.store.layout import REFERENCE_ANNOTATION, StoreLayout
from runtime.images.store.store import ImageStore
from runtime.linux.files import remove_tree
from runtime.linux.output_file import output_file

STYLES = ("docker", "oci", "oci-dir")


def save(
    store: ImageStore, references: tuple[str, ...], target: Path | BinaryIO, style: str = "docker"
) -> None:
    """Write images to an archive or a folder, all of it or nothing.

    `target` is a file to be made or replaced, a folder to be made (`oci-dir`), or a stream; `style`
    is one of STYLES.

    Raises:
        ImageError: An image is missing or damaged, or the path cannot be written.
        OSError: The stream cannot be written.
    """
    with ExitStack() as stack:
        found = {image.reference: image for image in map(store.get, references)}
        images = tuple(found.values())
        for image in images:
            stack.enter_context(store.lease(image))
        contents = _Contents(store, images, style)
        try:
            if style == "oci-dir":
                assert isinstance(target, Path)
                _write_folder(contents, target)
            elif isinstance(target, Path):
                with output_file(target) as file:
                    _write_archive(contents, file)
            else:
                _write_archive(contents, target)
        except OSError as error:
            if not isinstance(target, Path):
                raise  # the owner of the stream knows what it is, and what its failure means
            raise StoreError(f"cannot write {target}: {error.strerror}") from error


class _Contents:
    """Contents of the archive: small files by name, and blobs."""

    def __init__(self, store: ImageStore, images: tuple[Image, ...], style: str) -> None:
        self._layout = StoreLayout(store.root)
        manifests = [stored_manifest(store, image.digest) for image in images]
        self.documents = {
            "oci-layout": compact_json({"imageLayoutVersion": "1.0.0"}),
            "index.json": compact_json(_index(images, manifests)),
        }
        if style == "docker":
            self.documents["manifest.json"] = compact_json(_docker_manifest(images, manifests))
        self.blobs: dict[str, int] = {}
        for manifest in manifests:
            self.blobs[manifest.digest] = len(manifest.data)
            for blob in (manifest.config, *manifest.layers):
                self.blobs[blob.digest] = blob.size_bytes

    def blob(self, digest: str) -> Iterator[bytes]:
        """Yield its bytes, verified as they pass."""
        found, length = hashlib.sha256(), 0
        with self._layout.open_blob(digest) as file:
            while data := file.read(BLOCK_BYTES):
                found.update(data)
                length += len(data)
                if length > self.blobs[digest]:
                    break
                yield data
        if length != self.blobs[digest] or f"sha256:{found.hexdigest()}" != digest:
            raise StoreError(f"blob {digest} in the store is damaged; pull or load its image again")


def _index(images: tuple[Image, ...], manifests: list[ImageManifest]) -> dict[str, Any]:
    entries = []
    for image, manifest in zip(images, manifests, strict=True):
        entry: dict[str, Any] = {
            "mediaType": manifest.media_type,
            "digest": manifest.digest,
            "size": len(manifest.data),
        }
        if not image.reference.startswith("sha256:"):
            names = (CONTAINERD_NAME, REFERENCE_ANNOTATION)
            entry["annotations"] = dict.fromkeys(names, image.reference)
        entries.append(entry)
    return {"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": entries}


def _docker_manifest(
    images: tuple[Image, ...], manifests: list[ImageManifest]
) -> list[dict[str, Any]]:
    entries: dict[str, dict[str, Any]] = {}
    for image, manifest in zip(images, manifests, strict=True):
        entry = entries.setdefault(
            manifest.digest,
            {
                "Config": blob_name(manifest.config.digest),
                "RepoTags": [],
                "Layers": [blob_name(layer.digest) for layer in manifest.layers],
            },
        )
        # Only tags are names there.
        if not image.reference.startswith("sha256:"):
            name = parse_reference(image.reference)
            if name.tag:
                entry["RepoTags"].append(f"{name.name}:{name.tag}")
    return list(entries.values())


def _write_archive(contents: _Contents, file: BinaryIO) -> None:
    file.writelines(_header(name, tarfile.DIRTYPE, 0) for name in ("blobs", "blobs/sha256"))
    for name, data in contents.documents.items():
        file.write(_header(name, tarfile.REGTYPE, len(data)))
        file.write(data + bytes(-len(data) % 512))
    for digest, size in sorted(contents.blobs.items()):
        file.write(_header(blob_name(digest), tarfile.REGTYPE, size))
        file.writelines(contents.blob(digest))
        file.write(bytes(-size % 512))
    file.write(bytes(1024))


def _header(name: str, kind: bytes, size: int) -> bytes:
    entry = tarfile.TarInfo(name)
    entry.type = kind
    entry.size = size
    entry.mode = 0o755 if kind == tarfile.DIRTYPE else 0o644
    return entry.tobuf(tarfile.PAX_FORMAT)


def _write_folder(contents: _Contents, target: Path) -> None:
    target = Path(os.path.realpath(target))  # a link stays, and leads to the layout
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise StoreError(f"{target} is there already: a layout is written into a new folder")
    staging = target.with_name(f".{target.name[:200]}.{secrets.token_hex(6)}")
    try:
        (staging / "blobs/sha256").mkdir(parents=True)
        for name, data in contents.documents.items():
            (staging / name).write_bytes(data)
        for digest in contents.blobs:
            with (staging / blob_name(digest)).open("xb") as file:
                file.writelines(contents.blob(digest))
                file.flush()
                os.fsync(file.fileno())
        staging.rename(target)
    except BaseException:
        if staging.exists():
            remove_tree(staging)
        raise
