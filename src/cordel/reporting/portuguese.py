"""Tables of results as a Brazilian reads them: words and decimal commas."""

import re

WORDS = {
    "Kneser–Ney over subwords": "Kneser–Ney sobre subpalavras",
    "Kneser–Ney over characters": "Kneser–Ney sobre caracteres",
    "xz -9e, no training text": "xz -9e, sem texto de treino",
    "gzip -9, no training text": "gzip -9, sem texto de treino",
    "uniform over bytes": "uniforme sobre bytes",
    "run": "execução",
    "bits per byte": "bits por byte",
    "own cleaning": "limpeza própria",
    "perplexity": "perplexidade",
    "accuracy": "acurácia",
    "million tokens": "milhões de tokens",
    "CPU min": "min de CPU",
    "parameters": "parâmetros",
    "samples failing": "amostras reprovadas",
    "thesis' guardrail": "filtro da tese",
    "(track 2)": "(trilha 2)",
    "fail": "reprova",
    "pass": "passa",
    "arm": "braço",
    "gain": "ganho",
    "QA words": "palavras em QA",
    "summarization words": "palavras em resumo",
    "rewriting words": "palavras em reescrita",
    "summarization": "resumo",
    "rewriting": "reescrita",
}
OF = re.compile(r"(\d) of (\d)")
PHRASE = re.compile(
    "|".join(
        rf"(?<![\w-]){re.escape(words)}(?![\w-])" for words in sorted(WORDS, key=len, reverse=True)
    )
)
NUMBER = re.compile(r"(?<![\w.])\d{1,3}(?:,\d{3})*(?:\.\d+)?(?![\w.])|(?<![\w.])\d+\.\d+(?![\w.])")
SWAP = str.maketrans(",.", ".,")


def in_portuguese(table: str) -> str:
    """Return a Markdown table of results with Portuguese words and numbers.

    ``1,603,360`` becomes ``1.603.360``, ``[1.707, 1.818]`` becomes ``[1,707; 1,818]``.
    """
    text = PHRASE.sub(lambda match: WORDS[match[0]], table)
    text = OF.sub(r"\1 de \2", text)
    text = re.sub(r"\[([^\],]+), ([^\]]+)\]", r"[\1; \2]", text)
    return NUMBER.sub(lambda match: match[0].translate(SWAP), text)
