"""Image references: `[registry/]name[:tag][@digest]`, read as docker reads them.

The grammar is that of github.com/distribution/reference. No registry is assumed when none is named:
`busybox` is a name in the local store.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from runtime.errors import InvalidReferenceError
from runtime.images.formats.digest import is_digest

_NAME_LIMIT = 255
_COMPONENT = r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*"
_LABEL = r"[A-Za-z0-9](?:[A-Za-z0-9-]*[A-Za-z0-9])?"
_HOST = rf"(?:{_LABEL}(?:\.{_LABEL})*|\[[0-9a-fA-F:]+\])"
_REGISTRY = re.compile(rf"{_HOST}(?::[0-9]+)?")
_PATH = re.compile(rf"{_COMPONENT}(?:/{_COMPONENT})*")
_TAG = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}")


@dataclass(frozen=True, slots=True)
class Reference:
    """A name of an image.

    Attributes:
        registry: Host and port, as in `localhost:5000`; empty when none was named.
        repository: The path, as in `library/busybox`.
        tag: Never None together with `digest`: a bare name means `latest`.
        digest: `sha256:<hex>` when the name is pinned to content.
    """

    registry: str
    repository: str
    tag: str | None
    digest: str | None

    @property
    def name(self) -> str:
        """Registry and repository, without tag and digest."""
        return f"{self.registry}/{self.repository}" if self.registry else self.repository

    def __str__(self) -> str:
        tag = f":{self.tag}" if self.tag else ""
        return self.name + tag + (f"@{self.digest}" if self.digest else "")


def parse_reference(text: str) -> Reference:
    """Read a reference, or raise InvalidReferenceError."""
    rest, at, digest = text.partition("@")
    if at and not is_digest(digest):
        reason = "after '@' a digest of the form sha256:<64 hexadecimal digits> is wanted"
        raise _invalid(text, reason)
    # A colon after the last slash begins a tag; one before it belongs to the registry's port.
    name, tag = rest, None
    if rest.rfind(":") > rest.rfind("/"):
        name, _, tag = rest.rpartition(":")
        if not _TAG.fullmatch(tag):
            reason = "up to 128 letters, digits, '_', '.', '-', the first neither '.' nor '-'"
            raise _invalid(text, f"a tag is {reason}")
    registry, repository = _split_registry(name)
    if registry and not _REGISTRY.fullmatch(registry):
        raise _invalid(text, f"{registry!r} is not a host with an optional port")
    if not _PATH.fullmatch(repository):
        reason = "a name is lower-case letters and digits, parted by '.', '_', '-' and '/'"
        if _PATH.fullmatch(repository.lower()):
            reason = "names are lower-case"
        raise _invalid(text, reason)
    if not registry and repository == "sha256":
        raise _invalid(text, "that is the beginning of a digest, not a name")
    if len(name) > _NAME_LIMIT:
        raise _invalid(text, f"a name has at most {_NAME_LIMIT} characters")
    if tag is None and not digest:
        tag = "latest"
    return Reference(registry, repository, tag, digest or None)


def _split_registry(name: str) -> tuple[str, str]:
    """The first component is a registry if it looks like a host: a dot, a port, `localhost`."""
    first, slash, rest = name.partition("/")
    if slash and (first == "localhost" or "." in first or ":" in first or first != first.lower()):
        return first, rest
    return "", name


def _invalid(text: str, reason: str) -> InvalidReferenceError:
    shown = text if len(text) <= 100 else text[:100] + "…"
    return InvalidReferenceError(f"invalid image reference {shown!r}: {reason}")
