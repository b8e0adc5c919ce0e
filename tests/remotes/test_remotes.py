"""Round trips over each kind of remote: push, a new clone, pull; nothing is trained again."""

import getpass
import importlib.util
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import boto3
import pytest
from moto.server import ThreadedMotoServer

from tests.clones import Clone, stages_run

pytestmark = pytest.mark.minutes
SSHD = shutil.which("sshd", path=f"{os.environ['PATH']}:/usr/sbin")
# Over SSH only where Debian's openssh-server and dvc-ssh are: CI does not ask for them.
KINDS = ["folder", "s3", *(["ssh"] if SSHD and importlib.util.find_spec("dvc_ssh") else [])]
KEYS = {"access_key_id": "test", "secret_access_key": "test"}


@contextmanager
def folder_remote(folder: Path) -> Iterator[dict[str, str]]:
    yield {"url": str(folder / "storage")}


@contextmanager
def s3_remote(_: Path) -> Iterator[dict[str, str]]:
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    endpoint = f"http://{host}:{port}"
    keys = {f"aws_{key}": value for key, value in KEYS.items()}
    client = boto3.client("s3", endpoint_url=endpoint, region_name="us-east-1", **keys)
    client.create_bucket(Bucket="cordel-test")
    try:
        yield {"url": "s3://cordel-test/cordel", "endpointurl": endpoint, **KEYS}
    finally:
        server.stop()


@contextmanager
def ssh_remote(folder: Path) -> Iterator[dict[str, str]]:
    for name in ("host", "user"):
        subprocess.run(["ssh-keygen", "-qt", "ed25519", "-N", "", "-f", folder / name], check=True)
    port = free_port()
    options = {
        "AuthorizedKeysFile": folder / "user.pub",
        "ListenAddress": "127.0.0.1",
        "PidFile": "none",
        "StrictModes": "no",
        "Subsystem": "sftp internal-sftp",
        "UsePAM": "no",
    }
    words = [f"-o{key}={value}" for key, value in options.items()]
    command = [str(SSHD), "-De", "-f", "/dev/null", "-p", str(port), "-h", str(folder / "host")]
    server = subprocess.Popen([*command, *words], stderr=subprocess.DEVNULL)
    try:
        wait_for(port)
        url = f"ssh://{getpass.getuser()}@127.0.0.1:{port}{folder}/storage"
        yield {"url": url, "keyfile": str(folder / "user")}
    finally:
        server.terminate()
        server.wait()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def wait_for(port: int) -> None:
    for _ in range(100):
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.1)
    raise AssertionError(f"nothing listens on port {port}")


SERVERS = {"folder": folder_remote, "s3": s3_remote, "ssh": ssh_remote}


class Author:
    """Somebody whose results are on a remote."""

    def __init__(self, clone: Clone, folder: Path, remote: dict[str, str]) -> None:
        self.clone, self.folder, self.remote = clone, folder, remote
        clone.add_remote(**remote)
        self.pushed = clone.run("dvc", "push")

    def newcomer(self, name: str) -> Clone:
        """Return a new clone of the author's branch, which has no data yet."""
        clone = Clone(self.folder / name, source=self.clone.root)
        clone.add_remote(**self.remote)
        return clone


@pytest.fixture(scope="module", params=KINDS)
def author(
    request: pytest.FixtureRequest, smoke: Clone, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Author]:
    folder = tmp_path_factory.mktemp(request.param)
    with SERVERS[request.param](folder) as remote:
        yield Author(smoke.copy(folder / "author"), folder, remote)


def test_a_second_push_has_nothing_to_send(author: Author) -> None:
    assert "files pushed" in author.pushed
    assert "Everything is up to date" in author.clone.run("dvc", "push")


def test_a_newcomer_pulls_everything_and_reruns_nothing(author: Author) -> None:
    newcomer = author.newcomer("newcomer")
    newcomer.run("dvc", "pull")
    assert stages_run(newcomer.run("dvc", "repro")) == set()
    assert "up to date" in newcomer.run("dvc", "status")
    model = "data/models/v7/model.safetensors"
    assert (newcomer.root / model).read_bytes() == (author.clone.root / model).read_bytes()


def test_a_newcomer_without_data_reruns_and_downloads_nothing(author: Author) -> None:
    newcomer = author.newcomer("without-data")
    assert stages_run(newcomer.run("dvc", "repro", "--pull", "--allow-missing")) == set()
    assert not (newcomer.root / "data/models").exists()
