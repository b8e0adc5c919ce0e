"""Open a base model: is it there, may we use it, does its tokenizer fit, how does it converse."""

import argparse
import logging
from pathlib import Path

from cordel.adaptation.base import BaseModelParams, open_base
from cordel.runtime.console import run_stage
from cordel.runtime.files import new_directory
from cordel.runtime.params import read_params

log = logging.getLogger(Path(__file__).stem)


def main() -> None:
    """Write the base's tokenizer, chat format and identity."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--base", required=True, help="a key of the section base_models")
    parser.add_argument("--model", type=Path, required=True, help="its folder, if it is local")
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    key = f"base_models.{args.base}"
    params = read_params(f"base_models.{args.base}", BaseModelParams)
    with new_directory(args.out) as out:
        info = open_base(params, out, key=key)
    if info["source"] == "none":
        log.info("%s: none is configured, its arms stay empty", args.base)
    else:
        log.info(
            "%s: %s, %s ids, context %d, chat template %s",
            args.base,
            info["model"],
            f"{info['vocab_size']:,}",
            info["max_length"],
            info["chat_template"],
        )


if __name__ == "__main__":
    run_stage(main)
