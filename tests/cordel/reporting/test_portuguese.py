"""Tables for Brazilian readers, against lines written by hand."""

import pytest

from cordel.reporting.portuguese import in_portuguese


@pytest.mark.parametrize(
    ("english", "portuguese"),
    [
        ("| run | bits per byte | CPU min |", "| execução | bits por byte | min de CPU |"),
        ("| 1.762 [1.707, 1.818] | 1,603,360 |", "| 1,762 [1,707; 1,818] | 1.603.360 |"),
        ("| 1,622.1 | 61.6 | 0.20 |", "| 1.622,1 | 61,6 | 0,20 |"),
        ("| v4_subword_ep6 | 5 of 5 | 0.323 fail |", "| v4_subword_ep6 | 5 de 5 | 0,323 reprova |"),
        ("| *xz -9e, no training text* | 2.405 |", "| *xz -9e, sem texto de treino* | 2,405 |"),
        ("| sft − base | +0.333 [-0.050, +0.142] |", "| sft − base | +0,333 [-0,050; +0,142] |"),
        ("| QA F1 | summarization words | 12 |", "| QA F1 | palavras em resumo | 12 |"),
        ("| base | 0.375 ± 0.066 |", "| base | 0,375 ± 0,066 |"),
        ("| cpt (track 2) | ≥ 2.343 |", "| cpt (trilha 2) | ≥ 2,343 |"),
        ("| --- | ---: |", "| --- | ---: |"),
    ],
)
def test_words_and_numbers(english: str, portuguese: str) -> None:
    assert in_portuguese(english) == portuguese
