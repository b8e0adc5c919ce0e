"""The verb publish against a hub on loopback that speaks the endpoints which the client uses."""

import base64
import json
import os
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from hashlib import sha256
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import yaml
from huggingface_hub import DatasetCard, ModelCard

from cordel import publishing
from cordel.publishing import describe, folders_of, read_publication, refusal
from cordel.runtime.errors import ArtifactError, InputError

pytestmark = pytest.mark.usefixtures("folder")
TOKEN = "hf_" + "k" * 34
LICENCE = {"license": "apache-2.0", "gated": False, "note": "Ours."}
ADAPTER = {"base_model_name_or_path": "data/export/v7", "r": 2}


class Hub(ThreadingHTTPServer):
    """Repositories in memory. ``fault``: 401, 403, 500, or the name of what cuts the connection."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.repositories: dict[str, dict[str, Any]] = {}
        self.blobs: dict[str, bytes] = {}
        self.tokens: set[str | None] = set()
        self.asked: list[str] = []
        self.fault: int | str | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class Handler(BaseHTTPRequestHandler):
    """What the client asks of a hub: create, look, where to, upload, commit."""

    server: Hub
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
        """Say nothing."""

    def handle_one(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        hub, path = self.server, self.path.split("?")[0]
        hub.asked.append(f"{self.command} {path}")
        hub.tokens.add(self.headers.get("Authorization"))
        if isinstance(hub.fault, int):
            self.answer({"error": "nobody knows you"}, hub.fault)
        elif hub.fault and hub.fault in path:
            self.close_connection = True
            self.connection.close()
        elif path == "/api/repos/create":
            asked = json.loads(body)
            name = f"{asked.get('organization')}/{asked['name']}"
            hidden = asked.get("visibility") == "private"
            new = {"private": hidden, "files": {}, "type": asked.get("type")}
            status = 409 if name in hub.repositories else 200
            hub.repositories.setdefault(name, new)
            self.answer({"url": f"{hub.url}/{name}", "name": name}, status)
        elif path == "/api/validate-yaml":
            self.answer({"errors": [], "warnings": []})
        elif path.startswith("/blob/"):
            hub.blobs[path.removeprefix("/blob/")] = body
            self.answer({})
        elif path.endswith("/info/lfs/objects/batch"):
            self.answer({"transfer": "basic", "objects": [self.place(o) for o in parsed(body)]})
        elif "/preupload/" in path:
            self.answer({"files": [self.mode(file) for file in json.loads(body)["files"]]})
        elif "/commit/" in path:
            self.commit(path, body)
        elif (name := "/".join(path.split("/")[3:5])) not in hub.repositories:
            self.answer({"error": "no such repository"}, 404)
        else:
            found = {"id": name, "private": hub.repositories[name]["private"], "sha": "0" * 40}
            self.answer(found | {"siblings": [], "tags": [], "downloads": 0, "likes": 0})

    do_GET = do_POST = do_PUT = handle_one  # noqa: N815  (http.server's names)

    def place(self, wanted: dict[str, Any]) -> dict[str, Any]:
        upload = {"href": f"{self.server.url}/blob/{wanted['oid']}", "header": {}}
        return wanted | {"actions": {"upload": upload}}

    def mode(self, file: dict[str, Any]) -> dict[str, Any]:
        large = file["path"].endswith((".safetensors", ".parquet"))
        mode = "lfs" if large else "regular"
        return {"path": file["path"], "uploadMode": mode, "shouldIgnore": False, "oid": None}

    def commit(self, path: str, body: bytes) -> None:
        name = "/".join(path.split("/")[3:5])
        files = self.server.repositories[name]["files"]
        for line in map(json.loads, body.splitlines()):
            value = line["value"]
            if line["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            if line["key"] == "lfsFile":
                files[value["path"]] = self.server.blobs[value["oid"]]
        url = f"{self.server.url}/{name}/commit/1"
        self.answer({"commitUrl": url, "commitOid": "1" * 40, "success": True})

    def answer(self, value: dict[str, Any], status: int = 200) -> None:
        data = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)


def parsed(body: bytes) -> list[dict[str, Any]]:
    return json.loads(body)["objects"]


@pytest.fixture
def hub() -> Iterator[Hub]:
    """Return a running hub."""
    with Hub() as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a project with one model, one adapter, its merged form and one corpus."""
    monkeypatch.chdir(tmp_path)
    licences = dict.fromkeys(("corpus", "instructions", "base", "instruct"), LICENCE)
    write("params.yaml", yaml.safe_dump({"cards": licences}))
    front = '---\nlanguage: pt\n---\n\n# {}\n\nload("OWNER/NAME")\n'
    based = "---\nbase_model: data/export/v7\nbase_model_relation: adapter\n---\n\n"
    based += "Of `data/export/v7`.\n"
    for name, card in (("v7", front), ("sft", based), ("sft_merged", based), ("prose", front)):
        write(f"data/cards/{name}/README.md", card.format(name))
    write("data/export/v7/model.safetensors", "weights of v7")
    write("data/export/v7/config.json", "{}\n")
    write("data/export/v7/.hidden", "")
    write("data/base/base/base.json", "{}")
    write("data/base/base/tokenizer.json", "{}\n")
    write("data/adapters/sft/adapter_model.safetensors", "matrices")
    write("data/adapters/sft/adapter_config.json", json.dumps(ADAPTER))
    write("data/export/sft/merged/model.safetensors", "all weights")
    write("data/clean/prose/train.parquet", "documents")
    monkeypatch.setattr(publishing, "read_pipeline", lambda: {})
    monkeypatch.setattr(publishing, "stale_stages", set)
    return tmp_path


