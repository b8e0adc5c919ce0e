"""Export a run as a Hugging Face folder that the Auto classes load offline."""

import argparse
import logging
from pathlib import Path

from cordel.checkpoints import load_model
from cordel.export import export_folder, largest_difference
from cordel.runtime.console import run_stage
from cordel.runtime.errors import ArtifactError
from cordel.runtime.files import new_directory, write_json

log = logging.getLogger(Path(__file__).stem)
TOLERANCE = 1e-5  # on logits in float32


def main() -> None:
    """Write the folder, load it back, and compare its logits with the checkpoint's."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--run", required=True)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--tokens", type=Path, required=True, help="tokens of its dataset")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--metrics", type=Path, required=True)
    args = parser.parse_args()
    model, config = load_model(args.model)
    with new_directory(args.out) as out:
        export_folder(model, config, args.tokens, out)
        difference = largest_difference(model, config, out)
        if difference > TOLERANCE:
            raise ArtifactError(
                f"{args.out}: logits differ by {difference:.2e}, more than {TOLERANCE}"
            )
    # The difference itself is rounding noise that moves between CPUs: only its bound is recorded.
    write_json(
        args.metrics, {"max_logit_difference_below": TOLERANCE, "parameters": config.parameters}
    )
    log.info("%s: logits within %.1e of the checkpoint's", args.run, difference)


if __name__ == "__main__":
    run_stage(main)
