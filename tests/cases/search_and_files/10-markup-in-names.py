"""Names are read as rich's markup: a label "food [/drink]" ends a search on a terminal with a traceback, and `evaluate`
shows "cat [old]" and "cat [new]" both as "cat"."""
import io
from common import *
from rich.console import Console
from autotl.events import SearchStarted
from autotl.ui.rendering import headline_table
from autotl.cli.predict import _per_class

bad = []
head = SearchStarted(
    study="x", folder=Path("x"), data="x", metric="accuracy", images={"train": 2}, classes=("food [/drink]", "b"),
    backbones=("n",), devices=("cpu:0",), warnings=(),
)
screen = Console(file=io.StringIO(), width=100, force_terminal=True)
try:
    screen.print(headline_table(head, 100))
    if "[/drink]" not in screen.file.getvalue():
        bad.append("the headline drops [/drink]")
except Exception as error:
    bad.append(f"{type(error).__name__}: {error}")
sheet = Console(file=io.StringIO(), width=100)
sheet.print(_per_class([{"class": "cat [old]", "precision": 1.0, "n": 3}, {"class": "cat [new]", "precision": 0.5, "n": 3}]))
if "[old]" not in sheet.file.getvalue():
    bad.append("evaluate shows 'cat [old]' as 'cat'")
verdict(not bad, "; ".join(bad) or "names stay as they are")