def write(path: str, text: str) -> None:
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    Path(path).write_text(text, "utf-8")


def cordel(*words: str, hub: Hub, token: str | None = TOKEN) -> subprocess.CompletedProcess[str]:
    """Run the verb as a user does, but for DVC: what is stale is tested apart."""
    code = (
        "import sys; from cordel import cli, publishing; publishing.read_pipeline = dict; "
        "publishing.stale_stages = set; sys.argv = ['cordel', *sys.argv[1:]]; cli.main()"
    )
    kept = {k: v for k, v in os.environ.items() if not k.startswith("HF_")}
    more = {"HF_ENDPOINT": hub.url, "HF_HOME": str(Path.cwd() / "hf"), "HF_HUB_DISABLE_XET": "1"}
    source = str(Path(publishing.__file__).parents[1])
    environment = kept | more | ({"HF_TOKEN": token} if token else {})
    environment["PYTHONPATH"] = os.pathsep.join([source, kept.get("PYTHONPATH", "")])
    return subprocess.run(
        [sys.executable, "-c", code, "publish", *words],
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def said(done: subprocess.CompletedProcess[str]) -> str:
    """Return the one line of an error."""
    assert done.returncode == 1, done.stderr
    assert "Traceback" not in done.stderr
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert TOKEN not in done.stderr + done.stdout
    return line


@pytest.mark.slow
def test_nothing_is_sent_unless_asked_for(hub: Hub) -> None:
    done = cordel("v7", "--to", "maria/v7", hub=hub)
    assert done.returncode == 0, done.stderr
    assert hub.asked == []
    assert re.search(r"v7: a model repository of the hub \(maria/v7, public\)", done.stdout)
    assert "| model.safetensors | 0.0 kB |" in done.stdout
    assert "language: pt" in done.stdout
    assert "| documents | apache-2.0 | Ours. |" in done.stdout
    assert "nothing was sent" in done.stderr


@pytest.mark.slow
def test_a_model_arrives_with_its_card(folder: Path, hub: Hub) -> None:
    done = cordel("v7", "--to", "maria/v7", "--yes", hub=hub)
    assert done.returncode == 0, done.stderr
    repository = hub.repositories["maria/v7"]
    assert not repository["private"]
    assert repository["files"].keys() == {"README.md", "config.json", "model.safetensors"}
    assert repository["files"]["model.safetensors"] == b"weights of v7"
    assert b'load("maria/v7")' in repository["files"]["README.md"]
    assert list(hub.blobs) == [sha256(b"weights of v7").hexdigest()]
    assert f"Bearer {TOKEN}" in hub.tokens
    assert hub.asked[0] == "POST /api/repos/create"  # and nothing that reports on its user
    assert TOKEN not in done.stdout + done.stderr
    assert sorted(path.name for path in (folder / "data/export/v7").iterdir()) == [
        ".hidden",
        "config.json",
        "model.safetensors",
    ]


@pytest.mark.slow
def test_an_adapter_names_its_base_as_the_hub_knows_it(hub: Hub) -> None:
    words = ("sft", "--to", "maria/sft", "--base", "maria/v7", "--private", "--yes")
    done = cordel(*words, hub=hub)
    assert done.returncode == 0, done.stderr
    files = hub.repositories["maria/sft"]["files"]
    assert files.keys() == {
        "README.md",
        "adapter_config.json",
        "adapter_model.safetensors",
        "tokenizer.json",
    }
    assert json.loads(files["adapter_config.json"]) == ADAPTER | {
        "base_model_name_or_path": "maria/v7"
    }
    card = ModelCard(files["README.md"].decode())
    assert card.data.base_model == "maria/v7"
    assert card.text.strip() == "Of `maria/v7`."
    assert hub.repositories["maria/sft"]["private"]


@pytest.mark.slow
def test_a_corpus_goes_to_a_repository_of_data(hub: Hub) -> None:
    assert cordel("prose", "--to", "maria/prose", "--yes", hub=hub).returncode == 0
    repository = hub.repositories["maria/prose"]
    assert repository["type"] == "dataset"
    assert repository["files"]["train.parquet"] == b"documents"
    assert DatasetCard(repository["files"]["README.md"].decode()).data["language"] == "pt"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("fault", "message"),
    [
        (401, r"maria/v7: the hub .*401.*hf auth login.*HF_TOKEN"),
        (403, r"maria/v7: the hub refuses \(403, .*hf auth login"),
        ("repos/create", r"maria/v7: the connection failed .*nothing was committed"),
        ("commit", r"maria/v7: the connection failed .*nothing was committed"),
    ],
)
def test_what_the_hub_has_against_it_is_one_line(hub: Hub, fault: int | str, message: str) -> None:
    hub.fault = fault
    line = said(cordel("v7", "--to", "maria/v7", "--yes", hub=hub))
    assert re.search(message, line), line
    assert all(not repository["files"] for repository in hub.repositories.values())


