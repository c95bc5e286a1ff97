"""A process that changes a store until it is killed: `python -m tests.support.images_worker …`.

Says `ready` when everything is loaded, and `done` at the end, so that its killer can choose a
moment between. Arguments: the store's folder, what to do, and what with.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

from runtime.errors import ContainerError
from runtime.images import ImageConfig, ImageStore
from runtime.images.store import writer
from tests.support.images import add_image


def work(store: ImageStore, operation: str, arguments: list[str]) -> None:
    """One operation of a user."""
    if operation == "import":
        store.import_rootfs(Path(arguments[0]), "new", ImageConfig(user=arguments[1]))
    elif operation == "add":
        add_image(store, "new", [Path(path).read_bytes() for path in arguments])
    elif operation == "remove":
        for image in store.images():
            if image.reference != "keep:latest":
                store.remove(image.reference, keep=set)
    elif operation == "collect":
        store.collect(keep=set)
    elif operation == "tag":
        store.tag("keep", "new-tag")
    elif operation == "verify":
        store.verify()
    elif operation == "pull":
        from click.testing import CliRunner

        from runtime.cli.image import image

        result = CliRunner().invoke(image, ["pull", arguments[0]])
        if result.exit_code:
            raise ContainerError(result.output)
    else:
        raise AssertionError(operation)


def main() -> int:
    """Do it, once."""
    store = ImageStore(Path(sys.argv[1]))
    assert writer is not None
    os.environ["STEELYARD_HOME"] = os.path.dirname(sys.argv[1])
    if sys.argv[2] == "pull":
        import runtime.cli.image_transfer  # noqa: F401 - loaded before anyone counts
    print("ready", flush=True)
    try:
        work(store, sys.argv[2], sys.argv[3:])
    except ContainerError as error:
        print(error, file=sys.stderr)
        return 1
    print("done", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
