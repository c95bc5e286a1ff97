"""Plans as values: order, flags, printing and encoding, all without privilege."""

from __future__ import annotations

import ctypes
import errno
import stat
import struct
from dataclasses import replace

import pytest

from runtime.errors import ContainerError, UnsupportedError
from runtime.launch import capabilities, overlay
from runtime.launch.lower import lower
from runtime.launch.memory_image import STEP, _encode_step
from runtime.launch.plan import PackedBytes, Plan, ResultSlot, Step, Strings
from runtime.launch.spec import (
    ALL_NAMESPACES,
    DEFAULT_CAPABILITIES,
    ContainerSpec,
    DirectoryRoot,
    Namespace,
    NetworkSpec,
    OverlayRoot,
    User,
    Volume,
)
from runtime.linux import abi
from tests.support.containers import FEATURES

ROOT = OverlayRoot(("/top", "/bottom"), "/instance/upper", "/instance/work", "/session/rootfs")
SPEC = ContainerSpec(ROOT, ("true",), {"PATH": "/bin"})


def lowered(spec: ContainerSpec = SPEC, entry: tuple[int, ...] = (), **changes: object) -> Plan:
    return lower(replace(spec, **changes), FEATURES, entry)  # type: ignore[arg-type]


def position(plan: Plan, syscall: str, *arguments: object) -> int:
    """The one step of that system call whose arguments begin so."""
    found = [
        index
        for index, step in enumerate(plan.steps)
        if step.syscall == syscall and step.arguments[: len(arguments)] == arguments
    ]
    assert len(found) == 1, (syscall, arguments, found)
    return found[0]


def names(plan: Plan) -> list[str]:
    return [step.syscall for step in plan.steps]


# --- what is made, and in which order ---


def test_order_of_an_isolated_launch() -> None:
    plan = lowered(
        stdio=(3, 4, 5),
        network=NetworkSpec("join", 9),
        volumes=(Volume("/v", "/data"),),
        user=User(5, 6),
        read_only_root=True,
        working_directory="/work",
        entry=(7, 8),
    )
    order = [
        plan.steps.index(Step("prctl", (abi.PR_SET_PDEATHSIG, 9, 0, 0, 0), plan.steps[0].label)),
        position(plan, "write", 7),
        position(plan, "write", 8),
        position(plan, "unshare", abi.CLONE_NEWCGROUP),
        position(plan, "setns", 9),
        position(plan, "dup3", 3, 0),
        position(plan, "dup3", 5, 2),
        names(plan).index("close_range"),
        position(plan, "mount", None, "/"),
        position(plan, "open_tree"),
        position(plan, "mount", "overlay"),
        position(plan, "pivot_root"),
        position(plan, "umount2"),
        position(plan, "mount", "proc"),
        position(plan, "mount", "tmpfs", "/dev"),
        position(plan, "mknodat", abi.AT_FDCWD, "/dev/null"),
        position(plan, "mount", "/dev/null", "/proc/kcore"),
        position(plan, "move_mount"),
        position(plan, "sethostname"),
        position(plan, "fchdir"),
        position(plan, "mount_setattr", abi.AT_FDCWD, "/"),
        position(plan, "setsid"),
        position(plan, "prctl", abi.PR_CAPBSET_DROP, capabilities.NUMBERS["CAP_SYS_ADMIN"]),
        position(plan, "setgroups"),
        position(plan, "setgid", 6),
        position(plan, "setuid", 5),
        position(plan, "capset"),
        position(plan, "prctl", abi.PR_SET_NO_NEW_PRIVS),
        position(plan, "umask", 0o022),
        len(plan.steps) - 1 - names(plan)[::-1].index("close_range"),
        position(plan, "rt_sigprocmask"),
        position(plan, "execve"),
    ]
    assert order == sorted(order)
    assert order[0] == 0
    assert order[-1] == len(plan.steps) - 1
    assert plan.isolated_step == position(plan, "umask", 0o022)


