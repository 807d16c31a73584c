"""What `autotl.search` returns: paths, scores, and on first use the model, the study and plots."""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import optuna

    from autotl.model.image_model import ImageModel
    from autotl.report.plots import Plots

__all__ = ["SearchResult"]


@dataclass(frozen=True)
class SearchResult:
    """What a search leaves. All paths are absolute.

    >>> result = SearchResult(Path("/studies/photos"), {"test": {"accuracy": 0.97, "n": 40}, "leaderboard": []})
    >>> result.test["accuracy"], str(result.model_path)
    (0.97, '/studies/photos/model')
    """

    folder: Path
    """The study's folder."""
    result: Mapping[str, Any]
    """What `result.json` holds, with `leaderboard`, the `members` of the model, and its path `model`."""

    @property
    def leaderboard(self) -> list[dict[str, Any]]:
        """The complete trials, best first, as rows of a table: `pandas.DataFrame(result.leaderboard)`.

        Each has `rank`, `trial`, `value`, the score of every metric, `strategy`, `backbone`, `head`, `seconds`, its
        costs (see `costs` in `result`), `within_limits`, `in_model`, `description`, and `recipe` as JSON.
        """
        return list(self.result["leaderboard"])

    @property
    def test(self) -> dict[str, float] | None:
        """Scores on the test images, and their number `n`; None where there are none."""
        scores: dict[str, float] | None = self.result["test"]
        return scores

    @property
    def model_path(self) -> Path:
        """The model's folder."""
        return self.folder / "model"

    @cached_property
    def model(self) -> "ImageModel":
        """The model, loaded on first use, on the first accelerator that works, else on the CPU."""
        from autotl.model.image_model import load

        return load(self.model_path)

    @cached_property
    def study(self) -> "optuna.Study":
        """The Optuna study, opened on first use."""
        from autotl.study.study import load_study

        return load_study(self.folder)

    @property
    def report(self) -> Path | None:
        """The file `report.html`; None where there is none."""
        file = self.folder / "report.html"
        return file if file.is_file() else None

    @cached_property
    def plot(self) -> "Plots":
        """Plots with matplotlib: `result.plot.confusion()`, `.progress()`, `.trials()`, `.calibration()`,
        `.coverage()`. The images are read on first use, for their labels."""
        from autotl.coordinator.report import record_of
        from autotl.report.plots import Plots

        return Plots(lambda: record_of(self.folder))

    def _repr_html_(self) -> str:
        """What a notebook shows: scores beside the baseline, the members of the model, and the best trials."""
        from autotl.page.base import Fold, Table, Text
        from autotl.page.render import render_elements

        result = self.result
        test, baseline = result.get("test"), result.get("baseline") or {}
        elements: list[Any] = [Text(f"{result['study']}: no test images.", "lead")]
        if test:
            share = 100 * test["accuracy"]
            elements = [Text(f"{result['study']}: of 100 new images, about {share:.0f} get the right class", "lead")]
            rows = [(name, value, baseline.get(name)) for name, value in test.items() if name != "n"]
            head = (f"{test['n']:,} untouched test images", "model", "majority")
            elements.append(Table(head, rows))
        first = result.get("leaderboard", [])[:8]
        best = [(row["trial"], row["value"], row["seconds"], row["description"]) for row in first]
        table = Table(("trial", f"validation {result['metric']}", "seconds", "recipe"), best, digits={2: 1})
        members = [(m["trial"], m["weight"], m["description"]) for m in result.get("members", [])]
        elements.append(Fold("The best trials", (table,)))
        elements.append(Fold("The model", (Table(("trial", "weight", "recipe"), members),)))
        elements.append(Text(f"Model: {self.model_path} · report: {self.report or 'none'}", "note"))
        return render_elements(elements)

    def __getstate__(self) -> dict[str, Any]:
        return {f.name: getattr(self, f.name) for f in fields(self)}  # neither the loaded model nor the open study
