"""Write a SentencePiece model as a Hugging Face ``tokenizer.json`` that gives identical ids.

Loading the ``.model`` through transformers instead rebuilds a unigram as BPE (5.23: 19,364 of
20,008 lines differ) or gives no ids at all, so the conversion is our own: model, normaliser,
pre-tokenizer and decoder are read from the ModelProto.

A text that spells a control symbol is text, in v7's tokenizer also for Hugging Face. The thesis'
tokenizers may lack a piece for ``<``: there ``<s>`` differs, and for BPE also ``<mask>``.
"""

from pathlib import Path
from typing import Any

from sentencepiece import sentencepiece_model_pb2 as proto
from tokenizers import AddedToken, Regex, Tokenizer, decoders, normalizers, pre_tokenizers
from tokenizers.models import BPE, Unigram

from cordel.runtime.files import write_json
from cordel.tokenizers.subword import FILE

UNIGRAM, BPE_KIND = 1, 2  # trainer_spec.model_type
NORMAL, USER_DEFINED = 1, 4  # pieces.type
NEVER = -1.0e4  # a control symbol: spelling it in text costs less, if its characters have pieces
SPACE = "▁"


def write_huggingface(folder: Path, *, context_length: int | None = None) -> None:
    """Write ``tokenizer.json`` and ``tokenizer_config.json`` beside ``folder/tokenizer.model``."""
    model: Any = proto.ModelProto.FromString((folder / FILE).read_bytes())  # pyright: ignore[reportAttributeAccessIssue]
    tokenizer = Tokenizer(_model(model))
    tokenizer.normalizer = _normalizer(model.normalizer_spec)  # pyright: ignore[reportAttributeAccessIssue]
    scheme = "always" if model.normalizer_spec.add_dummy_prefix else "never"
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(SPACE, prepend_scheme=scheme, split=True)  # pyright: ignore[reportAttributeAccessIssue]
    tokenizer.decoder = _decoder(model.normalizer_spec)  # pyright: ignore[reportAttributeAccessIssue]
    if model.trainer_spec.model_type == BPE_KIND:  # a unigram finds its symbols by their scores
        symbols = [p.piece for p in model.pieces if p.type == USER_DEFINED]
        tokenizer.add_tokens([AddedToken(s, normalized=False, special=False) for s in symbols])
    tokenizer.save(str(folder / "tokenizer.json"))
    _write_config(folder, model, context_length)


def _model(model: Any) -> Unigram | BPE:
    pieces = [(p.piece, p.score) for p in model.pieces]
    spec = model.trainer_spec
    if spec.model_type == UNIGRAM:
        normal = [p.score for p in model.pieces if p.type == NORMAL]
        best = max(normal)
        scored = [(p.piece, _score(p, best)) for p in model.pieces]
        return Unigram(scored, unk_id=spec.unk_id, byte_fallback=spec.byte_fallback)
    vocabulary = {piece: index for index, (piece, _) in enumerate(pieces)}
    return BPE(
        vocabulary,
        _merges(model, vocabulary),
        unk_token=pieces[spec.unk_id][0],
        fuse_unk=True,
        byte_fallback=spec.byte_fallback,
    )


def _score(piece: Any, best: float) -> float:
    """Return the score that SentencePiece gives a piece while it encodes."""
    if piece.type == NORMAL:
        return piece.score
    if piece.type == USER_DEFINED:
        # Source: sentencepiece unigram_model.cc, EncodeOptimized: length in bytes.
        return len(piece.piece.encode()) * best - 0.1
    return NEVER


def _merges(model: Any, vocabulary: dict[str, int]) -> list[tuple[str, str]]:
    """Return the merges in the order in which SentencePiece would apply them: best score first."""
    merges = []
    for piece in model.pieces:
        if piece.type != NORMAL:
            continue
        text = piece.piece
        pairs = [(text[:i], text[i:]) for i in range(1, len(text))]
        pairs = [(a, b) for a, b in pairs if a in vocabulary and b in vocabulary]
        pairs.sort(key=lambda pair: (vocabulary[pair[0]], vocabulary[pair[1]]))
        merges += [(-piece.score, *pair) for pair in pairs]
    merges.sort(key=lambda merge: merge[0])
    return [(a, b) for _, a, b in merges]


def _normalizer(spec: Any) -> Any:
    steps: list[Any] = []
    if spec.precompiled_charsmap:
        steps.append(normalizers.Precompiled(spec.precompiled_charsmap))
    if spec.remove_extra_whitespaces:
        steps += [normalizers.Strip(), normalizers.Replace(Regex(" {2,}"), " ")]
    return normalizers.Sequence(steps)


def _decoder(spec: Any) -> Any:
    steps = [decoders.Replace(SPACE, " "), decoders.ByteFallback(), decoders.Fuse()]
    if spec.add_dummy_prefix:
        steps.append(decoders.Strip(" ", 1, 0))
    return decoders.Sequence(steps)


def _write_config(folder: Path, model: Any, context_length: int | None) -> None:
    spec = model.trainer_spec
    names = {
        f"{name}_token": model.pieces[getattr(spec, f"{name}_id")].piece
        for name in ("pad", "unk", "bos", "eos")
    }
    config: dict[str, Any] = names | {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "clean_up_tokenization_spaces": False,
        "split_special_tokens": True,
    }
    if context_length:
        config["model_max_length"] = context_length
    write_json(folder / "tokenizer_config.json", config)


def encode_like_huggingface(folder: Path, texts: list[str]) -> list[list[int]]:
    """Return the ids that ``folder/tokenizer.json`` gives, to hold against SentencePiece's."""
    tokenizer = Tokenizer.from_str((folder / "tokenizer.json").read_text(encoding="utf-8"))
    return [encoding.ids for encoding in tokenizer.encode_batch(texts, add_special_tokens=False)]
