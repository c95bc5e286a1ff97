from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone

import pytest

from runtime.errors import StoreError
from runtime.images.formats.config import ImageConfig, format_time, parse_time


def test_round_trip() -> None:
    config = ImageConfig(
        environment={"PATH": "/bin", "EMPTY": "", "EQ": "a=b"},
        entrypoint=("/init", "-x"),
        command=("sh", "-c", "true"),
        working_directory="/srv",
        user="1000:1000",
        labels={"a": "b"},
        exposed_ports=("80/tcp",),
        stop_signal="SIGINT",
        volumes=("/data",),
    )
    assert ImageConfig.from_oci(config.to_oci()) == config
    assert config.argv == ("/init", "-x", "sh", "-c", "true")


def test_empty_fields_are_left_out_and_null_is_empty() -> None:
    assert ImageConfig().to_oci() == {}
    empty = ImageConfig.from_oci({"Env": None, "Cmd": None, "User": None, "Labels": None})
    assert empty == ImageConfig()


def test_old_docker_has_a_bare_string_as_command() -> None:
    assert ImageConfig.from_oci({"Cmd": "sh"}).command == ("sh",)


@pytest.mark.parametrize(
    "document",
    [{"Env": {"A": "b"}}, {"Cmd": [1]}, {"User": 3}, {"Labels": {"a": 1}}, {"ExposedPorts": [80]}],
)
def test_wrong_shapes_are_named(document: dict[str, object]) -> None:
    with pytest.raises(StoreError, match=next(iter(document))):
        ImageConfig.from_oci(document)


def test_times() -> None:
    moment = datetime(2025, 1, 1, tzinfo=UTC)
    assert format_time(moment) == "2025-01-01T00:00:00Z"
    assert parse_time("2025-01-01T00:00:00Z") == moment
    assert parse_time("2025-01-01T00:00:00.123456789Z") == moment + timedelta(microseconds=123456)
    assert parse_time("2025-01-01T02:00:00+02:00") == moment.astimezone(
        timezone(timedelta(hours=2))
    )
    assert parse_time("yesterday") is None
    assert parse_time(None) is None