@pytest.mark.slow
def test_without_a_token_nobody_is_asked(hub: Hub) -> None:
    line = said(cordel("v7", "--to", "maria/v7", "--yes", hub=hub, token=None))
    assert "hf auth login" in line
    assert hub.asked == []


@pytest.mark.slow
def test_a_public_repository_does_not_become_private(hub: Hub) -> None:
    hub.repositories["maria/v7"] = {"private": False, "files": {}, "type": "model"}
    line = said(cordel("v7", "--to", "maria/v7", "--private", "--yes", hub=hub))
    assert "maria/v7 is there already, and public; nothing was sent" in line
    assert hub.repositories["maria/v7"]["files"] == {}


def licensed(**changed: Any) -> None:
    params = yaml.safe_load(Path("params.yaml").read_text("utf-8"))
    params["cards"] |= {key: LICENCE | value for key, value in changed.items()}
    write("params.yaml", yaml.safe_dump(params))


@pytest.mark.parametrize(
    ("name", "refused"), [("sft_merged", "holds the weights of a gated base"), ("sft", None)]
)
def test_weights_of_a_gated_base_stay_private(name: str, refused: str | None) -> None:
    licensed(base={"gated": True, "license": "llama3.1"})
    found = read_publication(name, base="maria/v7")
    why = refusal(found, private=False)
    assert (refused in why) if refused and why else why is refused
    assert refusal(found, private=True) is None
    assert "llama3.1, gated" in describe(found, to=None, private=False)


def test_text_of_an_unknown_licence_stays_private() -> None:
    licensed(corpus={"license": "unknown"})
    found = read_publication("prose")
    assert "cards.corpus.license" in (refusal(found, private=False) or "")
    assert refusal(found, private=True) is None
    assert refusal(read_publication("v7"), private=False) is None  # weights: said in the notices


class Stage:
    """A stage as far as publishing asks."""

    def __init__(self, outs: set[str], upstream: set[str]) -> None:
        self.outs, self.upstream = outs, upstream


STAGES = {
    "train_lm@v7": Stage({"data/models/v7"}, set()),
    "export_model@v7": Stage({"data/export/v7"}, {"train_lm@v7"}),
    "write_cards": Stage({"data/cards"}, set()),
    "render_report": Stage({"reports"}, set()),
}


@pytest.mark.parametrize("stale", ["train_lm@v7", "export_model@v7", "write_cards"])
def test_what_is_stale_is_refused(stale: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(publishing, "read_pipeline", lambda: STAGES)
    monkeypatch.setattr(publishing, "stale_stages", lambda: {"render_report"})
    assert read_publication("v7").name == "v7"
    monkeypatch.setattr(publishing, "stale_stages", lambda: {stale})
    with pytest.raises(ArtifactError, match=f"1 of the stages .* stale .{stale}.; run `dvc repro"):
        read_publication("v7")


@pytest.mark.parametrize(
    ("name", "base", "message"),
    [
        ("nada", None, r"no card of 'nada'; there are: prose, sft, sft_merged, v7"),
        ("../v7", None, r"no card of '\.\./v7'"),
        ("v7", "maria/x", r"v7 stands on no base; leave --base out"),
        ("sft", None, r"sft stands on data/export/v7, a folder of this machine; .*--base"),
        ("sft", "maria", r"'maria' names no repository of the hub, expected OWNER/REPO"),
    ],
)
def test_mistakes_are_named(name: str, base: str | None, message: str) -> None:
    with pytest.raises(InputError, match=message):
        read_publication(name, base=base)


def test_a_missing_out_is_named(folder: Path) -> None:
    (folder / "data/clean/prose").rename(folder / "elsewhere")
    with pytest.raises(ArtifactError, match=r"data/export/prose: no such folder; `dvc pull`"):
        read_publication("prose")


def test_a_merged_model_is_not_looked_for_among_adapters() -> None:
    assert folders_of("sft_merged") == ("model", [Path("data/export/sft/merged")])
    assert folders_of("v7") == ("model", [Path("data/export/v7")])
