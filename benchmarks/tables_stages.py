"""The tables of benchmarks/stages.py."""

from collections.abc import Mapping
from typing import Any

from benchmarks.measure import spread
from cordel.reporting.markdown import markdown_table

Found = Mapping[str, Any]


def stages(found: Found) -> str:
    """Return the tables of start-up and of DVC."""
    return f"{_start_up(found)}\n\n{_dvc(found)}"


def _start_up(found: Found) -> str:
    rows = []
    for group, target in found["targets"].items():
        members = {n: row for n, row in found["stages"].items() if row["group"] == group}
        if not members:
            continue
        slowest = max(members, key=lambda name: members[name]["cpu"]["median"])
        worst = members[slowest]["cpu"]
        fastest = min(row["cpu"]["median"] for row in members.values())
        rows.append(
            [
                group,
                str(len(members)),
                f"{fastest:.2f}",
                f"{spread(worst, '.2f')}, `{slowest}`",
                f"{target:g}",
                "met" if worst["median"] <= target else "**not met**",
            ]
        )
    header = ("it loads", "stages", "fastest, CPU s", "slowest, CPU s", "target", "")
    return markdown_table(header, rows)


def _dvc(found: Found) -> str:
    forms = found["dvc"]
    sizes = list(next(iter(forms.values()))["cpu"])
    rows = [
        [
            form,
            *(spread(row["cpu"][size], ".2f") for size in sizes),
            f"{1000 * row['cpu_per_stage']:.0f}",
            f"{1000 * row['wall_per_stage']:.0f}",
        ]
        for form, row in forms.items()
    ]
    header = ("`dvc`, CPU s", *(f"{size} stages" for size in sizes))
    table = markdown_table((*header, "CPU ms, one more", "wall ms, one more"), rows)
    if found["this_project"] is None:
        return table
    here = ", ".join(
        f"{form} {spread(row['cpu'], '.2f')} CPU s, {spread(row['wall'], '.2f')} s"
        for form, row in found["this_project"].items()
    )
    return f"{table}\n\nThis project, all of it: {here}."
