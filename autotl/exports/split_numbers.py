"""Numbers of some 31 bits as the sum of two in float32, for runtimes that have no float64.

Compare Dekker, A floating-point technique for extending the available precision, Numerische Mathematik 18, 1971.
"""

from dataclasses import dataclass
from typing import TypeAlias

from torch import Tensor

__all__ = ["SplitNumber"]

Factor: TypeAlias = Tensor | float
"""Of few bits."""
GRID = 2**6
"""`coarse` of a ratio below 4 is a multiple of 1 / GRID: 8 bits, so that a product of three has the 24 of float32."""
QUOTIENT_GRID = 2**8
DIVISOR_GRID = 2**10
"""As a multiple of 1 / DIVISOR_GRID a divisor below 32 has 15 bits, and its product with the coarse quotient 24."""


@dataclass(frozen=True)
class SplitNumber:
    """`coarse` + `rest`. Sums and products of the coarse parts are exact, as long as they have few factors, and the
    rest is so small that what rounds it changes no bit that counts."""

    coarse: Tensor
    rest: Tensor

    @classmethod
    def ratio(cls, numerator: Tensor, denominator: Tensor) -> "SplitNumber":
        """Of whole numbers below 2**16, at most 4."""
        above, below = numerator.float(), denominator.float()
        coarse = (above / below * GRID).floor() / GRID
        return cls(coarse, (above - coarse * below) / below)

    def __add__(self, other: "SplitNumber | Factor") -> "SplitNumber":
        if isinstance(other, SplitNumber):
            return SplitNumber(self.coarse + other.coarse, self.rest + other.rest)
        return SplitNumber(self.coarse + other, self.rest)

    def __mul__(self, other: "SplitNumber | Factor") -> "SplitNumber":
        if isinstance(other, SplitNumber):
            rest = self.coarse * other.rest + self.rest * other.coarse + self.rest * other.rest
            return SplitNumber(self.coarse * other.coarse, rest)
        return SplitNumber(self.coarse * other, self.rest * other)

    __rmul__ = __mul__

    def __sub__(self, other: "SplitNumber | Factor") -> "SplitNumber":
        return self + -1 * other

    def __rsub__(self, other: Factor) -> "SplitNumber":
        return -1 * self + other

    def __truediv__(self, divisor: "SplitNumber") -> "SplitNumber":
        coarse = (self.float() / divisor.float() * QUOTIENT_GRID).floor() / QUOTIENT_GRID
        high = (divisor.coarse * DIVISOR_GRID).floor() / DIVISOR_GRID
        left = self.coarse - coarse * high - coarse * (divisor.coarse - high)
        return SplitNumber(coarse, (left + (self.rest - coarse * divisor.rest)) / divisor.float())

    def sum(self, dim: int, *, keepdim: bool) -> "SplitNumber":
        return SplitNumber(self.coarse.sum(dim, keepdim=keepdim), self.rest.sum(dim, keepdim=keepdim))

    def float(self) -> Tensor:
        return self.coarse + self.rest

    def rounded(self, scale: Tensor) -> Tensor:
        """The whole number nearest to this one times `scale`, a power of 2 from QUOTIENT_GRID on; of a quotient. Halves
        are rounded away from 0."""
        sign = self.float().sign()
        return sign * (sign * self.coarse * scale + (sign * self.rest * scale + 0.5).floor())
