"""Who `-u` and an image's User mean, looked up in the image's own passwd and group files."""

from __future__ import annotations

from collections.abc import Callable

from runtime.errors import ContainerError
from runtime.launch.spec import User

_LARGEST_ID = 2**32 - 2  # (uid_t)-1 means "leave as it is" to setresuid(2)


def resolve_user(text: str, read_file: Callable[[str], bytes | None]) -> tuple[str, User]:
    """Turn `user`, `uid`, `user:group` or `uid:gid` into numbers, like docker does.

    Args:
        text: What was asked for; empty means root.
        read_file: Returns a file of the image, or None if there is none.

    Returns:
        The home folder and the ids. A uid that passwd does not know has gid 0 and home `/`.

    Raises:
        ContainerError: A name that is in neither file, or a number out of range.
    """
    user_text, _, group_text = text.partition(":")
    user_text = user_text or "0"
    passwd = _lines(read_file("/etc/passwd"), 7)
    groups = _lines(read_file("/etc/group"), 4)
    entry = next((line for line in passwd if line[0] == user_text), None)
    if entry is None and user_text.isdecimal():
        entry = next((line for line in passwd if line[2] == user_text), None)
    if entry is not None:
        uid, gid, home, name = _number(entry[2]), _number(entry[3]), entry[5], entry[0]
    elif user_text.isdecimal():
        uid, gid, home, name = _number(user_text), 0, "/root" if user_text == "0" else "/", ""
    else:
        raise ContainerError(f"no user {user_text!r} in the image's /etc/passwd; give a number")
    additional: tuple[int, ...] = ()
    if group_text:
        gid = _group(group_text, groups)
    elif name:
        # Member lists count only where no group was named, as initgroups(3) would.
        additional = tuple(_number(g[2]) for g in groups if name in g[3].split(","))
    gids = tuple(dict.fromkeys((gid, *additional)))
    return home or "/", User(uid, gid, gids if len(gids) > 1 else ())


def _group(text: str, groups: list[list[str]]) -> int:
    for line in groups:
        if line[0] == text:
            return _number(line[2])
    if text.isdecimal():
        return _number(text)
    raise ContainerError(f"no group {text!r} in the image's /etc/group; give a number")


def _lines(data: bytes | None, fields: int) -> list[list[str]]:
    """The well-formed lines of a passwd or group file; others are passed over, as libc does."""
    lines = (line.split(":") for line in (data or b"").decode(errors="replace").splitlines())
    return [line for line in lines if len(line) >= fields and line[2].isdecimal()]


def _number(text: str) -> int:
    value = int(text)
    if value > _LARGEST_ID:
        raise ContainerError(f"user or group id {text} is too large; ids end at {_LARGEST_ID}")
    return value
