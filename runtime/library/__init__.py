"""The calls of the library: each puts together what the packages below give, a screen at most."""
