"""The steps of a build that change files: RUN, COPY, ADD, WORKDIR."""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterator
from pathlib import Path

from runtime.build.containerfile import Instruction
from runtime.build.copy import Copier
from runtime.build.executor import StageState, StepExecutor
from runtime.build.metadata import apply
from runtime.build.plan import PROXY_ARGUMENTS
from runtime.build.tree import LayerTree, follow
from runtime.containers.session import Session
from runtime.containers.users import resolve_user
from runtime.errors import ImageError
from runtime.images.formats.digest import ByteSource
from runtime.images.formats.tar_fields import show
from runtime.images.layer.layer_builder import Item, LayerDraft
from runtime.images.layer.view import MergedView
from runtime.launch.spec import DEFAULT_PATH, ContainerSpec, NetworkSpec, OverlayRoot
from runtime.linux.files import remove_tree

_HEREDOC_WORD = re.compile(r"[0-9]*<<-?[^<]+")
_URL = re.compile(r"(?:https?|ftp|git|ssh)://|git@", re.IGNORECASE)


def run(executor: StepExecutor, state: StageState, instruction: Instruction) -> None:
    """RUN: what a container leaves in its writable layer."""
    from runtime.build.run import run_step

    network = instruction.flag("network") or executor.request.network
    if network == "default":
        network = executor.request.network
    if network not in ("none", "host"):
        raise ValueError(f"--network={network} is not supported; known are none, host, default")
    command = _command(state, instruction)
    home, user = resolve_user(str(state.config.get("User") or ""), state.read_file)
    proxies = {
        name: value for name, value in executor.request.arguments.items() if name in PROXY_ARGUMENTS
    }
    environment = {
        "PATH": DEFAULT_PATH, "HOME": home, **proxies, **state.arguments, **state.environment
    }  # fmt: skip
    spec = ContainerSpec(
        OverlayRoot(tuple(map(os.fspath, state.lowerdirs)), "", "", ""),
        command,
        environment,
        working_directory=state.working_directory,
        user=user,
        network=NetworkSpec(network),
        # As docker: packages' scripts and sudo count on setuid programs.
        no_new_privileges=False,
        stdio=(0, *executor.request.output),
    )
    arguments = " ".join(f"{name}={value}" for name, value in sorted(state.arguments.items()))
    facts = {"command": command, "arguments": state.arguments, "network": network}
    shown = " ".join(command)
    text = f"RUN |{arguments} {shown}" if arguments else f"RUN {shown}"
    executor.step(state, text, facts, lambda: run_step(spec))


def _command(state: StageState, instruction: Instruction) -> tuple[str, ...]:
    """What RUN executes; here-documents go to the shell, which knows them."""
    heredocs = instruction.heredocs
    if not heredocs:
        return state.command_line(instruction)
    text = instruction.words[0]
    if _HEREDOC_WORD.fullmatch(text):
        if heredocs[0].content.startswith("#!"):
            raise ValueError(
                "a here-document that begins with #! is not supported; name the program, as in "
                "RUN python3 <<EOF"
            )
        return (*state.shell, heredocs[0].content)
    return (
        *state.shell,
        "\n".join([text, *(f"{each.content}{each.name}" for each in heredocs)]) + "\n",
    )


