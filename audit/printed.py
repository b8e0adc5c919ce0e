"""Figures as a text prints them, in English or Portuguese: their number, unit and precision."""

import re
from dataclasses import dataclass
from decimal import ROUND_HALF_UP, Decimal

from cordel.runtime.errors import InputError

# A space between digits groups thousands, as LaTeX's "65\,536" does. A point or comma is always
# the decimal sign: the thesis groups with neither.
NUMBER = re.compile(r"([+-]?)\s*(\d+(?: \d{3})*)(?:[.,](\d+))?\s*(.*)")
UNITS = {
    "": Decimal(1),
    "%": Decimal("0.01"),
    "k": Decimal(10**3),
    "milhões": Decimal(10**6),
    "x": Decimal(1),
    "x 10^6": Decimal(10**6),
    "MB": Decimal(10**6),
    "GB": Decimal(10**9),
}


@dataclass(frozen=True, slots=True)
class Printed:
    """``number`` times ``unit``, printed with ``decimals`` digits after the decimal sign."""

    number: Decimal
    decimals: int
    unit: Decimal

    def rounded(self, value: float) -> Decimal:
        """Return ``value`` in the printed unit and precision, a half rounded away from zero.

        The shortest decimal that denotes the float is rounded, so that 0.035 is a half.
        """
        return self._scaled(value).quantize(Decimal(1).scaleb(-self.decimals), ROUND_HALF_UP)

    def difference(self, value: float) -> float:
        """Return ``value`` minus the printed number, in the printed unit."""
        return float(self._scaled(value) - self.number)

    def _scaled(self, value: float) -> Decimal:
        return Decimal(repr(value)) / self.unit


def parse(text: str) -> Printed:
    """Return what ``text`` prints: ``"13.88"``, ``"3,02"``, ``"-19.2%"``, ``"16 x 10^6"``.

    Raises:
        InputError: It is no number with a known unit.
    """
    plain = text.replace("−", "-").replace("×", "x").strip("≈~ ")
    match = NUMBER.fullmatch(plain)
    if not match or match[4] not in UNITS:
        raise InputError(
            f"audit/claims.yaml: {text!r} is no number with one of the units "
            f"{', '.join(filter(None, UNITS))}; quote the thesis' figure alone"
        )
    sign, whole, fraction, unit = match[1], match[2].replace(" ", ""), match[3] or "", match[4]
    return Printed(Decimal(f"{sign}{whole}.{fraction or 0}"), len(fraction), UNITS[unit])