def test_dying_with_the_launcher_is_asked_for_again_after_a_change_of_ids() -> None:
    def asked(plan: Plan) -> list[int]:
        return [
            index
            for index, step in enumerate(plan.steps)
            if step.syscall == "prctl" and step.arguments[0] == abi.PR_SET_PDEATHSIG
        ]

    assert asked(lowered()) == [0]
    plan = lowered(user=User(5, 5))
    assert asked(plan)[0] == 0
    assert asked(plan)[1] > position(plan, "setuid")


@pytest.mark.parametrize("kind", sorted(ALL_NAMESPACES))
def test_namespaces_are_the_ones_asked_for(kind: Namespace) -> None:
    flags = {
        Namespace.MOUNT: abi.CLONE_NEWNS, Namespace.PID: abi.CLONE_NEWPID,
        Namespace.UTS: abi.CLONE_NEWUTS, Namespace.IPC: abi.CLONE_NEWIPC,
        Namespace.NET: abi.CLONE_NEWNET, Namespace.CGROUP: 0,
    }  # fmt: skip
    everything = sum(flags.values())
    plan = lowered(namespaces=ALL_NAMESPACES - {kind})
    assert lowered().clone_flags == everything
    assert plan.clone_flags == everything & ~flags[kind]
    assert ("unshare" in names(plan)) == (kind is not Namespace.CGROUP)
    assert ("sethostname" in names(plan)) == (kind is not Namespace.UTS)


@pytest.mark.parametrize(
    ("network", "new", "loopback", "joins"),
    [
        (NetworkSpec("none"), True, True, False),
        (NetworkSpec("host"), False, False, False),
        (NetworkSpec("join", 42), False, False, True),
    ],
)
def test_network(network: NetworkSpec, new: bool, loopback: bool, joins: bool) -> None:
    plan = lowered(network=network)
    assert bool(plan.clone_flags & abi.CLONE_NEWNET) == new
    assert ("ioctl" in names(plan)) == loopback
    assert ("setns" in names(plan)) == joins
    if joins:
        assert plan.steps[position(plan, "setns")].arguments == (42, abi.CLONE_NEWNET)


def test_a_plain_folder_is_entered_and_nothing_else() -> None:
    plan = lower(
        ContainerSpec(DirectoryRoot("/r"), ("true",), {"PATH": "/bin"}, namespaces=frozenset(),
                      network=NetworkSpec("host")),
        FEATURES, (),
    )  # fmt: skip
    assert plan.clone_flags == 0
    assert set(names(plan)) == {
        "prctl", "umask", "rt_sigaction", "close_range", "chroot", "openat2", "fchdir", "setsid",
        "rt_sigprocmask", "check_executable", "execve",
    }  # fmt: skip
    # The working directory follows at once: chroot(2) leaves it outside.
    assert position(plan, "fchdir") == position(plan, "chroot") + 2


def test_no_step_for_what_need_not_change() -> None:
    plan = lowered(new_session=False, no_new_privileges=False)
    for absent in ("dup3", "setuid", "setgid", "setsid", "mount_setattr", "open_tree"):
        assert absent not in names(plan)
    assert (abi.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) not in [step.arguments for step in plan.steps]


def test_only_streams_that_move_are_moved() -> None:
    plan = lowered(stdio=(0, 7, 2))
    assert [step.arguments for step in plan.steps if step.syscall == "dup3"] == [(7, 1, 0)]


@pytest.mark.parametrize("read_only", [True, False])
@pytest.mark.parametrize("is_directory", [True, False])
def test_volume(read_only: bool, is_directory: bool) -> None:
    plan = lowered(volumes=(Volume("/src", "/a/b", read_only, is_directory),))
    taken = plan.steps[position(plan, "open_tree")]
    attributes = plan.steps[position(plan, "mount_setattr")].arguments[3]
    assert isinstance(attributes, PackedBytes)
    wanted = abi.MOUNT_ATTR_NODEV | (abi.MOUNT_ATTR_RDONLY if read_only else 0)
    assert abi.mount_attr.unpack(attributes.data)[0] == wanted
    assert taken.result is not None
    moved = plan.steps[position(plan, "move_mount")]
    assert moved.arguments[0] == ResultSlot(taken.result)
    made = plan.steps[position(plan, "move_mount") - 2]
    assert made.syscall == ("mkdirat" if is_directory else "mknodat")
    assert made.arguments[1] == "b"
    assert made.accept == (errno.EEXIST,)


