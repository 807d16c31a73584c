"""A check: one requirement of a contract, the code that tests it, and where the contract states it."""

import inspect
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pytest

__all__ = ["Check", "Checks", "ContractViolation", "Unexpected", "expect"]

PACKAGE = Path(__file__).resolve().parents[2]


class ContractViolation(AssertionError):
    """A component violates its contract. The message has the requirement, what the component did, and a reference."""


class Unexpected(Exception):
    """What a component did instead of what its contract requires."""


def expect(condition: Any, got: str) -> None:
    """Inside a check: unless `condition` holds, raise Unexpected with `got`, which describes what the component did."""
    __tracebackhide__ = True
    if not condition:
        raise Unexpected(got)


@dataclass(frozen=True)
class Check:
    """One requirement of a contract. Call it with the component to test: `check(MyHead())`."""

    component: str
    """The component type: backbone, head, …"""
    contract: type
    name: str
    requirement: str
    source: Any
    """The class or function whose docstring states the requirement."""
    run: Callable[..., None]
    options: tuple[str, ...]

    def __call__(self, component: Any, **options: Any) -> None:
        """Test a component.

        Skips the pytest test where the requirement can't be tested on this machine: weights that aren't downloaded, a
        device that isn't there.

        Raises:
            ContractViolation: the component doesn't meet the requirement, or raised an exception, whose traceback is
                a note.
            TypeError: `component` has the wrong type, or an option doesn't exist.
        """
        __tracebackhide__ = True
        if isinstance(component, type):
            raise TypeError(f"check() takes an instance: check({component.__name__}())")
        if not isinstance(component, self.contract):
            raise TypeError(f"a {self.component} check takes a {self.contract.__name__}, got {component!r}")
        unknown = sorted(set(options) - set(self.options))
        if unknown:
            known = f"its options are {', '.join(self.options)}" if self.options else "it has none"
            raise TypeError(f"a {self.component} check has no option {unknown[0]!r}: {known}")
        accepted = inspect.signature(self.run).parameters
        try:
            self.run(component, **{name: value for name, value in options.items() if name in accepted})
        except Unexpected as unexpected:
            violation, cause = ContractViolation(self._message(component, str(unexpected))), unexpected.__cause__
        except Exception as error:
            violation, cause = ContractViolation(self._message(component, f"{type(error).__name__}: {error}")), error
        else:
            return
        if cause is not None:  # as a note, which is printed after the message; a chained cause is printed before it
            violation.add_note("".join(traceback.format_exception(cause)).rstrip())
        raise violation from None

    def _message(self, component: Any, got: str) -> str:
        return (
            f"{self.component} {getattr(component, 'name', component)!r} violates {self.name}\n"
            f"  expected: {self.requirement}\n"
            f"  got:      {got}\n"
            f"  see:      {self.reference}"
        )

    @property
    def reference(self) -> str:
        """Where the contract states the requirement: `Head.build, autotl/heads/base.py:34`."""
        source = self.source
        code = getattr(source, "fget", None) or getattr(source, "func", None) or source  # the function of a property
        file = Path(inspect.getsourcefile(code) or "").resolve().relative_to(PACKAGE).as_posix()
        if inspect.ismodule(code):
            return file
        return f"{code.__qualname__}, {file}:{inspect.getsourcelines(code)[1]}"


@dataclass
class Checks:
    """The checks of one component type. Basic requirements come first: violating one often violates later ones too."""

    component: str
    contract: type
    options: tuple[str, ...] = ()
    """The keyword arguments of `check(component, …)`."""
    checks: list[Check] = field(default_factory=list)

    def __iter__(self) -> Iterator[Check]:
        return iter(self.checks)

    def __len__(self) -> int:
        return len(self.checks)

    def requires(self, source: Any) -> Callable[[Callable[..., None]], Callable[..., None]]:
        """Decorator that adds a function as a check. Its docstring is the requirement, which `source` states."""

        def add(function: Callable[..., None]) -> Callable[..., None]:
            requirement = " ".join((function.__doc__ or "").split())
            check = Check(self.component, self.contract, function.__name__, requirement, source, function, self.options)
            self.checks.append(check)
            return function

        return add

    def parametrize(self) -> "pytest.MarkDecorator":
        """A decorator for a test with an argument `check`: the test runs once per check, under the check's name."""
        import pytest

        return pytest.mark.parametrize("check", self.checks, ids=[check.name for check in self.checks])
