"""The charts as Vega-Lite, in one look: colours come from the page's CSS, so dark mode is free."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import altair as alt

from cordel.reporting.page.sections import NOISE, TASKS, Row
from cordel.reporting.page.values import Sourced, visible

VEGA_LITE = ".".join(alt.SCHEMA_VERSION.removeprefix("v").split(".")[:2])
FAMILIES = ("characters", "subwords", "transformer", "v7", "adapted", "other", "reference")
SHAPES = ["circle", "square", "triangle-up", "diamond", "cross", "triangle-down", "triangle-left"]
STROKES = alt.Legend(symbolType="stroke", symbolStrokeWidth=3, symbolSize=300)
DASHES = [[1, 0], [6, 2], [2, 2], [1, 0], [8, 3, 2, 3], [4, 4], [2, 4]]
FORMATS = {
    "train_tokens": ",.0f",
    "step": ",.0f",
    "pass_share": ".1%",
    "hours": ".2~r",
    "usd": ".2~r",
}
CONFIG = {
    "background": "transparent",
    "font": "system-ui, -apple-system, 'Segoe UI', sans-serif",
    "view": {"stroke": None},
    "axis": {
        "labelColor": "var(--muted)",
        "titleColor": "var(--ink)",
        "gridColor": "var(--line)",
        "domainColor": "var(--line)",
        "tickColor": "var(--line)",
        "labelFontSize": 12,
        "titleFontSize": 12,
        "titleFontWeight": 500,
        "titlePadding": 8,
        "labelLimit": 160,
    },
    "legend": {
        "labelColor": "var(--ink)",
        "titleColor": "var(--muted)",
        "labelFontSize": 12,
        "symbolSize": 90,
        "symbolStrokeWidth": 2,
        "orient": "top",
        "labelLimit": 220,
    },
    "text": {"color": "var(--ink)"},
    "rule": {"color": "var(--muted)"},
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Labels:
    """The words of the charts in one language, by their key in texts.yaml."""

    texts: Mapping[str, str]

    def __getitem__(self, key: str) -> str:
        """Return a text; names that no text translates stay as they are."""
        return self.texts.get(key, visible(key.partition(".")[2]))


def datum(**fields: Sourced | str | bool | None) -> dict[str, Any]:
    """Return a row of a chart's data; beside the values stands where each is from."""
    sourced = {key: value for key, value in fields.items() if isinstance(value, Sourced)}
    plain = {key: value for key, value in fields.items() if not isinstance(value, Sourced)}
    values = {key: value.raw for key, value in sourced.items()}
    return plain | values | {"sources": {key: value.source for key, value in sourced.items()}}


def ranking(rows: Sequence[Row], t: Labels) -> dict[str, Any]:
    """Return bits per byte with intervals; a line for each reference that lies in sight."""
    own = [row for row in rows if row.family != "reference"]
    limit = 1.15 * max((row.bits for row in own), default=0)
    shown = [row for row in rows if row.family != "reference" or row.bits < limit]
    data = [
        datum(
            name=_called(row, t),
            family=t[f"family.{row.family}"],
            bits=row.score["bits_per_byte"],
            low=row.score.get("low"),
            high=row.score.get("high"),
        )
        for row in shown
    ]
    base = alt.Chart(alt.InlineData(values=data)).encode(
        y=alt.Y("name:N", sort=[d["name"] for d in data], title=None),
        color=_families(shown, t),
        opacity=_chosen(),
    )
    x = alt.X("bits:Q", title=t["axis.bits"], scale=alt.Scale(zero=False)).axis(tickCount=7)
    lines = (
        alt.Chart(alt.InlineData(values=[d for d in data if "low" not in d["sources"]]))
        .mark_rule(strokeDash=[3, 3], opacity=0.7)
        .encode(x=x)
    )
    interval = base.mark_rule(strokeWidth=2.5).encode(x=alt.X("low:Q"), x2="high:Q")
    points = base.mark_point(filled=True, size=85, opacity=1).encode(
        x=x,
        shape=_shapes(shown, t),
        tooltip=_tips(t, name="name", bits="bits", low="low", high="high"),
    )
    return _sized(points + interval + lines, 23 * len(data))