def test_no_path_of_the_user_or_the_image_is_followed_through_magic_links() -> None:
    plan = lowered(volumes=(Volume("/src", "/a/b"),), working_directory="/c/d")
    opened = [step for step in plan.steps if step.syscall == "openat2"]
    assert [step.arguments[1] for step in opened] == ["/a", "b", "/c", "d"]
    for step in opened:
        how = step.arguments[2]
        assert isinstance(how, PackedBytes)
        assert abi.open_how.unpack(how.data)[2] == abi.RESOLVE_NO_MAGICLINKS


def test_too_many_volumes() -> None:
    volumes = tuple(Volume("/src", f"/{number}") for number in range(57))
    assert lowered(volumes=volumes[:56], working_directory="/a/b")
    with pytest.raises(UnsupportedError, match="57 volumes"):
        lowered(volumes=volumes)


def test_results_fit_the_slots_and_are_made_before_they_are_used() -> None:
    plan = lowered(
        volumes=tuple(Volume("/s", f"/{n}") for n in range(56)), working_directory="/a/b"
    )
    known: set[int] = set()
    for step in plan.steps:
        used = {argument.number for argument in step.arguments if isinstance(argument, ResultSlot)}
        assert used <= known, step
        if step.result is not None:
            assert 0 <= step.result < 64
            known.add(step.result)
        assert len(step.arguments) <= 6
        assert len(step.accept) <= 4  # the array of the C struct ends with a zero


# --- overlay options ---


def test_options_in_one_page_go_by_mount() -> None:
    step = lowered().steps[position(lowered(), "mount", "overlay")]
    assert step.arguments[3:] == (
        abi.MS_NODEV,
        "lowerdir=/top:/bottom,upperdir=/instance/upper,workdir=/instance/work,volatile",
    )


def test_longer_ones_go_by_short_names() -> None:
    lowerdirs = tuple(f"/layers/{number:0100}" for number in range(127))
    plan = lowered(root=replace(ROOT, lowerdirs=lowerdirs))
    links = {
        str(step.arguments[2]): step.arguments[0]
        for step in plan.steps[: position(plan, "mount", "overlay")]
        if step.syscall == "symlinkat"
    }
    options = plan.steps[position(plan, "mount", "overlay")].arguments[4]
    assert isinstance(options, str)
    named = options.removeprefix("lowerdir=").split(",")[0].split(":")
    assert [links[name] for name in named] == list(lowerdirs)
    assert len(options) <= overlay.OPTIONS_LIMIT_BYTES
    assert plan.steps[position(plan, "mount", "overlay")].arguments[3] == abi.MS_NODEV


