"""Markdown from rows."""

from collections.abc import Iterable, Sequence
from typing import Any


def markdown_table(
    header: Sequence[str], rows: Iterable[Sequence[Any]], *, align: str = "---:"
) -> str:
    """Return a Markdown table; all columns but the first are aligned as ``align`` says."""
    lines = [header, ["---", *[align] * (len(header) - 1)], *rows]
    return "\n".join("| " + " | ".join(map(str, line)) + " |" for line in lines)
