"""Class names with square brackets: rich takes them for markup. `dog [small]` and `dog [large]` are both shown as `dog`,
and a label `[/b]` ends `evaluate` and the live display of `search` with a MarkupError traceback."""
from _common import *
import csv
import io
from dataclasses import replace
from autotl.events import SearchStarted
from rich.console import Console

work()
from autotl.cli.predict import _per_class
from autotl.ui.rendering import headline_table

failures = []
names = ["dog [small]", "dog [large]", "[unlabeled]", "[/b]"]
headline = SearchStarted("s", Path("s"), "d", tuple(names), dict(train=1), "accuracy", ("cpu:0",), ("b",), ())
rows = [dict({"class": name}, precision=1.0, recall=1.0, f1=1.0, n=1.0) for name in names]
for what, thing in (("search's headline", lambda n: headline_table(replace(headline, classes=tuple(n)), 100)),
                    ("evaluate's table", lambda n: _per_class([r for r in rows if r["class"] in n]))):
    for some in (names[:3], names[3:]):
        console = Console(file=io.StringIO(), width=120, force_terminal=False)
        try:
            console.print(thing(some))
        except Exception as error:
            failures.append(f"{what} {some}: {type(error).__name__}: {error}")
            continue
        shown = console.file.getvalue()
        gone = [name for name in some if name not in shown]
        if gone:
            failures.append(f"{what} doesn't show {gone}; it shows:\n{shown.rstrip()}")
if failures:
    wrong("\n".join(failures))
right()
