"""`autotl align`: how near images are to what each network knows."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from autotl.escaping import escape
from autotl.ui.output import write_line

if TYPE_CHECKING:
    from autotl.alignment.card import Alignment, Card

__all__ = ["add_commands"]

BARS = "▁▂▃▄▅▆▇█"


def add_commands(app: typer.Typer) -> None:
    app.command()(align)


def align(
    data: Annotated[str, typer.Argument(help="Labelled images: a folder, a CSV manifest, or the name of a data set.")],
    backbone: Annotated[
        list[str] | None, typer.Option(metavar="NAME", help="A pretrained network; repeat the flag for more.")
    ] = None,
    images: Annotated[
        int | None, typer.Option(min=2, metavar="N", help="Images of the largest sample (default: 2048, or all).")
    ] = None,
    test: Annotated[str | None, typer.Option(metavar="DATA|none", help="Separate test images, or none.")] = None,
    seed: Annotated[int, typer.Option(min=0, metavar="N", help="Seed of the split and the sample.")] = 0,
    devices: Annotated[str, typer.Option(metavar="auto", help="Where networks run: auto, cpu or cuda:0.")] = "auto",
    cache: Annotated[Path | None, typer.Option(metavar="FOLDER", help="The cache's folder.")] = None,
    offline: Annotated[bool, typer.Option("--offline", metavar="", help="Download no weights.")] = False,
    download: Annotated[
        str | None, typer.Option(metavar="never|ask|always", help="Whether weights may be downloaded.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", metavar="", help="Print one JSON object.")] = False,
) -> None:
    """Measure how near labelled images are to what each network knows, and which parts of it to retrain.

    Networks see a sample of the training images; what they compute stays in the cache for a search.
    """
    from autotl.coordinator.align import align as measure

    errors = Console(stderr=True)
    with errors.status("reading images") as status:
        alignment = measure(
            data,
            backbones=backbone,
            images=images,
            test=test,
            seed=seed,
            devices=devices,
            cache=cache,
            offline=offline,
            download=download,
            log=lambda line: status.update(Text(escape(line))),
        )
    for warning in alignment.warnings:
        errors.print(Text.assemble(("not measured: ", "bold yellow"), escape(warning)), soft_wrap=True)
    if as_json:
        write_line(json.dumps(alignment.to_dict(), indent=2))
        return
    _print(alignment)


def _print(alignment: "Alignment") -> None:
    console = Console()
    table = Table(box=None, padding=(0, 1, 0, 0), header_style="dim", pad_edge=False)
    table.add_column("backbone", overflow="fold", min_width=18)
    for column in ("images", "expected", "by depth", "gap", "norms", "an image"):
        table.add_column(column, no_wrap=True, justify="left" if column == "by depth" else "right")
    for card in alignment.cards:
        error = card.predicted_error if card is not alignment.cards[0] else card.probe_error
        table.add_row(*(Text(escape(cell)) for cell in _row(card, error)))
    console.print(table)
    console.print(
        Text(
            "expected: accuracy of frozen features, from published accuracy and a probe of the images; behind the "
            "first, the error is that of the difference. by depth: "
            "nearest neighbours, from input to output. gap: the best inner level minus the output, in points. "
            "norms: distance of channel statistics, 1 for ordinary photographs.",
            "dim",
        )
    )
    for sentence in alignment.sentences:
        console.print(Text(f"· {escape(sentence)}"))


def _row(card: "Card", error: float) -> tuple[str, ...]:
    accuracies = [level.accuracy for level in card.levels]
    low, high = min(accuracies), max(accuracies)
    bars = "".join(BARS[round((len(BARS) - 1) * (a - low) / max(high - low, 1e-9))] for a in accuracies)
    return (
        card.backbone,
        f"{card.num_images:,}",
        f"{card.predicted:.1%} ± {100 * error:.1f}",
        f"{100 * low:.0f} {bars} {100 * high:.0f}%",
        f"{100 * card.gap:+.1f} ± {100 * card.gap_error:.1f}",
        "" if card.norm_ratio is None else f"{card.norm_ratio:.1f}",
        "" if card.seconds_per_image is None else f"{1000 * card.seconds_per_image:.0f}ms",
    )
