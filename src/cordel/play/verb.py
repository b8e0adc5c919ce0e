"""What ``cordel play`` does, by its arguments."""

import logging
import os
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path

from cordel.compute import ComputeParams, decide
from cordel.evaluation.sampling import SamplingParams
from cordel.play.session import Continuation, Scoring, continue_text, score_text
from cordel.play.terminal import print_continuations, print_scores
from cordel.play.voices import Voices
from cordel.runtime.errors import ArtifactError, InputError
from cordel.runtime.params import read_params


def continue_here(
    text: str,
    models: Sequence[str],
    *,
    instruction: bool,
    temperature: float | None,
    top_p: float | None,
    seed: int | None,
    tokens: int | None,
) -> None:
    """Print how the models continue ``text``; what is None is as in params.yaml.

    Raises:
        InputError: The request is none.
        ArtifactError: None of the models is here.
    """
    params = read_params("sampling", SamplingParams)
    try:
        asked = Continuation(
            text=text,
            models=tuple(models),
            instruction=instruction,
            temperature=params.temperature if temperature is None else temperature,
            top_p=params.top_p if top_p is None else top_p,
            seed=params.prompts[0].seed if seed is None else seed,
            max_new_tokens=params.max_new_tokens if tokens is None else tokens,
        )
    except ValueError as error:
        raise InputError(str(error)) from None
    _some(print_continuations(continue_text(_voices(), asked, params)))


def score_here(file: str, models: Sequence[str]) -> None:
    """Print the bits per byte of a file, or of the standard input, under the models.

    Raises:
        InputError: It is no text, or too long.
        ArtifactError: None of the models is here.
    """
    try:
        raw = sys.stdin.buffer.read() if file == "-" else Path(file).read_bytes()
        asked = Scoring(text=raw.decode(), models=tuple(models))
    except UnicodeDecodeError as error:
        raise InputError(f"{file}: no UTF-8 text ({error})") from None
    except (OSError, ValueError) as error:
        why = getattr(error, "strerror", None) or error
        raise InputError(f"{file}: {why}") from None
    _some(print_scores(score_text(_voices(), asked)))


def serve_here(host: str, port: int) -> None:
    """Serve the page."""
    # A terminal's answer needs no web server.
    from cordel.play.server import serve  # noqa: PLC0415

    serve(_voices(), read_params("sampling", SamplingParams), host=host, port=port)


def _voices() -> Voices:
    # As for stages (stages/__init__.py): nothing reports to a hub, and libraries' own calls warn
    # nobody who could mend them.
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    logging.getLogger("bitsandbytes.backends.cpu.ops").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", message="`is_gradient_checkpointing` is deprecated")
    return Voices(decide(read_params("compute", ComputeParams)))


def _some(answered: int) -> None:
    if not answered:
        raise ArtifactError("none of these models is here, or could answer; see above")
