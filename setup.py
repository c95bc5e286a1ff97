"""What pyproject.toml cannot say: packages that are found, beside three that are mapped.

Each of the three has another place in the clone than in an installation. Everything else about the
build stands in pyproject.toml.
"""

from setuptools import find_packages, setup

_MAPPED = {
    # A file named `steelyard`, the script, stands where the package would have to be.
    "steelyard": "harness/_steelyard",
    # `scenarios/` stands at the top for people to read. Nothing in it is Python.
    "harness.shipped_scenarios": "scenarios",
    "runtime.shipped_images": "scenarios/images",
}

_FOUND = find_packages(include=["harness*", "runtime*"], exclude=["harness._steelyard*"])

setup(packages=[*_FOUND, *_MAPPED], package_dir=_MAPPED)
