"""Learn one vocabulary from the train split of its recipe, and measure it on the val split."""

import argparse
import logging
from pathlib import Path

from cordel.corpus.documents import read_documents
from cordel.runtime.console import progress, run_stage
from cordel.runtime.errors import ArtifactError
from cordel.runtime.files import new_directory, rounded, write_json
from cordel.runtime.ledger import ledger
from cordel.runtime.params import read_params, read_section
from cordel.tokenizers.char import learn_characters
from cordel.tokenizers.huggingface import encode_like_huggingface, write_huggingface
from cordel.tokenizers.params import CharParams, TokenizerParams
from cordel.tokenizers.report import describe_tokenizer
from cordel.tokenizers.saved import load_tokenizer
from cordel.tokenizers.subword import learn_pieces

log = logging.getLogger(Path(__file__).stem)
VAL_DOCUMENTS = 500  # enough for three digits of every rate


def main() -> None:
    """Write the tokenizer in SentencePiece's and Hugging Face's formats, and its metrics."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--name", required=True)
    parser.add_argument("--clean", type=Path, required=True, help="folder of the recipe")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--metrics", type=Path, required=True)
    parser.add_argument("--ledger", type=Path, required=True)
    args = parser.parse_args()
    section = f"tokenizers.{args.name}"
    kind = read_section(f"tokenizers.{args.name}.kind")
    owner = CharParams if kind == "char" else TokenizerParams
    params = read_params(f"tokenizers.{args.name}", owner)
    train = read_documents(args.clean / "train.parquet", limit=params.max_documents)
    texts = (d.text for d in progress(train, label=args.name, unit="documents"))
    with ledger(args.ledger, stage=f"train_tokenizer@{args.name}"), new_directory(args.out) as out:
        if isinstance(params, CharParams):
            learn_characters(texts, out)
        else:
            learn_pieces(texts, params, out, section=section)
            write_huggingface(out)
        val = [d.text for d in read_documents(args.clean / "val.parquet", limit=VAL_DOCUMENTS)]
        tokenizer = load_tokenizer(out)
        if isinstance(params, TokenizerParams):
            other = encode_like_huggingface(out, val)
            different = sum(a != tokenizer.encode(b) for a, b in zip(other, val, strict=True))
            if different:
                raise ArtifactError(
                    f"{section}: tokenizer.json differs from SentencePiece on {different} of "
                    f"{len(val)} documents; please report this with the corpus"
                )
    metrics = describe_tokenizer(tokenizer, val)
    if isinstance(params, TokenizerParams):
        metrics["vocab_size_asked"] = params.vocab_size
    write_json(args.metrics, rounded(metrics))
    log.info(
        "%s: %d pieces, %.2f bytes a token",
        args.name,
        tokenizer.vocab_size,
        metrics["bytes_per_token"],
    )


if __name__ == "__main__":
    run_stage(main)
