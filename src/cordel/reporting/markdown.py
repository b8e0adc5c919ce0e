"""Markdown from rows."""

import re
from collections.abc import Iterable, Sequence
from typing import Any


def markdown_table(
    header: Sequence[str], rows: Iterable[Sequence[Any]], *, align: str = "---:"
) -> str:
    """Return a Markdown table; all columns but the first are aligned as ``align`` says."""
    lines = [header, ["---", *[align] * (len(header) - 1)], *rows]
    return "\n".join("| " + " | ".join(map(str, line)) + " |" for line in lines)


def replace_between(text: str, name: str, content: str, *, by: str = "cordel results") -> str:
    """Return ``text`` with what stands between the two marks of ``name`` replaced."""
    start, end = f"<!-- {name}: rendered by `{by}` -->", f"<!-- end of {name} -->"
    new = f"{start}\n{content}\n{end}"
    return re.sub(re.escape(start) + ".*?" + re.escape(end), lambda _: new, text, flags=re.DOTALL)
