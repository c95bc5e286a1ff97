"""Pull and push against docker-registry, with images made and read by other tools."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from runtime.cli.image_transfer import pull, push
from runtime.images import ImageStore
from tests.support.image_tools import (
    NO_TLS_FROM,
    NO_TLS_TO,
    Containers,
    make_root,
    run,
    skopeo_copy,
    skopeo_inspect,
    umoci_layout,
)
from tests.support.registry import (
    INDEX,
    MANIFEST,
    PASSWORD,
    USER,
    FaultyRegistry,
    Handler,
    digest_of,
    docker_registry,
    faulty_registry,
    missing,
)
from tests.support.tars import make_tar, member, tree

reason = missing("docker-registry", "skopeo", "umoci", "buildah", "podman", "zstd")
pytestmark = pytest.mark.skipif(reason is not None, reason=reason or "")
PROJECT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with docker_registry(tmp_path_factory.mktemp("registry")) as address:
        yield address


@pytest.fixture(scope="module")
def layout(tmp_path_factory: pytest.TempPathFactory, registry: str) -> Path:
    """umoci's base and app, pushed as base:1 and app:1."""
    found = umoci_layout(tmp_path_factory.mktemp("umoci"))
    for name in ("base", "app"):
        skopeo_copy(f"oci:{found}:{name}", f"docker://{registry}/{name}:1", NO_TLS_TO)
    return found


@pytest.fixture
def podman() -> Iterator[Containers]:
    with Containers("podman") as found:
        yield found


