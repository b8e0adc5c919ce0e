"""Tokenizers, instruction examples, extrinsic sets and the judge: counts over published files."""

from collections import Counter
from itertools import combinations
from typing import Any

import sentencepiece as spm

from audit.figures import Figure, agree, pieces_of
from audit.figures_track1 import MODELS, V5B, V6
from audit.figures_track2 import DATA, TRACK2
from cordel.corpus.splits import WORD
from cordel.corpus.tasks import REWRITING_WORDS, TASKS, classify_as_published, item_id

TOKENIZERS = {
    "v4k_bf": MODELS["v5_main"],
    "v5b_12k": f"{V5B}tokenizers/unigram_12k/spm_v5b.model",
    "v5b_40k": f"{V5B}tokenizers/unigram_40k/spm_v5b.model",
    "v6_12k": f"{V6}tokenizers/unigram_12k/spm_v6.model",
    "v6_16k": f"{V6}tokenizers/unigram_16k/spm_v6.model",
}
# What Portuguese text is written with: both alphabets, digits, punctuation, typographic signs.
CHARACTERS = (
    "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZáàâãéêíóôõúüçÁÀÂÃÉÊÍÓÔÕÚÜÇ0123456789"
    ",.;:!?\"'()[]{}-–—_/\\%&*+=@#$°«»‘’“”•€"
)
TYPES = {1: "unigram", 2: "bpe"}
SUFFIXES = {123: "", 456: "_seed456", 789: "_seed789"}
SETS = {
    (seed, task): f"{TRACK2}analysis/extrinsic{suffix}/canarim_extrinsic_{task}.jsonl"
    for seed, suffix in SUFFIXES.items()
    for task in TASKS
}
JUDGE = "analysis/artifacts/results/evaluation_llm_review.json"


def figures() -> dict[str, Figure]:
    """Return the figures of data and tokenizers by name."""
    found: dict[str, Figure] = {}
    for name, model in TOKENIZERS.items():
        found |= _tokenizer(name, model)
    return found | _asked() | _provenance() | _fragmentation() | _sft() | _extrinsic() | _judge()


# --- Tokenizers -----------------------------------------------------------------------------------


def _tokenizer(name: str, model: str) -> dict[str, Figure]:
    return {
        f"{name}.pieces": Figure(
            (model,),
            lambda model: len(pieces_of(model).pieces),
            "pieces in the model file",
            "peças no arquivo do modelo",
        ),
        f"{name}.model_type": Figure(
            (model,),
            lambda model: _trainer(model)["model_type"],
            "model_type in the model file",
            "model_type no arquivo do modelo",
        ),
        f"{name}.trainer": Figure(
            (model,),
            _trainer,
            "trainer_spec of the model file",
            "trainer_spec do arquivo do modelo",
        ),
        f"{name}.unknown_characters": Figure(
            (model,),
            _unknown,
            f"{len(CHARACTERS)} characters of written Portuguese, each between two letters",
            f"{len(CHARACTERS)} caracteres do português escrito, cada um entre duas letras",
        ),
    }


def _trainer(model: bytes) -> dict[str, Any]:
    parsed = pieces_of(model)
    spec = parsed.trainer_spec
    fallback = [index for index, piece in enumerate(parsed.pieces) if piece.type == piece.BYTE]
    return {
        "pieces": len(parsed.pieces),
        "model_type": TYPES.get(spec.model_type, str(spec.model_type)),
        "seed_sentencepiece_size": spec.seed_sentencepiece_size,
        "hard_vocab_limit": spec.hard_vocab_limit,
        "byte_fallback": spec.byte_fallback,
        "byte_pieces": [min(fallback), max(fallback)] if fallback else [],
        "character_coverage": round(spec.character_coverage, 6),  # float32 in the file
        "pad_unk_bos_eos": [spec.pad_id, spec.unk_id, spec.bos_id, spec.eos_id],
        "user_defined_symbols": list(spec.user_defined_symbols),
        "normalization": parsed.normalizer_spec.name,
        **_cased(parsed),
    }