def copy(executor: StepExecutor, state: StageState, instruction: Instruction) -> None:
    """COPY and ADD."""
    words = [
        word if instruction.heredocs and _HEREDOC_WORD.fullmatch(word) else state.expand(word)
        for word in instruction.words
    ]
    *sources, destination = words
    if not all(words):
        raise ValueError("a source or the destination is empty")
    several = len(sources) > 1
    if several and not (destination.endswith("/") or destination.rpartition("/")[2] in (".", "..")):
        raise ValueError("with several sources the destination is a folder: end it with a slash")
    adds = instruction.keyword == "ADD"
    for source in sources:
        if _URL.match(source):
            kind = "fetching URLs is not supported; fetch it before the build, or in a RUN"
            raise ValueError(kind if adds else "COPY takes no URLs")
    owner, mode = _owner(state, instruction), _mode(state, instruction)
    tree = executor.source_tree(instruction.flag("from"))
    copier = Copier(
        MergedView(state.lowerdirs), state.working_directory, executor.moment_ns,
        owner=owner, mode=mode,
    )  # fmt: skip
    with contextlib.ExitStack() as stack:

        def unpack(item: Item) -> Path | None:
            return stack.enter_context(_unpacked(item))

        documents = iter(instruction.heredocs)
        for source in sources:
            if instruction.heredocs and _HEREDOC_WORD.fullmatch(source):
                document = next(documents)
                text = document.content
                if document.expands:
                    text = state.expand_document(text)
                copier.write(document.name, text.encode(), destination, more=several)
            elif adds:
                copier.copy(tree, source, destination, more=several, unpack=unpack)
            else:
                copier.copy(tree, source, destination, more=several)
        draft = copier.finished()
        flags = [f"--{name}={state.expand(value)}" for name, value in instruction.flags]
        text = " ".join([instruction.keyword, *flags, *words])
        facts = {"content": draft.content_digest()}
        executor.step(state, text, facts, lambda: contextlib.nullcontext(draft))


def work_directory(executor: StepExecutor, state: StageState, instruction: Instruction) -> None:
    """WORKDIR: sets it, and makes it where it is missing, for the user that is to work there."""
    text = apply(state, instruction)
    path = state.working_directory
    tree = LayerTree(state.lowerdirs, "the image")
    real = follow(tree, os.fsencode(path))
    there = None if real is None else tree.item(real)
    draft = LayerDraft()
    if there is None:
        _, user = resolve_user(str(state.config.get("User") or ""), state.read_file)
        copier = Copier(
            MergedView(state.lowerdirs), "/", executor.moment_ns, owner=(user.uid, user.gid)
        )
        copier.make_folders(copier.resolve(path))
        draft = copier.finished()
    elif not there.is_folder:
        raise ImageError(f"{path} is there already, and is no folder")
    executor.step(state, text, {}, lambda: contextlib.nullcontext(draft))


def _owner(state: StageState, instruction: Instruction) -> tuple[int, int] | None:
    """`--chown=user[:group]`; a number without a group is its own group, as docker has it."""
    text = state.expand(instruction.flag("chown"))
    if not text:
        return None
    if text.isdecimal():
        text = f"{text}:{text}"
    _, user = resolve_user(text, state.read_file)
    return user.uid, user.gid


def _mode(state: StageState, instruction: Instruction) -> int | None:
    text = state.expand(instruction.flag("chmod"))
    if not text:
        return None
    if not re.fullmatch(r"[0-7]{1,4}", text):
        raise ValueError(f"--chmod={text} is not supported; write an octal mode, as in 755")
    return int(text, 8)


@contextlib.contextmanager
def _unpacked(item: Item) -> Iterator[Path | None]:
    """A folder of what is in a tar, compressed or not; None if the file is none."""
    from runtime.images.layer.attributes import UnpackOptions
    from runtime.images.layer.unpack import unpack

    if not _is_tar(item.source):
        yield None
        return
    session = Session.current()
    folder = session.new_instance_directory(session.next_name("add"))
    try:
        with _plain(item.source) as stream:
            fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                result = unpack(stream, fd, UnpackOptions.for_this_user())
            finally:
                os.close(fd)
        if result.whiteouts:
            name = show(item.source)
            raise ImageError(f"{name}: names that begin with .wh. mean deletions in an image")
        yield folder
    finally:
        remove_tree(folder)


@contextlib.contextmanager
def _plain(path: bytes) -> Iterator[ByteSource]:
    """A file's bytes, decompressed if they are compressed."""
    from runtime.images.formats.compression import decompressed
    from runtime.images.formats.pipeline import HashedSource, ReadAhead

    with open(path, "rb") as file, decompressed(file) as stream:
        limited = HashedSource(stream)
        with contextlib.closing(ReadAhead(limited)) as ahead:
            yield ahead


def _is_tar(path: bytes) -> bool:
    """Whether a file is a tar, by its first header, whatever its name says."""
    from runtime.images.formats.tar_reader import TarReader

    try:
        with _plain(path) as stream:
            return next(iter(TarReader(stream)), None) is not None
    except (ImageError, OSError):
        return False