@pytest.fixture
def buildah() -> Iterator[Containers]:
    with Containers("buildah") as found:
        yield found


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ImageStore:
    """The default store of the commands; no credentials are to be found."""
    for name in ("XDG_RUNTIME_DIR", "XDG_CONFIG_HOME", "DOCKER_CONFIG", "REGISTRY_AUTH_FILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("STEELYARD_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("STEELYARD_REGISTRY", raising=False)
    return ImageStore.default()


def command(which: Any, *arguments: object) -> Result:
    return CliRunner().invoke(which, list(map(str, arguments)), catch_exceptions=False)


def done(which: Any, *arguments: object) -> str:
    result = command(which, *arguments)
    assert result.exit_code == 0, result.output
    return result.output


def allocated_bytes(folder: Path) -> int:
    return int(run("du", "--block-size=1", "-s", folder).split()[0])


def manifest_bytes(store: ImageStore, digest: str) -> bytes:
    return (store.root / "blobs/sha256" / digest.removeprefix("sha256:")).read_bytes()


def test_an_image_of_umoci(registry: str, layout: Path, store: ImageStore, tmp_path: Path) -> None:
    said = done(pull, f"{registry}/base:1").splitlines()
    image = store.get(f"{registry}/base:1")
    short = image.layers[0].digest[7:19]
    assert said == [
        "1: Pulling from base",
        f"{short}: Pulling fs layer",
        f"{short}: Pull complete",
        f"Digest: {image.digest}",
        f"Status: Downloaded newer image for {registry}/base:1",
    ]
    inspected = skopeo_inspect(f"docker://{registry}/base:1", "--tls-verify=false")
    assert image.digest == inspected["Digest"]
    assert image.config.command == ("/bin/sh",)
    expected = tmp_path / "expected"
    run("umoci", "unpack", "--image", f"{layout}:base", expected)
    mine, theirs = tree(image.layers[0].path), tree(expected / "rootfs")
    assert mine == theirs
    assert done(pull, f"{registry}/base:1").splitlines()[1:] == [
        f"Digest: {image.digest}",
        f"Status: Image is up to date for {registry}/base:1",
    ]


def test_a_shared_base_is_there_once(registry: str, layout: Path, store: ImageStore) -> None:
    done(pull, f"{registry}/base:1")
    before = allocated_bytes(store.root)
    said = done(pull, f"{registry}/app:1").splitlines()
    base, app = store.get(f"{registry}/base:1"), store.get(f"{registry}/app:1")
    assert said[1] == f"{base.layers[0].digest[7:19]}: Already exists"
    assert said[2].endswith(": Pulling fs layer")
    assert app.layers[0] == base.layers[0]
    # The base is 3 MB packed and 3 MB unpacked; all that came is one small file.
    assert base.layers[0].allocated_bytes > 3_000_000
    assert 0 < allocated_bytes(store.root) - before < 100_000
    # What the store says of itself agrees with du, but for its own few files.
    usage = store.usage()
    assert 0 <= allocated_bytes(store.root) - usage.total_bytes < 200_000
    assert usage.unneeded_bytes == 0


@pytest.mark.parametrize("packing", ["gzip", "zstd", "plain", "docker-v2s2"])
def test_every_packing(
    registry: str, layout: Path, store: ImageStore, tmp_path: Path, packing: str
) -> None:
    there = f"docker://{registry}/packed:{packing}"
    if packing == "gzip":
        skopeo_copy(f"oci:{layout}:app", there, NO_TLS_TO)
    elif packing == "docker-v2s2":
        skopeo_copy(f"oci:{layout}:app", there, NO_TLS_TO, "--format", "v2s2")
    else:
        folder, packed = tmp_path / "folder", tmp_path / "packed"
        skopeo_copy(f"oci:{layout}:app", f"dir:{folder}", "--dest-decompress")
        if packing == "zstd":
            skopeo_copy(f"dir:{folder}", f"oci:{packed}:app", "--dest-compress-format", "zstd")
        else:
            plain_layout(folder, packed)
        # Otherwise skopeo packs what is plain, and takes a packing that it has seen for another.
        skopeo_copy(f"oci:{packed}:app", there, NO_TLS_TO, "--preserve-digests")
    done(pull, f"{registry}/packed:{packing}")
    image = store.get(f"{registry}/packed:{packing}")
    manifest = json.loads(manifest_bytes(store, image.digest))
    kinds = {layer["mediaType"].rpartition("tar")[2] for layer in manifest["layers"]}
    assert kinds == {{"gzip": "+gzip", "zstd": "+zstd", "plain": ""}.get(packing, ".gzip")}
    assert image.digest == skopeo_inspect(there, "--tls-verify=false")["Digest"]
    done(pull, f"{registry}/app:1")
    # However it was packed, it is the same image below, unpacked once.
    assert [layer.path for layer in image.layers] == [
        layer.path for layer in store.get(f"{registry}/app:1").layers
    ]
    # And packed as it was, it goes out again.
    done(push, f"{registry}/packed:{packing}", f"{registry}/again:{packing}")
    again = skopeo_inspect(f"docker://{registry}/again:{packing}", "--tls-verify=false")
    assert again["Digest"] == image.digest


def plain_layout(folder: Path, target: Path) -> None:
    """An OCI layout of skopeo's decompressed `dir:`, whose layers are left as they are."""
    manifest = json.loads((folder / "manifest.json").read_bytes())
    blobs = target / "blobs/sha256"
    blobs.mkdir(parents=True)
    for layer in [manifest["config"], *manifest["layers"]]:
        name = layer["digest"].removeprefix("sha256:")
        layer["size"] = (folder / name).stat().st_size
        layer["mediaType"] = layer["mediaType"].removesuffix("+gzip")
        (blobs / name).write_bytes((folder / name).read_bytes())
    write_layout(target, manifest, "app")


def write_layout(target: Path, manifest: Any, name: str) -> None:
    data = json.dumps(manifest | {"mediaType": MANIFEST}).encode()
    (target / "blobs/sha256" / digest_of(data)[7:]).write_bytes(data)
    (target / "oci-layout").write_text('{"imageLayoutVersion": "1.0.0"}')
    entry = {
        "mediaType": MANIFEST,
        "digest": digest_of(data),
        "size": len(data),
        "annotations": {"org.opencontainers.image.ref.name": name},
    }
    index = {"schemaVersion": 2, "mediaType": INDEX, "manifests": [entry]}
    (target / "index.json").write_text(json.dumps(index))


def test_an_image_of_buildah(
    registry: str, store: ImageStore, buildah: Containers, tmp_path: Path
) -> None:
    root = make_root(tmp_path / "root", 100_000)
    for style in ("oci", "docker"):
        container = buildah("from", "scratch")
        buildah("add", container, root, "/")
        buildah("config", "--cmd", "/bin/tool", "--env", "A=b", container)
        buildah(
            "commit", "--timestamp", "1600000000", "--format", style, container, f"made:{style}"
        )
        there = f"docker://{registry}/buildah:{style}"
        buildah("push", "--tls-verify=false", f"localhost/made:{style}", there)
        done(pull, f"{registry}/buildah:{style}")
        image = store.get(f"{registry}/buildah:{style}")
        assert image.digest == skopeo_inspect(there, "--tls-verify=false")["Digest"]
        assert image.config.environment["A"] == "b"
        assert (image.layers[0].path / "usr/bin/tool").stat().st_mode & 0o7777 == 0o4755
        # With the same time and files it is the same layer for both formats.
        assert len(list((store.root / "layers/sha256").glob("*.json"))) == 1


def test_peers_pull_what_we_push(
    registry: str, layout: Path, store: ImageStore, podman: Containers, tmp_path: Path
) -> None:
    done(pull, f"{registry}/app:1")
    app = store.get(f"{registry}/app:1")
    said = done(push, f"{registry}/app:1", f"{registry}/team/ours:7").splitlines()
    assert said[0] == f"The push refers to repository [{registry}/team/ours]"
    assert sorted(said[1:-1]) == sorted(f"{layer.digest[7:19]}: Mounted" for layer in app.layers)
    size = len(manifest_bytes(store, app.digest))
    assert said[-1] == f"7: digest: {app.digest} size: {size}"
    again = done(push, f"{registry}/app:1", f"{registry}/team/ours:7")
    assert again.count("Layer already exists") == 2
    # skopeo, and back into a layout.
    copied = tmp_path / "copied"
    skopeo_copy(f"docker://{registry}/team/ours:7", f"oci:{copied}:app", NO_TLS_FROM)
    index = json.loads((copied / "index.json").read_bytes())
    assert [entry["digest"] for entry in index["manifests"]] == [app.digest]
    podman("pull", "--tls-verify=false", f"{registry}/team/ours:7")
    format_ = "{{.Digest}} {{.Config.Cmd}}"
    assert podman("image", "inspect", "--format", format_, f"{registry}/team/ours:7") == (
        f"{app.digest} [/bin/sh]"
    )


def test_an_imported_image_goes_to_a_peer(
    registry: str, store: ImageStore, podman: Containers, tmp_path: Path
) -> None:
    image = store.import_rootfs(make_root(tmp_path / "root", 20 << 20), "mine:2")
    said = done(push, "mine:2", "--registry", registry)
    assert f"{image.layers[0].digest[7:19]}: Pushed" in said
    found = skopeo_inspect(f"docker://{registry}/mine:2", "--tls-verify=false")
    assert found["Digest"] == image.digest
    assert found["Layers"] == [image.layers[0].digest]
    podman("pull", "--tls-verify=false", f"{registry}/mine:2")
    digest = podman("image", "inspect", "--format", "{{.Digest}}", f"{registry}/mine:2")
    assert digest == image.digest


def test_by_digest_and_by_quiet(registry: str, layout: Path, store: ImageStore) -> None:
    digest = skopeo_inspect(f"docker://{registry}/app:1", "--tls-verify=false")["Digest"]
    assert done(pull, f"{registry}/app@{digest}", "--quiet") == f"{registry}/app@{digest}\n"
    assert store.get(f"{registry}/app@{digest}").digest == digest
    wrong = "sha256:" + "0" * 64
    result = command(pull, f"{registry}/app@{wrong}")
    assert result.exit_code == 1
    assert "404 Not Found, manifest unknown" in result.output


def test_a_registry_that_wants_a_login(
    layout: Path,
    store: ImageStore,
    podman: Containers,
    tmp_path: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    with docker_registry(tmp_path_factory.mktemp("login"), login=True) as address:
        skopeo_copy(
            f"oci:{layout}:app",
            f"docker://{address}/app:1",
            NO_TLS_TO,
            f"--dest-creds={USER}:{PASSWORD}",
        )
        result = command(pull, f"{address}/app:1")
        assert result.exit_code == 1
        assert "there are no credentials for it" in result.output
        # podman writes the file, in its own place.
        auth = tmp_path / ".config/containers/auth.json"
        auth.parent.mkdir(parents=True)
        login = ("-u", USER, "-p", PASSWORD, address)
        podman("login", "--tls-verify=false", "--authfile", auth, *login)
        assert "Downloaded newer image" in done(pull, f"{address}/app:1")
        assert "digest: sha256:" in done(push, f"{address}/app:1", f"{address}/team/app:2")
        auth.write_text(auth.read_text().replace("dGVzdGVy", "dGVzdGVz"))
        result = command(pull, f"{address}/app:1")
        assert result.exit_code == 1
        assert "do not suffice" in result.output


@pytest.mark.parametrize("docker", [False, True])
def test_indexes_of_both_families(
    registry: str, store: ImageStore, buildah: Containers, tmp_path: Path, docker: bool
) -> None:
    """Made by buildah: a list with one image for us and one for another processor."""
    style = "docker" if docker else "oci"
    buildah("manifest", "create", "many")
    digests = {}
    for architecture in ("s390x", "amd64", "arm64"):
        container = buildah("from", "scratch")
        (tmp_path / architecture).write_text(architecture)
        buildah("add", container, tmp_path / architecture, "/which")
        buildah("config", "--arch", architecture, container)
        name = f"localhost/made:{architecture}"
        buildah("commit", "--format", style, container, name)
        there = f"docker://{registry}/many:{style}-{architecture}"
        buildah("push", "--tls-verify=false", name, there)
        digests[architecture] = skopeo_inspect(there, "--tls-verify=false")["Digest"]
        buildah("manifest", "add", "--tls-verify=false", "many", there)
    kind = "v2s2" if docker else "oci"
    there = f"docker://{registry}/many:{style}"
    buildah("manifest", "push", "--tls-verify=false", "--format", kind, "--all", "many", there)
    for architecture, arguments in (
        ("amd64", ["--platform", "linux/amd64"]),
        ("arm64", ["--platform", "linux/arm64/v8"]),
    ):
        said = done(pull, f"{registry}/many:{style}", *arguments)
        image = store.get(f"{registry}/many:{style}")
        assert image.digest == digests[architecture]
        assert image.digest not in said
        assert store.read_file(image, "/which") == architecture.encode()
    # By the digest of the index: as asked for, it is found again, and so is the image's own.
    raw = run("skopeo", "inspect", "--raw", "--tls-verify=false", there)
    index = "sha256:" + hashlib.sha256(raw.encode()).hexdigest()
    for _ in range(2):
        said = done(pull, f"{registry}/many@{index}", "--platform", "linux/amd64")
        assert f"Digest: {index}" in said
    assert "Image is up to date" in said
    assert store.get(f"{registry}/many@{index}").digest == digests["amd64"]
    assert store.get(f"{registry}/many@{digests['amd64']}").digest == digests["amd64"]
    result = command(pull, f"{registry}/many:{style}", "--platform", "linux/riscv64")
    assert result.exit_code == 1
    assert "has no image for linux/riscv64; it has: linux/amd64, linux/arm64" in result.output
    result = command(pull, f"{registry}/many:{style}-s390x", "--platform", "linux/amd64")
    assert result.exit_code == 1
    assert "is one image, for linux/s390x, not linux/amd64" in result.output


# Faults on the way into the store; the server is ours.


@pytest.fixture
def faulty() -> Iterator[FaultyRegistry]:
    with faulty_registry() as found:
        yield found


def nothing_half_made(store: ImageStore) -> None:
    assert os.listdir(store.root / "tmp") == []
    assert store.verify() == ()


TAR = make_tar(member("etc/file", data=b"x" * 300_000))


def test_a_broken_connection_is_taken_up(faulty: FaultyRegistry, store: ImageStore) -> None:
    faulty.add_image("app", "1", TAR)
    broken = []

    def fault(handler: Handler) -> bool:
        if "/blobs/" not in handler.path or len(handler.registry.blobs) == len(broken):
            return False
        data = handler.registry.blobs[handler.path.rpartition("/")[2]]
        if handler.path in broken or len(data) < 1000:
            return False
        broken.append(handler.path)
        handler.send_response(200)
        handler.send_header("Content-Length", str(len(data)))
        handler.end_headers()
        handler.wfile.write(data[:100_000])
        handler.break_off()
        return True

    faulty.faults.append(fault)
    done(pull, f"{faulty.address}/app:1")
    (request,) = [r for r in faulty.requests if "Range" in r.headers]
    assert request.headers["Range"] == "bytes=100000-"
    image = store.get(f"{faulty.address}/app:1")
    assert store.read_file(image, "etc/file") == b"x" * 300_000


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        ("blob", "unpacks to"),
        ("size", "its descriptor says"),
        ("diff id", "unpacks to"),
        ("cut short", "cut short|its descriptor says"),
        ("config", "is not sha256:"),
        ("no config", "404 Not Found"),
        ("no blob", "404 Not Found"),
        ("escape", r"\.\."),
        ("not json", "is not JSON"),
        ("other image", "two different things"),
    ],
)
def test_what_is_not_what_it_claims_to_be(
    faulty: FaultyRegistry, store: ImageStore, fault: str, said: str
) -> None:
    other = make_tar(member("good", data=b"y" * 1000))
    tar = make_tar(member("../../escaped", data=b"x")) if fault == "escape" else TAR
    faulty.add_image("app", "1", other, tar)
    kind, data = faulty.manifests["app", "1"]
    document = json.loads(data)
    layer = document["layers"][1]
    config = document["config"]
    if fault == "blob":
        faulty.blobs[layer["digest"]] = TAR[:-1] + b"\1"
    elif fault == "size":
        layer["size"] += 1
    elif fault == "diff id":
        faulty.add_image("app", "1", other, TAR, config={
            "rootfs": {"type": "layers", "diff_ids": ["sha256:" + "0" * 64] * 2}})  # fmt: skip
        document = json.loads(faulty.manifests["app", "1"][1])
    elif fault == "cut short":
        layer["size"] = 5000
        layer["digest"] = faulty.add_blob(TAR[:5000])
    elif fault == "config":
        faulty.blobs[config["digest"]] = b"{" + b" " * (config["size"] - 2) + b"}"
    elif fault == "no config":
        del faulty.blobs[config["digest"]]
    elif fault == "no blob":
        del faulty.blobs[layer["digest"]]
    elif fault == "not json":
        config["digest"], config["size"] = faulty.add_blob(b"hello"), 5
    elif fault == "other image":
        document["layers"][0] = layer
    faulty.add_manifest("app", "1", document, kind)
    result = command(pull, f"{faulty.address}/app:1")
    assert result.exit_code == 1, result.output
    message = result.output.splitlines()[-1]
    assert message.startswith("steelyard: ")
    assert re.search(said, message), message
    assert store.images() == ()
    nothing_half_made(store)
    assert not list(store.root.parent.rglob("escaped"))