def _cased(parsed: Any) -> dict[str, int]:
    """Count pieces that only a cased corpus with whole numbers can have taught."""
    normal = [piece.piece.strip("▁") for piece in parsed.pieces if piece.type == piece.NORMAL]
    return {
        "pieces_with_capitals": sum(piece != piece.lower() for piece in normal),
        "pieces_of_two_digits": sum(len(piece) > 1 and piece.isdigit() for piece in normal),
    }


def _unknown(model: bytes) -> dict[str, Any]:
    processor = spm.SentencePieceProcessor(model_proto=model)
    unknown = processor.unk_id()
    lost = [c for c in CHARACTERS if unknown in processor.encode(f"a{c}a")]
    return {"count": len(lost), "of": len(CHARACTERS), "characters": "".join(lost)}


def _asked() -> dict[str, Figure]:
    en = "vocab_size of meta.json against pieces in the model file"
    pt = "vocab_size do meta.json contra peças no arquivo do modelo"
    return {
        f"v6_{size}.asked": Figure(
            (f"{V6}tokenizers/unigram_{size}/meta.json", TOKENIZERS[f"v6_{size}"]),
            lambda meta, model: agree(meta["vocab_size"], len(pieces_of(model).pieces)),
            en,
            pt,
        )
        for size in ("12k", "16k")
    }


def _provenance() -> dict[str, Figure]:
    """meta.json records the default cleaning; the corpus came cleaned by other rules."""

    def lowercase(meta: Any, model: bytes) -> dict[str, Any]:
        counts = _cased(pieces_of(model))
        return agree(
            {key: meta["cleaning"][key] for key in ("lowercase", "normalize_numbers")},
            {
                "lowercase": counts["pieces_with_capitals"] == 0,
                "normalize_numbers": counts["pieces_of_two_digits"] == 0,
            },
            **counts,
        )

    def documents(meta: Any) -> dict[str, Any]:
        return agree(meta["limit_docs"], meta["corpus_docs"], corpus_chars=meta["corpus_chars"])

    found: dict[str, Figure] = {}
    for size in ("12k", "16k"):
        meta, model = f"{V6}tokenizers/unigram_{size}/meta.json", TOKENIZERS[f"v6_{size}"]
        found[f"v6_{size}.cleaning"] = Figure(
            (meta, model),
            lowercase,
            "pieces with capitals and of two or more digits in the model file",
            "peças com maiúsculas e de dois ou mais dígitos no arquivo do modelo",
        )
        found[f"v6_{size}.documents"] = Figure(
            (meta,),
            documents,
            "limit_docs against corpus_docs of the same file",
            "limit_docs contra corpus_docs do mesmo arquivo",
        )
    found["v6_16k.cased"] = Figure(
        (TOKENIZERS["v6_16k"],),
        lambda model: {
            "holds": all(_cased(pieces_of(model)).values()),
            **_cased(pieces_of(model)),
        },
        "pieces with capitals and of two or more digits in the model file",
        "peças com maiúsculas e de dois ou mais dígitos no arquivo do modelo",
    )
    return found


def _fragmentation() -> dict[str, Figure]:
    def ratios(report: Any) -> dict[str, Any]:
        tokens = report["total_tokens"]
        computed = {
            "avg_tokens_per_doc": tokens / report["docs"],
            "byte_fallback_ratio": report["byte_fallback_tokens"] / tokens,
            "short_alpha_ratio": report["short_alpha_pieces"] / tokens,
        }
        differences = [abs(report[key] - value) for key, value in computed.items()]
        return agree(
            {key: report[key] for key in computed},
            computed,
            largest_difference=max(differences),
            characters=tokens / report["tokens_per_char_ratio"],
        )

    def statistics(stats: Any) -> dict[str, Any]:
        tokens = stats["total_tokens"]
        keys = ("avg_tokens_per_doc", "avg_chars_per_doc", "tokens_per_char_ratio")
        return agree(
            [stats[key] for key in keys],
            [
                tokens / stats["docs"],
                stats["total_chars"] / stats["docs"],
                tokens / stats["total_chars"],
            ],
        )

    names = {
        "v5b_12k": f"{V5B}tokenizers/unigram_12k",
        "v6_12k": f"{V6}tokenizers/unigram_12k",
        "v6_16k": f"{V6}tokenizers/unigram_16k",
    }
    en, pt = "ratios of the report's own counts", "razões das contagens do próprio relatório"
    found = {
        f"{name}.fragmentation": Figure((f"{folder}/fragmentation_report.json",), ratios, en, pt)
        for name, folder in names.items()
    }
    stats = "versions/v4-subword-lstm/tokenizer_v4k_bf/stats.json"
    return found | {"v4k_bf.statistics": Figure((stats,), statistics, en, pt)}