def pareto(rows: Sequence[Row], best: Sequence[Row], key: str, t: Labels) -> dict[str, Any]:
    """Return cost against quality; ``best`` are joined, as no other run beats them in both."""
    data = [
        datum(
            name=_called(row, t),
            family=t[f"family.{row.family}"],
            bits=row.score["bits_per_byte"],
            hours=row.cost["hours"],
            usd=row.cost["usd"],
            best=row in best,
        )
        for row in rows
        if row.cost is not None and row.cost.get(key) is not None
    ]
    x = alt.X(
        f"{key}:Q", title=t[f"axis.{key}"], scale=alt.Scale(type="log", nice=False, padding=16)
    )
    x = x.axis(grid=False, format="~g", tickCount=4, labelOverlap=True, labelSeparation=10)
    y = alt.Y("bits:Q", title=t["axis.bits"], scale=alt.Scale(zero=False))
    base = alt.Chart(alt.InlineData(values=data)).encode(x=x, y=y)
    line = base.transform_filter("datum.best").mark_line(
        interpolate="step-after", color="var(--muted)", strokeDash=[4, 3]
    )
    # Below the step that goes down to the point, with a rim that hides what lies under it.
    named = base.transform_filter("datum.best").encode(text="name:N")
    place: dict[str, Any] = {"align": "left", "dx": 8, "dy": 13, "fontSize": 11}
    rim = named.mark_text(**place, stroke="var(--panel)", strokeWidth=4, strokeJoin="round")
    names = rim + named.mark_text(**place)
    points = base.mark_point(filled=True, size=90).encode(
        color=_families(rows, t),
        shape=_shapes(rows, t),
        opacity=_chosen(),
        tooltip=_tips(t, name="name", bits="bits", hours="hours", usd="usd"),
    )
    return _sized(points + line + names, 320)


def curves(
    points: Mapping[str, Iterable[Sourced]],
    families: Mapping[str, str],
    t: Labels,
    *,
    x: str,
    y: str,
) -> dict[str, Any]:
    """Return a line for each run; a family shares colour and dash."""
    data = [
        datum(name=name, family=t[f"family.{families[name]}"], x=point[x], y=point[y])
        for name, rows in points.items()
        for point in rows
    ]
    present = [key for key in FAMILIES if key in families.values()]
    scale: dict[str, Any] = {"domain": [t[f"family.{key}"] for key in present]}
    base = alt.Chart(alt.InlineData(values=data)).encode(
        x=alt.X("x:Q", title=t[f"axis.{x}"]).axis(format="~s", grid=False, tickCount=6),
        y=alt.Y("y:Q", title=t[f"axis.{y}"], scale=alt.Scale(type="log", nice=False)).axis(
            format="~g"
        ),
        detail="name:N",
        color=alt.Color(
            "family:N",
            title=None,
            scale=alt.Scale(**scale, range=[f"var(--{key})" for key in present]),
            legend=STROKES,
        ),
        opacity=_chosen(),
    )
    dashes = [DASHES[FAMILIES.index(key)] for key in present]
    lines = base.mark_line(strokeWidth=2).encode(
        strokeDash=alt.StrokeDash("family:N", title=None, scale=alt.Scale(**scale, range=dashes))
    )
    dots = base.mark_point(filled=True, size=34).encode(tooltip=_tips(t, name="name", x=x, y=y))
    return _sized(lines + dots, 360)


def arms(points: Mapping[str, Iterable[Sourced]], t: Labels) -> dict[str, Any]:
    """Return the evaluation loss of each adaptation while it trains."""
    data = [
        datum(name=t[f"arm.{name}"], x=point["step"], y=point["eval_nats_per_token"])
        for name, rows in points.items()
        for point in rows
    ]
    names = list(dict.fromkeys(d["name"] for d in data))
    colours = ["var(--adapted)", "var(--v7)", "var(--subwords)", "var(--characters)"]
    scale = alt.Scale(domain=names, range=colours[: len(names)])
    dashes = alt.Scale(domain=names, range=[DASHES[place] for place in (0, 1, 2, 4)][: len(names)])
    base = alt.Chart(alt.InlineData(values=data)).encode(
        x=alt.X("x:Q", title=t["axis.step"]).axis(grid=False, format="~s", tickCount=6),
        y=alt.Y("y:Q", title=t["axis.nats"], scale=alt.Scale(zero=False)),
        color=alt.Color("name:N", title=None, scale=scale, legend=STROKES),
        opacity=_chosen("name"),
    )
    lines = base.mark_line(strokeWidth=2).encode(
        strokeDash=alt.StrokeDash("name:N", title=None, scale=dashes)
    )
    dots = base.mark_point(filled=True, size=34).encode(
        tooltip=_tips(t, name="name", x="step", y="nats")
    )
    return _sized(lines + dots, 280, "name")


def tokenizers(found: Mapping[str, Sourced], t: Labels) -> dict[str, Any]:
    """Return how many tokens a word takes."""
    data = [
        datum(name=name, tokens=row["tokens_per_word"], bytes=row["bytes_per_token"])
        for name, row in found.items()
    ]
    data.sort(key=lambda d: d["tokens"])
    chart = (
        alt.Chart(alt.InlineData(values=data))
        .mark_bar(color="var(--v7)", cornerRadiusEnd=3, height=14)
        .encode(
            x=alt.X("tokens:Q", title=t["axis.tokens_per_word"]).axis(tickCount=6),
            y=alt.Y("name:N", sort=[d["name"] for d in data], title=None),
            tooltip=_tips(t, name="name", tokens="tokens_per_word", bytes="bytes_per_token"),
        )
    )
    return _sized(chart, 30 * len(data), None)


