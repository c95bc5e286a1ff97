"""`python -m harness`: the command `steelyard`."""

from harness.cli.main import main

main()
