"""The campaign in short: one long stage, a few kills and one fault of each other kind."""

import random
from pathlib import Path

import pytest

from tests.faults.campaign import TARGETS, Row, campaign, summary, table


@pytest.mark.minutes
def test_whatever_happens_to_a_run_dvc_repro_mends_it(tmp_path: Path) -> None:
    chosen = tuple(target for target in TARGETS if target.stage == "train_lm@v7")
    rows, clean = campaign(tmp_path, chosen, 3, random.Random(1))
    print(table(rows))  # noqa: T201  (what failed, for whoever reads the log)
    assert clean
    assert [row for row in rows if not row.tried == row.recovered == row.identical] == []
    assert sum(row.tried for row in rows if row.fault.startswith("kill -9")) == 3
    said = [note for row in rows for note in row.notes]
    assert "TRACEBACK" not in said
    assert "PARTIAL OBJECTS IN THE CACHE" not in said
    assert any("damaged" in note for note in said)


def test_the_table_shows_what_was_not_recovered() -> None:
    rows = [
        Row("kill -9, DVC alone", "a", 2, 2, 2, [0.25, 0.75], [1.5], ["so", "so"]),
        Row("full disk", "b", 1, 0, 0),
    ]
    assert table(rows).splitlines()[2:] == [
        "| kill -9, DVC alone | a | 2 | 2 | 2 | 0.8 | 1.5 | so |",
        "| full disk | b | 1 | 0 | 0 | – | – |  |",
    ]
    text = summary(rows, clean=False)
    assert "2 kills of 3 faults; 2 recovered, 2 with identical hashes; at most 0.8 s lost" in text
    assert "NOT ALL IS as undisturbed" in text