def guardrails(found: Mapping[str, Sourced], key: str, t: Labels) -> dict[str, Any] | None:
    """Return what share of people's passages and of noise a rule lets pass, by tokenizer.

    Args:
        found: Calibrations by tokenizer.
        key: ``pass_share``, or the thesis' rule: ``thesis_pass_share``.
        t: The words.
    """
    kinds = ("human", *NOISE)
    data = [
        datum(tokenizer=name, kind=t[f"passages.{kind}"], share=share)
        for name, row in found.items()
        for kind in kinds
        if (share := row.get(*(("human",) if kind == "human" else ("noise", kind)), key))
        is not None
    ]
    if not data:
        return None
    scale: dict[str, Any] = {"domain": [t[f"passages.{kind}"] for kind in kinds]}
    colours = [
        f"var(--{name})" for name in ("v7", "characters", "adapted", "transformer", "subwords")
    ]
    chart = (
        alt.Chart(alt.InlineData(values=data))
        .mark_point(filled=True, size=95)
        .encode(
            x=alt.X("share:Q", title=t["axis.pass_share"], scale=alt.Scale(domain=[0, 1])).axis(
                format="%", tickCount=5, labelOverlap=True, labelSeparation=6
            ),
            y=alt.Y("tokenizer:N", title=None),
            color=alt.Color("kind:N", title=None, scale=alt.Scale(**scale, range=colours)),
            shape=alt.Shape("kind:N", title=None, scale=alt.Scale(**scale, range=SHAPES[:5])),
            opacity=_chosen("kind"),
            tooltip=_tips(t, tokenizer="tokenizer", kind="passages", share="pass_share"),
        )
    )
    return _sized(chart, 34 * len({d["tokenizer"] for d in data}) + 10, "kind")


def answers(rows: Iterable[tuple[str, Sourced]], task: str, t: Labels) -> dict[str, Any]:
    """Return each arm's and baseline's score on a task, with its interval."""
    metric = TASKS[task][-1]
    data = [
        datum(
            name=t[f"arm.{name}"],
            kind=t["kind.baseline" if name in ("copy", "lead1", "empty") else "kind.arm"],
            mean=row[task][metric]["mean"],
            low=row[task][metric]["ci"][0],
            high=row[task][metric]["ci"][1],
        )
        for name, row in rows
    ]
    scale = alt.Scale(
        domain=[t["kind.arm"], t["kind.baseline"]], range=["var(--v7)", "var(--reference)"]
    )
    base = alt.Chart(alt.InlineData(values=data)).encode(
        y=alt.Y("name:N", sort=[d["name"] for d in data], title=None),
        color=alt.Color("kind:N", title=None, scale=scale),
        opacity=_chosen("kind"),
    )
    x = alt.X("mean:Q", title=t[f"metric.{metric}"], scale=alt.Scale(domainMin=0)).axis(tickCount=4)
    interval = base.mark_rule(strokeWidth=2.5).encode(x=alt.X("low:Q"), x2="high:Q")
    points = base.mark_point(filled=True, size=80).encode(
        x=x, tooltip=_tips(t, name="name", mean="mean", low="low", high="high")
    )
    return _sized(points + interval, 26 * len(data), "kind")


def _called(row: Row, t: Labels) -> str:
    kind = {"reference": "line", "adapted": "arm"}.get(row.family)
    name = t[f"{kind}.{row.name}"] if kind else row.name
    return f"≥ {name}" if row.bound else name


def _families(rows: Iterable[Row], t: Labels) -> alt.Color:
    keys = _present(rows)
    scale = alt.Scale(
        domain=[t[f"family.{key}"] for key in keys], range=[f"var(--{key})" for key in keys]
    )
    return alt.Color("family:N", title=None, scale=scale)


def _shapes(rows: Iterable[Row], t: Labels) -> alt.Shape:
    keys = _present(rows)
    shapes = [SHAPES[FAMILIES.index(key)] for key in keys]
    scale = alt.Scale(domain=[t[f"family.{key}"] for key in keys], range=shapes)
    return alt.Shape("family:N", title=None, scale=scale)


def _present(rows: Iterable[Row]) -> list[str]:
    found = {row.family for row in rows}
    return [key for key in FAMILIES if key in found]


def _chosen(field: str = "family") -> Any:
    """Return an opacity that fades what is not chosen in the legend."""
    return alt.when(_selection(field)).then(alt.value(1)).otherwise(alt.value(0.12))


def _selection(field: str) -> alt.Parameter:
    return alt.selection_point(name=f"chosen_{field}", fields=[field], bind="legend")


def _tips(t: Labels, **fields: str) -> list[alt.Tooltip]:
    """Return a tooltip of fields, each with what it is called and written like."""
    words = ("name", "tokenizer", "kind")
    return [
        alt.Tooltip(f"{field}:N", title=t[f"tip.{label}"])
        if field in words
        else alt.Tooltip(f"{field}:Q", title=t[f"tip.{label}"], format=FORMATS.get(label, ".3f"))
        for field, label in fields.items()
    ]


def _sized(chart: Any, height: int, field: str | None = "family") -> dict[str, Any]:
    """Return the chart as Vega-Lite, as wide as the page lets it be.

    A legend can be clicked where the first layer has its field.
    """
    selected = chart.add_params(_selection(field)) if field else chart
    return selected.properties(width="container", height=height).to_dict()
