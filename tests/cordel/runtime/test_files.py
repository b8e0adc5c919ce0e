"""Files are UTF-8 with Unix newlines and sorted keys, and are there whole or not at all."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from cordel.runtime import files
from cordel.runtime.errors import ArtifactError, EnvironmentProblem
from cordel.runtime.files import (
    new_directory,
    read_json,
    read_jsonl,
    rounded,
    write_csv,
    write_json,
    write_jsonl,
    write_text,
)


def names(folder: Path) -> list[str]:
    """Return the names in ``folder``, sorted."""
    return sorted(path.name for path in folder.iterdir())


def test_text_is_written_as_utf8_with_unix_newlines(tmp_path: Path) -> None:
    write_text(tmp_path / "novo" / "a.txt", "coração\nsó\n")
    # 7 characters and 9 bytes, a newline, 2 characters and 3 bytes, a newline: 14 bytes.
    content = (tmp_path / "novo" / "a.txt").read_bytes()
    assert content == "coração\nsó\n".encode()
    assert len(content) == 14


def test_a_failed_write_leaves_the_old_file_and_nothing_beside_it(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    write_text(path, "antes")
    with pytest.raises(UnicodeEncodeError, match="surrogates not allowed"):
        write_text(path, "depois \ud800")
    assert path.read_text(encoding="utf-8") == "antes"
    assert names(tmp_path) == ["a.txt"]


def test_json_has_sorted_keys_and_readable_accents(tmp_path: Path) -> None:
    write_json(tmp_path / "a.json", {"ç": 1, "b": [0.5, None]})
    expected = '{\n "b": [\n  0.5,\n  null\n ],\n "ç": 1\n}\n'
    assert (tmp_path / "a.json").read_text(encoding="utf-8") == expected
    assert read_json(tmp_path / "a.json") == {"ç": 1, "b": [0.5, None]}


@pytest.mark.parametrize("content", [b'{"a": ', '{"a": "ã"}'.encode("latin-1")])
def test_a_broken_json_file_is_named_with_the_remedy(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.json").write_bytes(content)
    with pytest.raises(ArtifactError, match=r"a\.json: not JSON \(.+\); rerun the stage"):
        read_json(tmp_path / "a.json")


def test_a_missing_json_file_is_named_with_the_remedy(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match=r"a\.json: no such file; `dvc repro` makes it"):
        read_json(tmp_path / "a.json")


def test_json_lines_come_back_as_they_were_written(tmp_path: Path) -> None:
    rows: list[dict[str, Any]] = [{"texto": "duas\nlinhas é", "a": 1}, {"texto": ""}]
    write_jsonl(tmp_path / "a.jsonl", rows)
    assert list(read_jsonl(tmp_path / "a.jsonl")) == rows
    first = (tmp_path / "a.jsonl").read_text(encoding="utf-8").split("\n")[0]
    assert first == '{"a": 1, "texto": "duas\\nlinhas é"}'


def test_a_source_of_rows_that_fails_leaves_no_file(tmp_path: Path) -> None:
    def rows() -> Iterator[dict[str, int]]:
        yield {"a": 1}
        raise ValueError("row 2")

    with pytest.raises(ValueError, match="row 2"):
        write_jsonl(tmp_path / "a.jsonl", rows())
    assert names(tmp_path) == []


def test_csv_keeps_the_order_of_the_first_row_and_leaves_none_empty(tmp_path: Path) -> None:
    write_csv(tmp_path / "a.csv", [{"passo": 1, "perda": None}, {"perda": 0.5, "passo": 2}])
    assert (tmp_path / "a.csv").read_bytes() == b"passo,perda\n1,\n2,0.5\n"


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (0.12345649, 0.123456),
        (0.12345651, 0.123457),
        ({"a": [1 / 3, {"b": (2 / 3,)}]}, {"a": [0.333333, {"b": [0.666667]}]}),
        ([True, 7, "0.12345678", None], [True, 7, "0.12345678", None]),
    ],
)
def test_every_float_is_rounded_to_six_decimals_and_nothing_else(value: Any, expected: Any) -> None:
    assert rounded(value) == expected


def test_a_new_folder_replaces_the_old_one_whole(tmp_path: Path) -> None:
    with new_directory(tmp_path / "saída") as folder:
        (folder / "velho.txt").touch()
    with new_directory(tmp_path / "saída") as folder:
        (folder / "novo.txt").touch()
        assert names(tmp_path / "saída") == ["velho.txt"]  # until the block ends
    assert names(tmp_path / "saída") == ["novo.txt"]
    assert names(tmp_path) == ["saída"]


@pytest.mark.parametrize("error", [ValueError("lá"), KeyboardInterrupt("lá")])
def test_a_failed_block_keeps_the_old_folder(tmp_path: Path, error: BaseException) -> None:
    with new_directory(tmp_path / "saída") as folder:
        (folder / "velho.txt").touch()

    def fail() -> None:
        with new_directory(tmp_path / "saída") as folder:
            (folder / "novo.txt").touch()
            raise error

    with pytest.raises(type(error), match="lá"):
        fail()
    assert names(tmp_path / "saída") == ["velho.txt"]
    assert names(tmp_path) == ["saída"]


def test_what_a_killed_run_left_does_not_get_into_the_next_folder(tmp_path: Path) -> None:
    (tmp_path / "saída.partial").mkdir()
    (tmp_path / "saída.partial" / "resto.txt").touch()
    (tmp_path / "saída.partial" / "pasta").mkdir()
    with new_directory(tmp_path / "saída") as folder:
        (folder / "novo.txt").touch()
    assert names(tmp_path / "saída") == ["novo.txt"]


def test_a_folder_that_another_fills_is_left_to_it(tmp_path: Path) -> None:
    with new_directory(tmp_path / "saída") as folder:
        (folder / "a.txt").touch()
        with (
            pytest.raises(EnvironmentProblem, match="saída: another process is writing it; wait"),
            new_directory(tmp_path / "saída"),
        ):
            pytest.fail("the folder was given twice")
        assert names(folder) == ["a.txt"]
    assert names(tmp_path / "saída") == ["a.txt"]
    with new_directory(tmp_path / "saída"):
        pass


def test_a_file_system_without_locks_on_folders_is_no_obstacle(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(9, "Bad file descriptor")

    monkeypatch.setattr(files.fcntl, "flock", refuse)
    with new_directory(tmp_path / "saída") as folder:
        (folder / "a.txt").touch()
    assert names(tmp_path / "saída") == ["a.txt"]


def test_no_rows_are_one_empty_line_since_dvc_warns_of_empty_files(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "a.jsonl", [])
    assert (tmp_path / "a.jsonl").read_text() == "\n"
    assert list(read_jsonl(tmp_path / "a.jsonl")) == []


def test_a_key_that_an_object_lacks_is_named_with_its_file(tmp_path: Path) -> None:
    write_json(tmp_path / "a.json", {"b": {"c": 1}})
    with pytest.raises(ArtifactError, match=r"a\.json: 'd' is missing; rerun the stage"):
        read_json(tmp_path / "a.json")["b"]["d"]


@pytest.mark.parametrize(
    ("text", "kind", "said"),
    [("[]", dict, "holds a list, expected an object"), ("{}", list, "holds an object, expected a")],
)
def test_json_of_another_kind_is_refused(tmp_path: Path, text: str, kind: type, said: str) -> None:
    (tmp_path / "a.json").write_text(text)
    with pytest.raises(ArtifactError, match=rf"a\.json: {said}"):
        read_json(tmp_path / "a.json", kind=kind)


@pytest.mark.parametrize(
    ("line", "said"),
    [("{", "not JSON"), ("[1]", r"no object but \[1\]"), ("null", "no object but None")],
)
def test_a_broken_row_is_named_with_its_line(tmp_path: Path, line: str, said: str) -> None:
    (tmp_path / "a.jsonl").write_text('{"a": 1}\n' + line + "\n")
    with pytest.raises(ArtifactError, match=rf"a\.jsonl:2: {said}"):
        list(read_jsonl(tmp_path / "a.jsonl"))
