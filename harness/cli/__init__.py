"""The command `steelyard`: parse, call, print."""
