"""Who a user's or an image's words mean."""

from __future__ import annotations

import pytest

from runtime.containers.users import resolve_user
from runtime.errors import ContainerError
from runtime.launch.spec import User

PASSWD = b"""root:x:0:0:root:/root:/bin/sh
www:x:33:33::/var/www:/usr/sbin/nologin
# a comment, and two lines that are none of ours
broken:line
bad:x:minus:1::/:/bin/sh
1234:x:77:88::/odd:/bin/sh
nohome:x:44:45:::
"""
GROUP = b"""root:x:0:
www:x:33:
docker:x:999:www,root
audio:x:29:nobody,www
tape:x:26:
77:x:700:
"""


def files(passwd: bytes | None = PASSWD, group: bytes | None = GROUP) -> dict[str, bytes | None]:
    return {"/etc/passwd": passwd, "/etc/group": group}


@pytest.mark.parametrize(
    ("text", "home", "user"),
    [
        ("", "/root", User(0, 0, (0, 999))),
        ("root", "/root", User(0, 0, (0, 999))),
        ("0", "/root", User(0, 0, (0, 999))),
        ("www", "/var/www", User(33, 33, (33, 999, 29))),
        ("33", "/var/www", User(33, 33, (33, 999, 29))),
        # A group that is named takes the place of all.
        ("www:tape", "/var/www", User(33, 26)),
        ("www:5", "/var/www", User(33, 5)),
        ("33:0", "/var/www", User(33, 0)),
        (":tape", "/root", User(0, 26)),
        # Numbers that no file knows.
        ("5000", "/", User(5000, 0)),
        ("5000:6000", "/", User(5000, 6000)),
        # A name that is a number is a name first.
        ("1234", "/odd", User(77, 88)),
        ("5000:77", "/", User(5000, 700)),
        ("nohome", "/", User(44, 45)),
        ("4294967294", "/", User(4294967294, 0)),
    ],
)
def test_who_is_meant(text: str, home: str, user: User) -> None:
    assert resolve_user(text, files().get) == (home, user)


@pytest.mark.parametrize(
    ("text", "home", "user"),
    [("", "/root", User()), ("0", "/root", User()), ("7:8", "/", User(7, 8))],
)
def test_an_image_without_the_files(text: str, home: str, user: User) -> None:
    assert resolve_user(text, lambda path: None) == (home, user)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("nobody", "no user 'nobody' in the image's /etc/passwd; give a number"),
        ("-1", "no user '-1' in the image's /etc/passwd; give a number"),
        ("broken", "no user 'broken' in the image's /etc/passwd; give a number"),
        ("bad", "no user 'bad' in the image's /etc/passwd; give a number"),
        ("www:nogroup", "no group 'nogroup' in the image's /etc/group; give a number"),
        ("4294967295", "user or group id 4294967295 is too large; ids end at 4294967294"),
        ("0:99999999999", "user or group id 99999999999 is too large; ids end at 4294967294"),
    ],
)
def test_who_is_not_there(text: str, sentence: str) -> None:
    with pytest.raises(ContainerError) as caught:
        resolve_user(text, files().get)
    assert str(caught.value) == sentence


def test_files_that_are_not_text() -> None:
    garbage = files(b"\xff\xfe:x:1:2::/h:/s\n\n:::\n", b"\0\0")
    assert resolve_user("1", garbage.get)[1] == User(1, 2)
