"""What a model may cost: the limits of a search, how they are typed, and which costs keep them."""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

__all__ = ["Limits", "format_cost", "parse_count", "parse_milliseconds", "three_digits"]

OPTIONS = {"milliseconds": "--max-latency", "megabytes": "--max-size", "parameters": "--max-parameters"}
"""The option that limits a cost."""


def parse_milliseconds(value: Any) -> Any:
    """`"20ms"`, `"0.02s"` or a number of milliseconds, to milliseconds. Raises ValueError."""
    if isinstance(value, str):
        parts = re.fullmatch(r"(\d+(?:\.\d*)?|\.\d+)\s*(ms|s|)", value.strip().lower())
        if not parts:
            raise ValueError("not a latency")
        value = float(parts[1]) * (1000 if parts[2] == "s" else 1)
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value) or value <= 0:
        raise ValueError("not a latency above 0 ms")
    return float(value)


def parse_count(value: Any) -> Any:
    """`"10M"`, `"500k"`, `"1.5G"` or a number, to a whole number. Raises ValueError."""
    if isinstance(value, str):
        parts = re.fullmatch(r"(\d+(?:\.\d*)?|\.\d+)\s*([kmg]?)", value.strip().lower())
        if not parts:
            raise ValueError("not a number of parameters")
        return round(float(parts[1]) * {"": 1, "k": 10**3, "m": 10**6, "g": 10**9}[parts[2]])
    return value


def format_cost(name: str, value: float) -> str:
    """`35.2 ms an image`, `52.1 MB`, `25.6M parameters`."""
    if name == "milliseconds":
        return f"{three_digits(value)} ms an image"
    return f"{three_digits(value)} MB" if name == "megabytes" else f"{three_digits(value / 1e6)}M parameters"


def three_digits(value: float) -> str:
    """`0.0123`, `12.3`, `1234`: at least three digits, and never an exponent for large numbers, which nobody types."""
    return f"{value:.0f}" if value >= 99.5 else f"{value:.3g}"


@dataclass(frozen=True)
class Limits:
    """The most that a model may cost; None where there is no limit.

    Costs are mappings with the names of the fields here, of a trial or of a model. One that is None is unknown, and
    keeps no limit.

    >>> limits = Limits(milliseconds=20.0)
    >>> limits.constraints({"milliseconds": 25.0}), limits.keeps({"milliseconds": 20.0})
    ({'milliseconds': 0.25}, True)
    >>> limits.explain({"milliseconds": 25.0}), limits.remedy({"milliseconds": 25.0})
    ('25 ms an image, and --max-latency allows 20', '--max-latency 26ms')
    """

    milliseconds: float | None = None
    """For one image at a time: the networks' passes."""
    megabytes: float | None = None
    """Of the weights as saved."""
    parameters: int | None = None
    """Of the networks."""

    def __bool__(self) -> bool:
        return any(limit is not None for limit in vars(self).values())

    def constraints(self, costs: Mapping[str, Any]) -> dict[str, float]:
        """By cost: the share by which it exceeds its limit, which is kept from 0 downwards, as in Optuna."""
        return {
            name: 1.0 if costs.get(name) is None else costs[name] / limit - 1
            for name, limit in vars(self).items()
            if limit is not None
        }

    def keeps(self, costs: Mapping[str, Any]) -> bool:
        """Whether all costs are known and within their limits."""
        return all(excess <= 0 for excess in self.constraints(costs).values())

    def exceeded(self, costs: Mapping[str, Any]) -> list[str]:
        """The names of the costs that are known and above their limits."""
        return [name for name, excess in self.constraints(costs).items() if excess > 0 and costs.get(name) is not None]

    def explain(self, costs: Mapping[str, Any]) -> str:
        """What exceeds its limit, as a text; "" where nothing does."""
        return "; ".join(
            f"{format_cost(name, costs[name])}, and {OPTIONS[name]} allows {self._typed(name, getattr(self, name))}"
            for name in self.exceeded(costs)
        )

    def remedy(self, costs: Mapping[str, Any]) -> str:
        """The options to type, with values that these costs keep."""
        units = {"milliseconds": (1.0, "ms"), "megabytes": (1.0, "MB"), "parameters": (1e5, "")}
        typed = []
        for name in self.exceeded(costs):
            unit, suffix = units[name]
            value = math.floor(costs[name] / unit) + 1
            typed.append(f"{OPTIONS[name]} {f'{value / 10:g}M' if name == 'parameters' else f'{value}{suffix}'}")
        return " ".join(typed)

    def describe(self) -> str:
        """The limits as they are typed: `--max-latency 20ms --max-size 50MB`."""
        suffixes = {"milliseconds": "ms", "megabytes": "MB", "parameters": ""}
        return " ".join(
            f"{OPTIONS[name]} {self._typed(name, limit)}{suffixes[name]}"
            for name, limit in vars(self).items()
            if limit is not None
        )

    @staticmethod
    def _typed(name: str, limit: float) -> str:
        return f"{limit / 1e6:g}M" if name == "parameters" else f"{limit:g}"
