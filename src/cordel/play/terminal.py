"""The same in a terminal: every model's continuation, or its bits per byte."""

import sys
from collections.abc import Iterator
from os import environ

from cordel.play.session import Event

# As on the page: blue where the model was sure, orange where it was not.
COLOURS = ((0.5, 32), (0.2, 39), (0.05, 250), (0.01, 214), (0.0, 208))
RESET = "\x1b[0m"


def print_continuations(events: Iterator[Event]) -> int:
    """Print each model's continuation as soon as all of it is there; return how many there are.

    Models take turns, so lines of text are collected; a terminal shows colours.
    """
    prompts: dict[str, str] = {}
    texts: dict[str, list[str]] = {}
    coloured = sys.stdout.isatty() and "NO_COLOR" not in environ
    for event in events:
        name = event.get("model", "")
        if event["type"] == "start":
            prompts[name], texts[name] = event["prompt"], []
        elif event["type"] == "token":
            texts[name].append(_shown(event["text"], event["p"] if coloured else None))
        elif event["type"] == "end":
            more = "" if event["why"] == "end" else " …"
            sys.stdout.write(
                f"== {name}\n{printable(prompts[name])}{''.join(texts[name])}{more}\n\n"
            )
            sys.stdout.flush()
        else:
            _print_note(event)
    return len(prompts)


def print_scores(events: Iterator[Event]) -> int:
    """Print each model's bits per byte; return how many there are."""
    scores = []
    for event in events:
        if event["type"] == "score":
            scores.append(event)
        else:
            _print_note(event)
    for score in sorted(scores, key=lambda score: score["bits_per_byte"]):
        bound = "≥" if score["bound"] else " "
        sys.stdout.write(
            f"{score['model']:<22}{bound} {score['bits_per_byte']:.3f} bits per byte"
            f"  ({score['tokens']:,} tokens, {score['bytes']:,} bytes)\n"
        )
    if any(score["bound"] for score in scores):
        sys.stdout.write(
            "≥: a lower bound; the model's normalisation erases something of this text, and it is "
            "excused from that\n"
        )
    return len(scores)


def _print_note(event: Event) -> None:
    if event["type"] == "missing":
        sys.stderr.write(f"{event['model']}: not here yet; {event['command']}\n")
    if event["type"] == "error":
        sys.stderr.write(f"{event['model']}: {event['message']}\n")


def _shown(text: str, probability: float | None) -> str:
    if probability is None:
        return printable(text)
    colour = next(colour for least, colour in COLOURS if probability >= least)
    return f"\x1b[38;5;{colour}m{printable(text)}{RESET}"


def printable(text: str) -> str:
    """Return text in which nothing moves a terminal's cursor or changes its settings."""
    return "".join(c if c == "\n" or c.isprintable() else "\ufffd" for c in text)