def test_a_layer_under_a_false_diff_id_is_found_out(
    faulty: FaultyRegistry, store: ImageStore
) -> None:
    """Blob and diff ID are both there, but they do not belong together."""
    other = make_tar(member("other", data=b"y"))
    faulty.add_image("app", "1", TAR, other)
    done(pull, f"{faulty.address}/app:1")
    document = json.loads(faulty.manifests["app", "1"][1])
    config = json.loads(faulty.blobs[document["config"]["digest"]])
    config["rootfs"]["diff_ids"].reverse()
    data = json.dumps(config).encode()
    document["config"] |= {"digest": faulty.add_blob(data), "size": len(data)}
    faulty.add_manifest("app", "2", document)
    result = command(pull, f"{faulty.address}/app:2")
    assert result.exit_code == 1
    assert "but its image says" in result.output


@pytest.mark.parametrize("how", ["cut short", "no blob", "no layer", "both"])
def test_a_pull_repairs_what_is_damaged(
    faulty: FaultyRegistry, store: ImageStore, how: str
) -> None:
    faulty.add_image("app", "1", TAR)
    done(pull, f"{faulty.address}/app:1")
    (layer,) = store.get(f"{faulty.address}/app:1").layers
    blob = store.root / "blobs/sha256" / layer.digest[7:]
    if how in ("no layer", "both"):
        shutil.rmtree(layer.path)
    if how == "both":
        blob.write_bytes(b"x" * layer.size_bytes)
    elif how == "cut short":
        blob.write_bytes(b"x")
    elif how == "no blob":
        blob.unlink()
    assert store.verify() != ()
    # Another image with the same layer: one that has its name and is all there is left alone.
    faulty.add_image("app", "2", TAR, config={"config": {"Cmd": ["other"]}})
    said = done(pull, f"{faulty.address}/app:2")
    assert f"{layer.digest[7:19]}: Pull complete" in said
    nothing_half_made(store)


