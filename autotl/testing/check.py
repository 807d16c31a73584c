"""What a check is: a promise of a contract, the place that makes it, and code that finds out."""

import inspect
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pytest

__all__ = ["Check", "Checks", "ContractBroken", "Unexpected", "expect"]

PACKAGE = Path(__file__).resolve().parents[2]


class ContractBroken(AssertionError):
    """What was promised, what came, and where the contract says so."""


class Unexpected(Exception):
    """What came in the place of what was promised, in words."""


def expect(condition: Any, came: str) -> None:
    """Inside a check: what `came` breaks the promise, where the condition doesn't hold."""
    __tracebackhide__ = True
    if not condition:
        raise Unexpected(came)


@dataclass(frozen=True)
class Check:
    """One promise of a contract. Call it with the part to check: `check(MyHead())`."""

    component: str
    contract: type
    name: str
    promise: str
    place: Any
    run: Callable[..., None]
    options: tuple[str, ...]

    def __call__(self, part: Any, **options: Any) -> None:
        """Raises ContractBroken where `part` doesn't keep the promise, chained from what it raised, where it did.

        Skips (in pytest) where it can't be found out here: weights that aren't on this machine, a chip that isn't.
        """
        __tracebackhide__ = True
        if isinstance(part, type):
            raise TypeError(f"give check() an instance: check({part.__name__}())")
        if not isinstance(part, self.contract):
            raise TypeError(f"a {self.component} check takes a {self.contract.__name__}, got {part!r}")
        unknown = sorted(set(options) - set(self.options))
        if unknown:
            takes = f"it takes {', '.join(self.options)}" if self.options else "it takes none"
            raise TypeError(f"a {self.component} check has no option {unknown[0]!r}: {takes}")
        wanted = inspect.signature(self.run).parameters
        try:
            self.run(part, **{name: value for name, value in options.items() if name in wanted})
        except Unexpected as unexpected:
            raise ContractBroken(self._words(part, str(unexpected))) from unexpected.__cause__
        except Exception as error:
            raise ContractBroken(self._words(part, f"{type(error).__name__}: {error}")) from error

    def _words(self, part: Any, came: str) -> str:
        return (
            f"{self.component} {getattr(part, 'name', part)!r} doesn't keep {self.name}\n"
            f"  promised: {self.promise}\n"
            f"  came:     {came}\n"
            f"  see:      {self.where}"
        )

    @property
    def where(self) -> str:
        """Where the contract makes the promise: `Head.build, autotl/heads/base.py:34`."""
        place = self.place
        code = getattr(place, "fget", None) or getattr(place, "func", None) or place  # a property's own function
        file = Path(inspect.getsourcefile(code) or "").resolve().relative_to(PACKAGE).as_posix()
        if inspect.ismodule(code):
            return file
        return f"{code.__qualname__}, {file}:{inspect.getsourcelines(code)[1]}"


@dataclass
class Checks:
    """The checks of one component of part, in the order in which they are easiest to mend."""

    component: str
    contract: type
    options: tuple[str, ...] = ()
    """What `check(part, …)` takes besides the part."""
    checks: list[Check] = field(default_factory=list)

    def __iter__(self) -> Iterator[Check]:
        return iter(self.checks)

    def __len__(self) -> int:
        return len(self.checks)

    def promise(self, place: Any) -> Callable[[Callable[..., None]], Callable[..., None]]:
        """Marks a function as a check. `place` is where the contract makes the promise; its words are the docstring."""

        def add(function: Callable[..., None]) -> Callable[..., None]:
            words = " ".join((function.__doc__ or "").split())
            name = function.__name__
            self.checks.append(Check(self.component, self.contract, name, words, place, function, self.options))
            return function

        return add

    def parametrize(self) -> "pytest.MarkDecorator":
        """A decorator for a test that takes `check`: it runs once for each check, under the check's name."""
        import pytest

        return pytest.mark.parametrize("check", self.checks, ids=[check.name for check in self.checks])
