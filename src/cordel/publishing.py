"""Push a model, an adapter or a corpus of this project to the Hugging Face hub, with its card.

Nothing is sent unless asked for, and never what is stale, what lacks its card, or what its owners
do not let others spread. The token is the user's own: the hub's client finds it, and sends it.
"""

import json
import logging
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal

from httpx2 import HTTPError
from huggingface_hub import DatasetCard, HfApi, ModelCard, constants, get_token
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    RepositoryNotFoundError,
)

from cordel.pipeline import read_pipeline, stale_stages
from cordel.reporting.cards.render import REPOSITORY, CardParams, Licence, base_of_arm
from cordel.reporting.markdown import markdown_table
from cordel.runtime.errors import ArtifactError, EnvironmentProblem, InputError
from cordel.runtime.files import read_json, reading
from cordel.runtime.params import read_params

CARDS = Path("data/cards")
CONFIG = "adapter_config.json"
ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
LOGIN = "log in with `hf auth login`, or set HF_TOKEN to a token that may write"
Card = ModelCard | DatasetCard


@dataclass(frozen=True, slots=True, kw_only=True)
class Publication:
    """What goes to one repository of the hub."""

    name: str
    kind: Literal["model", "dataset"]
    card: Card
    files: Mapping[str, Path]  # by their names there, the card and the adapter's config left out
    config: Mapping[str, Any] | None  # of an adapter, naming its base as the hub knows it
    licences: Mapping[str, Licence]  # of what it was made from
    holds_base: bool  # whether the weights of a base are in it


def read_publication(name: str, *, base: str | None = None) -> Publication:
    """Return what would be published under ``name``.

    Args:
        name: A card's: an exported run, an adapter, ``<arm>_merged``, or a cleaning recipe.
        base: The repository of an adapter's base, where that is a folder of this machine.

    Raises:
        ArtifactError: A file is missing, or a stage before it is stale.
        InputError: There is no such name, or its base is not on the hub.
    """
    path = CARDS / name / "README.md"
    if not re.fullmatch(r"\w[\w-]*", name) or not path.is_file():
        known = ", ".join(sorted(p.parent.name for p in CARDS.glob("*/README.md"))) or "none yet"
        raise InputError(
            f"{CARDS}: no card of {name!r}; there are: {known} (`dvc repro write_cards`)"
        )
    kind, folders = folders_of(name)
    _check_fresh([*folders, CARDS])
    with reading(path, maker="write_cards"):
        card: Card = ModelCard.load(path) if kind == "model" else DatasetCard.load(path)
    files = {
        file.relative_to(folder).as_posix(): file
        for folder in folders
        for file in sorted(folder.rglob("*"))
        if file.is_file() and not file.name.startswith(".")
    }
    config = read_json(files[CONFIG]) if CONFIG in files else None
    for left_out in ("base.json", "chat.json", "README.md", CONFIG):
        files.pop(left_out, None)
    if kind == "model":
        config = _with_base(card, config, base, name)
    return Publication(
        name=name,
        kind=kind,
        card=card,
        files=files,
        config=config,
        licences=_licences(name, kind, adapted=card.data.get("base_model_relation") is not None),
        holds_base=name.endswith("_merged"),
    )


def folders_of(name: str) -> tuple[Literal["model", "dataset"], list[Path]]:
    """Return the kind of repository, and the folders whose files it gets."""
    if Path("data/clean", name).is_dir():
        return "dataset", [Path("data/clean", name)]
    if name.endswith("_merged"):
        return "model", [Path("data/export", name.removesuffix("_merged"), "merged")]
    if Path("data/adapters", name).is_dir():  # with the tokenizer and chat template of its base
        return "model", [Path("data/base", base_of_arm(name)), Path("data/adapters", name)]
    return "model", [Path("data/export", name)]


def _check_fresh(folders: list[Path]) -> None:
    for folder in folders:
        if not folder.is_dir():
            raise ArtifactError(
                f"{folder}: no such folder; `dvc pull` or `dvc repro` brings it back"
            )
    stages = read_pipeline()
    outs = [folder.as_posix() for folder in folders]
    waiting = [
        name
        for name, stage in stages.items()
        if any(f"{path}/".startswith(f"{out}/") for out in stage.outs for path in outs)
    ]
    needed: set[str] = set()
    while waiting:
        name = waiting.pop()
        if name not in needed:
            needed.add(name)
            waiting += stages[name].upstream
    if stale := sorted(needed & stale_stages()):
        raise ArtifactError(
            f"{folders[0]}: {len(stale)} of the stages behind it are stale ({stale[0]}); run "
            "`dvc repro write_cards` first"
        )


def _with_base(
    card: Card, config: Mapping[str, Any] | None, base: str | None, name: str
) -> dict[str, Any] | None:
    """Name the base as the hub knows it, in the card and in the adapter's configuration."""
    found = card.data.get("base_model")
    if found is None:
        if base is not None:
            raise InputError(f"{name} stands on no base; leave --base out")
        return None
    local = Path(found).exists()
    if not local and base not in (None, found):
        raise InputError(f"{name} stands on {found} of the hub; leave --base out")
    if local and base is None:
        raise InputError(
            f"{name} stands on {found}, a folder of this machine; publish that, and name it with "
            "--base OWNER/REPO"
        )
    if local and base is not None:
        card.data["base_model"] = check_repository(base)
        card.text = card.text.replace(f"`{found}`", f"`{base}`")
    if config is None:
        return None
    return dict(config) | {"base_model_name_or_path": card.data["base_model"]}