PULL = "import sys\nfrom runtime.cli.image_transfer import pull\npull(sys.argv[1:])"


def start_pull(reference: str, **options: Any) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", PULL, reference],
        cwd=PROJECT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, **options,
    )  # fmt: skip


def test_killed_at_any_moment(faulty: FaultyRegistry, store: ImageStore) -> None:
    """STEELYARD_KILLS says how often; each time the next pull starts from what is there."""
    tars = [make_tar(member(f"f{n}", data=bytes([n]) * 2_000_000)) for n in range(6)]
    faulty.add_image("app", "1", *tars)
    faulty.faults.append(lambda handler: bool("/blobs/" in handler.path and time.sleep(0.02)))
    rounds = int(os.environ.get("STEELYARD_KILLS", "4"))
    moments = random.Random(rounds)
    survived = 0
    for number in range(rounds):
        process = start_pull(f"{faulty.address}/app:1")
        with process:
            assert process.stdout is not None
            process.stdout.readline()
            time.sleep(moments.random() * 0.3)
            process.send_signal(signal.SIGKILL)
            said = process.stdout.read()
        assert "Traceback" not in said
        survived += process.returncode == 0
        assert store.verify() == ()
        if number % 5 == 4:
            shutil.rmtree(store.root)
    assert survived < rounds
    assert "Error" not in done(pull, f"{faulty.address}/app:1")
    assert len(store.get(f"{faulty.address}/app:1").layers) == 6
    nothing_half_made(store)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_interrupted(faulty: FaultyRegistry, store: ImageStore, number: signal.Signals) -> None:
    """While a server keeps silent: it ends at once, and says nothing confusing."""
    faulty.add_image("app", "1", TAR)
    waiting, released = threading.Event(), threading.Event()

    def silent(handler: Handler) -> bool:
        if "/blobs/" in handler.path and len(handler.registry.seen("GET", "/blobs/")) > 1:
            waiting.set()
            released.wait(30)
        return False

    faulty.faults.append(silent)
    with start_pull(f"{faulty.address}/app:1") as process:
        assert waiting.wait(20)
        process.send_signal(number)
        out, _ = process.communicate(timeout=10)
    released.set()
    assert process.returncode == (1 if number == signal.SIGINT else -number)
    assert "Traceback" not in out
    if number == signal.SIGINT:
        assert os.listdir(store.root / "tmp") == []
    assert store.images() == ()


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting a small filesystem needs root")
def test_the_disk_is_full(
    faulty: FaultyRegistry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = random.Random(1).randbytes(6 << 20)
    faulty.add_image(
        "app", "1", make_tar(member("first", data=b"x")), make_tar(member("f", data=data))
    )
    home = tmp_path / "full"
    home.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=8m", "none", home], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip(f"mount: {mounted.stderr.decode()}")
    try:
        monkeypatch.setenv("STEELYARD_HOME", str(home))
        monkeypatch.setenv("HOME", str(tmp_path))
        result = command(pull, f"{faulty.address}/app:1")
        assert result.exit_code == 1
        assert result.output.splitlines()[-1].startswith("steelyard: ")
        assert "No space left on device" in result.output
        store = ImageStore.default()
        assert store.images() == ()
        nothing_half_made(store)
        run("mount", "-o", "remount,size=32m", home)
        # What was complete is still there.
        assert done(pull, f"{faulty.address}/app:1").count("Already exists") == 1
    finally:
        run("umount", home)


def test_bars_on_a_terminal(faulty: FaultyRegistry, store: ImageStore) -> None:
    digest = faulty.add_image("app", "1", TAR)
    master, slave = os.openpty()
    process = subprocess.Popen(
        [sys.executable, "-c", PULL, f"{faulty.address}/app:1"],
        cwd=PROJECT, stdin=slave, stdout=slave, stderr=slave,
        env={**os.environ, "TERM": "xterm-256color", "COLUMNS": "120"},
    )  # fmt: skip
    os.close(slave)
    said = b""
    # A terminal that nobody holds any more reads as EIO.
    with contextlib.suppress(OSError):
        while data := os.read(master, 4096):
            said += data
    os.close(master)
    assert process.wait() == 0
    text = said.decode()
    short = store.get(f"{faulty.address}/app:1").layers[0].digest[7:19]
    assert f"{short}: Pull complete" in text
    assert "━" in text
    assert f"Digest: {digest}" in text


def test_two_at_once(faulty: FaultyRegistry, store: ImageStore) -> None:
    tars = [make_tar(member(f"f{n}", data=bytes([n]) * 1_000_000)) for n in range(4)]
    faulty.add_image("app", "1", *tars)
    both = [start_pull(f"{faulty.address}/app:1") for _ in range(2)]
    for process in both:
        out, _ = process.communicate(timeout=60)
        assert process.returncode == 0, out
    assert len(store.get(f"{faulty.address}/app:1").layers) == 4
    nothing_half_made(store)


def test_a_name_without_registry(
    registry: str, layout: Path, store: ImageStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    result = command(pull, "app:1")
    assert result.exit_code == 1
    assert "names no registry, and none is assumed" in result.output
    assert "STEELYARD_REGISTRY" in result.output
    monkeypatch.setenv("STEELYARD_REGISTRY", registry)
    assert f"Downloaded newer image for {registry}/app:1" in done(pull, "app:1")
    result = command(pull, "app:1", "--registry", "nohost")
    assert result.exit_code == 1
    assert "'nohost' is no registry" in result.output
