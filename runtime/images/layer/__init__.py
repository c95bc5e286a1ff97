"""One layer: unpacked, looked at, compared, put together."""
