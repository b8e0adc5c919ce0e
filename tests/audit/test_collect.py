"""Artifacts are found by what they hold, wherever they lie."""

from hashlib import sha256
from pathlib import Path

import pytest

from audit.collect import find
from audit.published import NotAtHandError, Published, expected, missing, tried
from cordel.runtime.errors import InputError


def digest(text: str) -> str:
    return sha256(text.encode()).hexdigest()


def test_a_file_is_found_under_another_name_in_another_folder(tmp_path: Path):
    path = tmp_path / "deep" / "renamed.txt"
    path.parent.mkdir()
    path.write_text("a log", encoding="utf-8")

    found = find(tmp_path, {"logs/one.json": digest("a log"), "logs/two.json": digest("other")})
    assert found == {"logs/one.json": path}


def test_equal_artifacts_share_one_file(tmp_path: Path):
    (tmp_path / "x").write_text("same", encoding="utf-8")

    assert set(find(tmp_path, {"a": digest("same"), "b": digest("same")})) == {"a", "b"}


def test_one_changed_byte_is_another_file(tmp_path: Path):
    (tmp_path / "x").write_text("samf", encoding="utf-8")

    with pytest.raises(InputError, match="none of the 1 artifacts"):
        find(tmp_path, {"a": digest("same")})


def test_published_must_be_a_folder(tmp_path: Path):
    with pytest.raises(InputError, match="no folder"):
        find(tmp_path / "absent", {"a": digest("same")})


def test_a_missing_artifact_is_named_and_stops_only_its_check(tmp_path: Path):
    published = Published(tmp_path)
    with pytest.raises(NotAtHandError, match=r"logs/one\.json is not at hand"):
        published.json("logs/one.json")
    assert "logs/one.json" in tried(lambda: published.json("logs/one.json"))["not_checkable"]
    assert missing(tmp_path) == sorted(expected())


@pytest.mark.shared
def test_every_artifact_is_at_hand(published: Published):
    assert len(expected()) == 222
    assert missing(published.folder) == []