def _licences(name: str, kind: str, *, adapted: bool) -> dict[str, Licence]:
    params = read_params("cards", CardParams)
    if kind == "dataset" or not adapted:
        return {"documents": params.corpus}
    arm = name.removesuffix("_merged")
    found = {"base": getattr(params, base_of_arm(arm))}
    found |= {"documents": params.corpus} if arm.startswith("cpt") else {}
    return found | ({"instructions": params.instructions} if arm.endswith("sft") else {})


def check_repository(name: str) -> str:
    """Return ``name`` if it is OWNER/REPO.

    Raises:
        InputError: It is not.
    """
    if not ID.fullmatch(name) or "--" in name or ".." in name:
        raise InputError(f"{name!r} names no repository of the hub, expected OWNER/REPO")
    return name


def refusal(publication: Publication, *, private: bool) -> str | None:
    """Return why this may not go into such a repository, or None."""
    if private:
        return None
    gated = [what for what, licence in publication.licences.items() if licence.gated]
    if publication.holds_base and "base" in gated:
        return (
            f"{publication.name} holds the weights of a gated base; its owner grants access one by "
            "one: publish the adapter, or use --private"
        )
    unknown = [w for w, licence in publication.licences.items() if licence.license == "unknown"]
    if publication.kind == "dataset" and unknown:
        return (
            f"nobody says under which licence the documents of {publication.name} are "
            "(cards.corpus.license of params.yaml is unknown): use --private, or find out"
        )
    return None


def describe(publication: Publication, *, to: str | None, private: bool) -> str:
    """Return what would be sent: files, card and licences."""
    sizes = {name: path.stat().st_size for name, path in publication.files.items()}
    sizes["README.md"] = len(str(publication.card).encode())
    if publication.config is not None:
        sizes[CONFIG] = len(_as_json(publication.config))
    rows = [[name, _size(size)] for name, size in sorted(sizes.items())]
    notices = [
        [what, licence.license + (", gated" if licence.gated else ""), licence.note]
        for what, licence in publication.licences.items()
    ]
    where = f"{to or REPOSITORY}, {'private' if private else 'public'}"
    return "\n".join(
        [
            f"{publication.name}: a {publication.kind} repository of the hub ({where})\n",
            markdown_table(("file", "size"), [*rows, ["together", _size(sum(sizes.values()))]]),
            f"\nIts card begins:\n\n{publication.card.data.to_yaml()}\n",
            markdown_table(("made from", "licence", "note"), notices, align=":---"),
        ]
    )


def publish(publication: Publication, *, to: str, private: bool) -> str:
    """Create the repository if need be, send all files in one commit, and return its address.

    Raises:
        InputError: This must not be sent there.
        EnvironmentProblem: The hub cannot be reached or refuses; then nothing was committed.
    """
    if why := refusal(publication, private=private):
        raise InputError(why)
    if get_token() is None:
        raise EnvironmentProblem(f"the hub wants to know who you are: {LOGIN}")
    constants.HF_HUB_DISABLE_TELEMETRY = True  # or it asks the hub what else to report
    logging.getLogger("httpx2").setLevel(logging.WARNING)  # a line for every request
    api = HfApi()
    with TemporaryDirectory() as folder, _asking(to):
        _fill(Path(folder), publication, to)
        api.create_repo(to, repo_type=publication.kind, private=private, exist_ok=True)
        found = api.repo_info(to, repo_type=publication.kind)
        if private and not found.private:  # it was there before
            raise InputError(f"{to} is there already, and public; nothing was sent")
        commit = api.upload_folder(
            repo_id=to,
            folder_path=folder,
            repo_type=publication.kind,
            commit_message=f"cordel: {publication.name}",
        )
    return str(commit.commit_url)


def _fill(folder: Path, publication: Publication, to: str) -> None:
    """Lay out the repository: links to the files, the card, the adapter's configuration."""
    for name, path in publication.files.items():
        target = folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        target.symlink_to(path.resolve())
    publication.card.text = publication.card.text.replace(REPOSITORY, to)
    publication.card.save(folder / "README.md")
    if publication.config is not None:
        (folder / CONFIG).write_bytes(_as_json(publication.config))


@contextmanager
def _asking(to: str) -> Iterator[None]:
    """Say in one line what the hub, or the way to it, had against the block."""
    try:
        yield
    except HFValidationError as error:
        raise InputError(f"{to}: {' '.join(str(error).split())}") from None
    except (GatedRepoError, RepositoryNotFoundError) as error:
        raise EnvironmentProblem(
            f"{to}: the hub gives no access ({_code(error)}): {LOGIN}"
        ) from None
    except HfHubHTTPError as error:
        remedy = LOGIN if _code(error) in (401, 403) else "nothing was committed; try again later"
        said = " ".join(str(error.server_message or error).split())[:200]
        raise EnvironmentProblem(
            f"{to}: the hub refuses ({_code(error)}, {said}): {remedy}"
        ) from None
    except (HTTPError, OSError, RuntimeError) as error:  # RuntimeError: of its upload in Rust
        said = " ".join(str(error).split())[:200] or type(error).__name__
        raise EnvironmentProblem(
            f"{to}: the connection failed ({said}); nothing was committed: run the same again"
        ) from None


def _code(error: HfHubHTTPError) -> int:
    return error.response.status_code


def _as_json(value: Mapping[str, Any]) -> bytes:
    return (json.dumps(value, ensure_ascii=False, indent=1, sort_keys=True) + "\n").encode()


def _size(count: int) -> str:
    """Return bytes as people say them."""
    return f"{count / 1e6:,.1f} MB" if count >= 1e5 else f"{count / 1e3:,.1f} kB"
