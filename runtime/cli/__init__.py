"""The commands `steelyard container` and `steelyard image`."""