# --- Instruction examples -------------------------------------------------------------------------


def _triples(rows: list[dict[str, str]]) -> list[tuple[str, str, str]]:
    return [
        (row["instruction"].strip(), row["input"].strip(), row["output"].strip()) for row in rows
    ]


def _sft() -> dict[str, Figure]:
    files = tuple(DATA.values())
    found = {
        f"sft.{split}_share": Figure(
            files,
            lambda *rows, index=index: len(rows[index]) / sum(map(len, rows)),
            "rows of the split / rows of all three",
            "linhas da partição / linhas das três",
        )
        for index, split in enumerate(DATA)
    }
    return found | {
        "sft.examples": Figure(
            files,
            lambda *rows: sum(map(len, rows)),
            "rows of the three files",
            "linhas dos três arquivos",
        ),
        "sft.quality": Figure(
            files, _quality, "counts over the stripped texts", "contagens sobre os textos aparados"
        ),
    }


def _quality(*files: Any) -> dict[str, Any]:
    splits = dict(zip(DATA, map(_triples, files), strict=True))
    prompts = {name: [triple[:2] for triple in triples] for name, triples in splits.items()}
    trained, trained_prompts = set(splits["train"]), set(prompts["train"])
    return {
        name: {
            "rows": len(triples),
            "empty_inputs": sum(not triple[1] for triple in triples),
            "empty_outputs": sum(not triple[2] for triple in triples),
            "repeated_triples": len(triples) - len(set(triples)),
            "repeated_prompts": len(triples) - len(set(prompts[name])),
            "junk_rows": sum("srsrsrsr" in " ".join(triple).lower() for triple in triples),
            "mean_characters": [
                sum(map(len, texts)) / len(triples) for texts in zip(*triples, strict=True)
            ],
        }
        | (
            {}
            if name == "train"
            else {
                "prompts_in_train": sum(prompt in trained_prompts for prompt in prompts[name]),
                "triples_in_train": sum(triple in trained for triple in triples),
            }
        )
        for name, triples in splits.items()
    }


# --- Extrinsic sets -------------------------------------------------------------------------------


def _extrinsic() -> dict[str, Figure]:
    sets, data = tuple(SETS.values()), tuple(DATA.values())
    return {
        "extrinsic.no_overlap": Figure(
            (*data, *sets),
            _overlap,
            "SHA-1 of instruction, input and output of each row against the 10 000 of the SFT",
            "SHA-1 de instrução, entrada e saída de cada linha contra os 10 000 do SFT",
        ),
        "extrinsic.hashes": Figure(
            sets,
            lambda *files: agree(
                sum(map(len, files)),
                sum(
                    item_id(row["instruction"], row["input"], row["reference"]) == row["hash"]
                    for rows in files
                    for row in rows
                ),
            ),
            "rows whose hash is reproduced",
            "linhas cujo hash é reproduzido",
        ),
        "extrinsic.tasks": Figure(
            sets,
            lambda *files: agree(
                sum(map(len, files)),
                sum(
                    classify_as_published(row["instruction"], row["input"], row["reference"])
                    == row["task"]
                    for rows in files
                    for row in rows
                ),
            ),
            "rows that the published rules give to their task",
            "linhas que as regras publicadas atribuem à sua tarefa",
        ),
        "extrinsic.duplicates": Figure(
            sets,
            _duplicates,
            "equal hashes in a set and between the sets of two seeds",
            "hashes iguais em um conjunto e entre os conjuntos de duas sementes",
        ),
        "extrinsic.rewriting_by_revisao": Figure(
            tuple(path for (_, task), path in SETS.items() if task == "rewriting"),
            _only_revisao,
            "rows of rewriting that no rule but the word 'revisão' matched",
            "linhas de reescrita que nenhuma regra além da palavra 'revisão' selecionou",
        ),
    }


