"""Version of Steelyard: in records, in the wheel, and printed by `steelyard --version`."""

VERSION = "0.1.0"
