"""Build an image, and bring images from registries and archives or send them there."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, BinaryIO

from runtime.errors import InvalidArgumentError
from runtime.images.formats.image import Image
from runtime.images.store.store import ImageStore

if TYPE_CHECKING:
    from runtime.build.plan import BuildRequest
    from runtime.images.formats.reference import Reference
    from runtime.images.registry.client import RegistryClient
    from runtime.images.registry.transfer import PushListener
    from runtime.images.store.ingest import Listener

_NOTHING: Mapping[str, str] = MappingProxyType({})


def build_image(
    context: str | os.PathLike[str] | BuildRequest,
    *,
    tags: Sequence[str] = (),
    containerfile: str | os.PathLike[str] | None = None,
    arguments: Mapping[str, str] = _NOTHING,
    target: str = "",
    network: str = "none",
    use_cache: bool = True,
    store: ImageStore | None = None,
    progress: Callable[[str], None] | None = None,
) -> Image:
    """Build an image from a Containerfile, as docker-build(1) does; each RUN is a container.

    Args:
        context: The folder that COPY takes files from; or a whole request, and then nothing of
            what follows up to `use_cache`.
        tags: Names for the image; without one it is found by its digest.
        containerfile: By default `Containerfile`, else `Dockerfile`, in the folder.
        arguments: Values for ARGs.
        target: Name or number of the stage to build; empty is the last one.
        network: Of RUN: `none` or `host`.
        use_cache: Whether steps of earlier builds count.
        store: Where it goes, and where FROM looks; by default the user's.
        progress: Called with each step, in docker's words.

    Raises:
        BuildError: The Containerfile is wrong or a step of it failed; names the line.
        ImageError: The folder, or a name, is wrong.
    """
    from runtime.build.build import build
    from runtime.build.plan import BuildRequest
    from runtime.build.shipped import ensure_image

    if isinstance(context, BuildRequest):
        if tags or containerfile or arguments or target or network != "none" or not use_cache:
            raise InvalidArgumentError(
                "context", "a BuildRequest says all of it: give tags and the like in the request"
            )
        request = context
    else:
        request = BuildRequest(
            Path(context),
            containerfile=None if containerfile is None else Path(containerfile),
            tags=_names("tags", tags),
            arguments=arguments,
            target=target,
            network=network,
            use_cache=use_cache,
        )
    store = store or ImageStore.default()
    progress = progress or _silent
    return build(store, request, progress, partial(ensure_image, store=store, progress=progress))


def pull_image(
    reference: str,
    *,
    platform: str | None = None,
    registry: str | None = None,
    plain_http: bool = False,
    verify: bool = True,
    certificates: str | os.PathLike[str] | None = None,
    store: ImageStore | None = None,
    listener: Listener | None = None,
) -> Image:
    """Bring an image from a registry; layers that are here already are not sent again.

    The protocol is that of the OCI distribution specification; credentials are those of
    `docker login` and `podman login`.

    Args:
        reference: `HOST[:PORT]/NAME[:TAG]` or `HOST[:PORT]/NAME@DIGEST`.
        platform: `OS/ARCH[/VARIANT]`; by default this machine's.
        registry: `HOST[:PORT]` for a reference that names none; none is assumed.
        plain_http: Speak http. On this machine it is tried anyway.
        verify: Check the registry's certificate.
        certificates: A folder with `*.crt` (authorities), `*.cert` and `*.key` (ours).
        store: Where it goes; by default the user's.
        listener: Called with what happens to the layers, possibly in other threads.

    Raises:
        InvalidReferenceError: No possible name, or one without a registry.
        ImageError: It is not to be had, or not what it claims to be; the store is as before.
    """
    from runtime.images.formats.schema import Platform
    from runtime.images.registry.transfer import pull

    with registry_client(reference, registry, plain_http, verify, certificates) as (client, wanted):
        pulled = pull(
            store or ImageStore.default(),
            client,
            wanted,
            platform=Platform.parse(platform) if platform else None,
            listener=listener or _silent,
        )
    return pulled.image


def push_image(
    image: str | Image,
    target: str | None = None,
    *,
    registry: str | None = None,
    plain_http: bool = False,
    verify: bool = True,
    certificates: str | os.PathLike[str] | None = None,
    store: ImageStore | None = None,
    listener: PushListener | None = None,
) -> str:
    """Send an image to a registry as it is stored, byte by byte, so that its digest stays.

    Args:
        image: What, by name or digest.
        target: `HOST[:PORT]/NAME[:TAG]`; by default the image's own name.
        registry: As for `pull_image`, and so are the three that follow.
        plain_http: Speak http.
        verify: Check the registry's certificate.
        certificates: A folder with certificates.
        store: Where it is; by default the user's.
        listener: Called with each layer's digest, how it ended (None until then), bytes sent, of
            how many.

    Returns:
        Its digest, there and here.

    Raises:
        ImageNotFoundError: There is no such image.
        InvalidArgumentError: The image has no name, and there is no target.
        ImageError: The registry refused, or a blob is missing from the store.
    """
    from runtime.images.registry.transfer import push

    store = store or ImageStore.default()
    found = image if isinstance(image, Image) else store.get(image)
    if target is None and found.reference.startswith("sha256:"):
        raise InvalidArgumentError("target", f"{image} has no name: say where it goes by target")
    name = target or found.reference
    with registry_client(name, registry, plain_http, verify, certificates) as (client, wanted):
        return push(store, client, found, wanted, listener or _silent).digest


def load_images(
    source: str | os.PathLike[str] | BinaryIO,
    *,
    name: str | None = None,
    platform: str | None = None,
    store: ImageStore | None = None,
    listener: Listener | None = None,
) -> tuple[Image, ...]:
    """Take all images of an archive or an OCI layout into the store.

    Args:
        source: The folder of a layout; an archive, compressed or not, of a layout or as
            `docker save` writes it; or a stream of one.
        name: In place of the names it brings; with a tag, for a single image alone.
        platform: `OS/ARCH[/VARIANT]`, where it offers several; by default this machine's.
        store: Where they go; by default the user's.
        listener: Called with what happens to the layers.

    Raises:
        ImageError: It is no image, damaged or hostile; images before the damaged one stay loaded.
    """
    from runtime.images.archive.load import load
    from runtime.images.formats.schema import Platform

    where = Path(source) if isinstance(source, str | os.PathLike) else source
    loaded = load(
        store or ImageStore.default(),
        where,
        name=name,
        platform=Platform.parse(platform) if platform else None,
        listener=listener or _silent,
    )
    return tuple(each.image for each in loaded)


def save_images(
    references: Sequence[str],
    target: str | os.PathLike[str] | BinaryIO,
    *,
    style: str = "docker",
    store: ImageStore | None = None,
) -> None:
    """Write images to an archive or a folder that docker, podman and skopeo read.

    Args:
        references: Which.
        target: A file to be made or replaced, a folder to be made (`oci-dir`), or a stream.
        style: `docker`, an OCI archive that docker reads too; `oci`; or `oci-dir`, a folder.
        store: Where they are; by default the user's.

    Raises:
        InvalidArgumentError: No such style, or one that the target cannot take.
        ImageError: An image is missing or damaged, or the path cannot be written: all or nothing.
        OSError: The stream cannot be written.
    """
    from runtime.images.archive.save import STYLES, save

    where = Path(target) if isinstance(target, str | os.PathLike) else target
    if style not in STYLES:
        known = ", ".join(STYLES)
        raise InvalidArgumentError("style", f"{style!r} is no style of archive; known are {known}")
    if style == "oci-dir" and not isinstance(where, Path):
        raise InvalidArgumentError("target", "oci-dir makes a folder: give its path as target")
    save(store or ImageStore.default(), _names("references", references), where, style)


@contextlib.contextmanager
def registry_client(
    name: str,
    registry: str | None,
    plain_http: bool,
    verify: bool,
    certificates: str | os.PathLike[str] | None,
) -> Iterator[tuple[RegistryClient, Reference]]:
    """Give a client for the registry of a name, open in the block, and the resolved name.

    The arguments are those of `pull_image`.
    """
    from runtime.images.registry.client import RegistryClient
    from runtime.images.registry.connection import Security
    from runtime.images.registry.transfer import resolve_registry

    reference = resolve_registry(name, registry)
    folder = None if certificates is None else Path(certificates)
    security = Security(plain_http=plain_http, verify=verify, certificates=folder)
    client = RegistryClient(reference.registry, security, environment=os.environ)
    with contextlib.closing(client):
        yield client, reference


def _names(argument: str, names: Sequence[str]) -> tuple[str, ...]:
    if isinstance(names, str):
        raise InvalidArgumentError(
            argument, f"{names!r} is a string: give a list, as in [{names!r}]"
        )
    return tuple(names)


def _silent(*_: object) -> None:
    """Take a message, and say nothing."""