def _overlap(train: Any, val: Any, test: Any, *files: Any) -> dict[str, Any]:
    ids = {item_id(*triple) for rows in (train, val, test) for triple in _triples(rows)}
    prompts = {triple[:2] for triple in _triples(train)}
    rows = [row for rows in files for row in rows]
    equal = sum(row["hash"] in ids for row in rows)
    same = sum((row["instruction"].strip(), row["input"].strip()) in prompts for row in rows)
    return {"holds": equal == 0, "rows": len(rows), "equal_rows": equal, "equal_prompts": same}


def _duplicates(*files: Any) -> dict[str, Any]:
    hashes = {key: [row["hash"] for row in rows] for key, rows in zip(SETS, files, strict=True)}
    between = {
        f"{task}.{a}_{b}": len(set(hashes[a, task]) & set(hashes[b, task]))
        for task in TASKS
        for a, b in combinations(SUFFIXES, 2)
    }
    within = {f"{task}.{seed}": len(h) - len(set(h)) for (seed, task), h in hashes.items()}
    distinct = {task: len({h for s in SUFFIXES for h in hashes[s, task]}) for task in TASKS}
    return {
        "within": within,
        "within_total": sum(within.values()),
        "between": between,
        "distinct_rows": distinct,
    }


def _only_revisao(*files: Any) -> dict[str, int]:
    rows = [row for rows in files for row in rows]
    counts = Counter(_reason(row) for row in rows)
    short = sum(len(WORD.findall(row["reference"])) <= 2 for row in rows)
    return {
        "rows": len(rows),
        "revisao_only": counts["revisão"],
        "other_word": counts["word"],
        "similar_length": counts["length"],
        "references_of_two_words_or_less": short,
    }


def _reason(row: Any) -> str:
    """Say which rule of the thesis put the row among the rewritings: a word, or its length."""
    words = set(REWRITING_WORDS.findall(f"{row['instruction']}\n{row['input']}".lower()))
    n_in, n_out = (len(WORD.findall(row[key].lower())) for key in ("input", "reference"))
    alike = 20 <= n_in <= 220 and 20 <= n_out <= 220 and 0.6 <= n_out / n_in <= 1.6
    if words - {"revisão"}:
        return "word"
    return "length" if alike else "revisão"


# --- The judge ------------------------------------------------------------------------------------


def _judge() -> dict[str, Figure]:
    def leap(review: Any) -> dict[str, Any]:
        means = _judge_means(review)
        before = means["v3_brwac_20k"]
        after = [value for name, value in means.items() if name.startswith("v4")]
        better = any(value[key] > before[key] for value in after for key in before)
        return {"holds": better, "judge": review["model"], "means": means}

    return {
        "judge.v4_above_v3": Figure(
            (JUDGE,),
            leap,
            "mean marks (0 to 5) of five samples a model, v4 against v3",
            "notas médias (0 a 5) de cinco amostras por modelo, v4 contra v3",
        )
    }


def _judge_means(review: Any) -> dict[str, dict[str, float]]:
    keys = ("relevancia", "coerencia", "estilo")
    marks: dict[str, list[Any]] = {}
    for entry in review["evaluations"]:
        marks.setdefault(entry["model"], []).append(entry["evaluation"])
    return {
        model: {key: sum(mark[key] for mark in given) / len(given) for key in keys}
        for model, given in sorted(marks.items())
    }