def test_the_page_is_the_border() -> None:
    def root(path: str) -> OverlayRoot:
        return replace(ROOT, lowerdirs=("/" + path,))

    room = overlay.OPTIONS_LIMIT_BYTES - len(overlay.options(root("")))
    assert overlay.fits_one_page(root("x" * room))
    assert not overlay.fits_one_page(root("x" * (room + 1)))
    assert not overlay.fits_one_page(root("ü" * (room // 2 + 1)))


@pytest.mark.parametrize(
    ("path", "escaped"),
    [
        ("/a", "/a"),
        ("/a:b", "/a\\:b"),
        ("/a,b", "/a\\,b"),
        ("/a\\b", "/a\\\\b"),
        ("/\\:", "/\\\\\\:"),
    ],
)
def test_escape(path: str, escaped: str) -> None:
    assert overlay.escape(path) == escaped


def test_a_layer_that_is_kept_is_not_volatile() -> None:
    assert overlay.options(replace(ROOT, volatile=False)).endswith("workdir=/instance/work")
    long = replace(ROOT, lowerdirs=("/" + "x" * 5000,), volatile=False)
    assert "volatile" not in lowered(root=long).describe()


# --- capabilities ---


def _sets(plan: Plan) -> tuple[int, int, int]:
    """Permitted, inheritable and the bounding set that a plan leaves."""
    data = plan.steps[position(plan, "capset")].arguments[1]
    assert isinstance(data, PackedBytes)
    low_e, low_p, low_i, high_e, high_p, high_i = abi.cap_data.unpack(data.data)
    assert (low_e, high_e) == (low_p, high_p)
    bounding = (1 << FEATURES.last_capability + 1) - 1
    for step in plan.steps:
        if step.syscall == "prctl" and step.arguments[0] == abi.PR_CAPBSET_DROP:
            assert isinstance(step.arguments[1], int)
            bounding &= ~(1 << step.arguments[1])
    return low_p | high_p << 32, low_i | high_i << 32, bounding


def test_default_capabilities() -> None:
    keep = capabilities.mask(DEFAULT_CAPABILITIES)
    assert _sets(lowered()) == (keep, 0, keep)
    assert not keep >> capabilities.NUMBERS["CAP_MKNOD"] & 1
    assert not keep >> capabilities.NUMBERS["CAP_SYS_ADMIN"] & 1


def test_an_ordinary_user_has_none_and_cannot_get_more_than_the_bounding_set() -> None:
    keep = capabilities.mask(DEFAULT_CAPABILITIES)
    assert _sets(lowered(user=User(1000, 1000))) == (0, 0, keep)


def test_nothing_that_the_launcher_lacks_is_promised() -> None:
    # CAP_SYS_RESOURCE is missing in FEATURES.
    wanted = ("CAP_KILL", "CAP_SYS_RESOURCE")
    assert _sets(lowered(capabilities=wanted))[0] == capabilities.mask(("CAP_KILL",))


def test_who_may_not_drop_does_not_try() -> None:
    weak = replace(FEATURES, effective_capabilities=0)
    assert "CAPBSET" not in lower(SPEC, weak, ()).describe()


def test_capability_names_are_the_kernels() -> None:
    assert len(capabilities.NUMBERS) == 41
    assert capabilities.NUMBERS["CAP_CHECKPOINT_RESTORE"] == 40
    assert capabilities.NUMBERS["CAP_SYS_ADMIN"] == 21
    with pytest.raises(KeyError):
        capabilities.mask(("CAP_NONSENSE",))


# --- the command ---


def _tried(plan: Plan) -> list[tuple[str, tuple[int, ...]]]:
    steps = [step for step in plan.steps if step.syscall in ("check_executable", "execve")]
    assert [s.syscall for s in steps] == ["check_executable", "execve"] * (len(steps) // 2)
    assert [s.arguments[0] for s in steps[::2]] == [s.arguments[0] for s in steps[1::2]]
    assert [s.accept for s in steps[::2]] == [s.accept for s in steps[1::2]]
    return [(str(step.arguments[0]), step.accept) for step in steps[1::2]]


def test_folders_of_path_are_tried_in_order() -> None:
    missing = (errno.ENOENT, errno.ENOTDIR, errno.EACCES, errno.EISDIR)
    plan = lowered(environment={"PATH": "/one:/two::/three"})
    assert _tried(plan) == [
        ("/one/true", missing), ("/two/true", missing), ("./true", missing), ("/three/true", ()),
    ]  # fmt: skip


def test_a_path_is_taken_as_it_is() -> None:
    for program in ("/bin/true", "./true", "bin/true"):
        assert _tried(lowered(command=(program, "x"))) == [(program, ())]


def test_without_path_dockers_counts() -> None:
    tried = _tried(lowered(environment={}))
    assert [path for path, _ in tried][:2] == ["/usr/local/sbin/true", "/usr/local/bin/true"]
    assert len(tried) == 6


def test_argv_and_environment() -> None:
    plan = lowered(command=("/x", "a b", ""), environment={"A": "1", "B": "=2="})
    assert plan.steps[-1].arguments[1:] == (
        Strings(("/x", "a b", "")), Strings(("A=1", "B==2="))
    )  # fmt: skip


# --- printing and hashing ---


def test_describe_prints_every_step_with_its_reason() -> None:
    plan = lowered(user=User(7, 8), working_directory="/w")
    lines = plan.describe().splitlines()
    assert len(lines) == len(plan.steps) + 1
    assert all("  # " in line for line in lines[1:])
    text = plan.describe()
    for line in (
        'mount("proc", "/proc", "proc", MS_NOSUID|MS_NODEV|MS_NOEXEC, NULL)  # mount proc on /proc',
        'mkdirat(AT_FDCWD, "/proc", 0755)  # make folder /proc or EEXIST',
        "umask(0022)  # set the file mode mask",
        "close_range(3, ~0U, 0)  # close all other descriptors",
        "unshare(CLONE_NEWCGROUP)  # make a cgroup namespace",
        "setuid(7)  # set user 7",
        'execve("/bin/true", ["true"], ["PATH=/bin"])  # execute true',
        "take CAP_SYS_ADMIN out of the bounding set",
        'mknodat(AT_FDCWD, "/dev/null", S_IFCHR|0666, makedev(1, 3))',
    ):
        assert line in text


def test_describe_quotes() -> None:
    step = Step("chdir", ('a"b\\c\nd\udcff',), "odd")
    text = Plan(0, (step,), 0).describe()
    assert 'chdir("a\\"b\\\\c\\nd\\udcff")' in text
    assert text.startswith("clone3({flags=0})\n")


def test_sha256_tells_plans_apart() -> None:
    assert lowered().sha256() == lowered().sha256()
    assert len({
        plan.sha256()
        for plan in (lowered(), lowered(hostname="x"), lowered(read_only_root=True),
                     lowered(command=("false",)), lowered(namespaces=frozenset({Namespace.PID})))
    }) == 5  # fmt: skip
    assert len(lowered(command=("\udcff",)).sha256()) == 64


# --- encoding: what both launchers read ---


def _unpack(step: Step) -> tuple[int, int, int, list[int], list[int]]:
    record, _ = _encode_step(step)
    number, slot, from_slot, *rest = STEP.unpack(record)
    return number, slot, from_slot, rest[:5], rest[5:]


def test_encode_numbers_and_slots() -> None:
    step = Step("openat2", (ResultSlot(3), -100, None, 24), "x", (2, 20), result=5)
    number, slot, from_slot, accept, words = _unpack(step)
    assert number == abi.SYSCALL_NUMBERS["openat2"]
    assert slot == 5
    assert from_slot == 0b1
    assert accept == [2, 20, 0, 0, 0]
    assert words == [3, 2**64 - 100, 0, 24, 0, 0]


def test_encode_memory() -> None:
    data = struct.pack("@2Q", 1, 2)
    step = Step(
        "mount", ("ü\udcff", PackedBytes(data, "{}"), Strings(("a", "bc")), Strings(())), "x"
    )
    record, memory = _encode_step(step)
    words = STEP.unpack(record)[-6:]
    assert ctypes.string_at(words[0]) == "ü".encode() + b"\xff"
    assert ctypes.string_at(words[1], len(data)) == data
    array = (ctypes.c_uint64 * 3).from_address(words[2])
    assert [ctypes.string_at(address) for address in array[:2]] == [b"a", b"bc"]
    assert array[2] == 0
    assert ctypes.c_uint64.from_address(words[3]).value == 0
    assert len(memory) == 6


def test_encode_the_composite_operation() -> None:
    assert _unpack(Step("check_executable", ("/x",), "x"))[:2] == (abi.CHECK_EXECUTABLE, -1)


def test_a_nul_byte_cannot_be_encoded() -> None:
    with pytest.raises(ContainerError, match="NUL"):
        _encode_step(Step("chdir", ("a\0b",), "x"))


def test_every_step_of_a_plan_has_a_number_here() -> None:
    plan = lowered(
        volumes=(Volume("/s", "/t", is_directory=False),), user=User(1, 1), read_only_root=True,
        stdio=(5, 6, 7), network=NetworkSpec("join", 3), entry=(9,),
    )  # fmt: skip
    for step in plan.steps:
        _encode_step(step)


def test_structs_have_the_kernels_sizes() -> None:
    assert abi.clone_args.size == 88  # CLONE_ARGS_SIZE_VER2
    assert abi.open_how.size == 24
    assert abi.mount_attr.size == 32
    assert abi.ifreq_flags.size == 40
    assert abi.cap_data.size == 24
    assert abi.kernel_sigaction.size == 32
    assert stat.S_IFCHR == abi.S_IFCHR
