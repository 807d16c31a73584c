"""Side by side, in one run: the way most people write it, and autotl's. `make bench`, or
`python tests/bench/bench.py [NAME …]`.

Prints a table and writes bench.json, a list of {work, naive, autotl, unit, ratio, target, holds}. With names it runs
those works alone and keeps what the file says of the others. Exits with 1 where a row doesn't hold or a work fails; the
other works run all the same. Timings drift on a shared machine; ratios hold.
"""

import argparse
import json
import sys
import tempfile
import time
import traceback
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path

import extraction  # noqa: F401  # each of these registers its works
import memory  # noqa: F401
import overhead  # noqa: F401
import torch
import training  # noqa: F401
import waiting  # noqa: F401
from rich.console import Console
from rich.table import Table
from rows import WORKS, Ground, Row
from searches import SEARCHES

CLOTHING = Path(__file__).resolve().parents[2].parent / "shared" / "data" / "clothing"


def main(arguments: list[str]) -> int:
    works = {**WORKS, **SEARCHES}
    options = _parser(works).parse_args(arguments)
    unknown = sorted(set(options.names) - set(works))
    if unknown:
        print(f"There is no work {', '.join(unknown)}. There are: {', '.join(works)}")
        return 2
    torch.set_num_threads(options.threads)
    names = options.names or [*WORKS, *(SEARCHES if options.searches else ())]
    kept = json.loads(options.out.read_text()) if options.names and options.out.exists() else []
    rows = {row["work"]: row for row in kept}
    failed = []
    with tempfile.TemporaryDirectory(prefix="autotl-bench-") as folder:
        ground = Ground(
            Path(folder), options.backbone, options.clothing, options.images, options.naive_images, options.threads
        )
        for name in names:
            if name == "extraction-clothing" and ground.clothing is None and not options.names:
                print(f"{name}: left out, its photographs aren't here (--clothing)", file=sys.stderr)
                continue
            began = time.monotonic()
            try:
                for row in works[name](ground):
                    rows[row.work] = asdict(row)
            except Exception:
                failed.append(name)
                traceback.print_exc()
            state = "failed after" if name in failed else "took"
            print(f"{name} {state} {time.monotonic() - began:.0f} s", file=sys.stderr, flush=True)
            options.out.write_text(json.dumps(list(rows.values()), indent=2, ensure_ascii=False) + "\n")
    Console(width=132).print(_table(Row(**row) for row in rows.values()))
    if failed:
        print(f"Failed: {', '.join(failed)}. The tracebacks are above.")
    return 0 if not failed and all(row["holds"] for row in rows.values()) else 1


def _parser(works: Iterable[str]) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("bench.py", description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"Works to run: {', '.join(works)}.")
    parser.add_argument("--searches", action="store_true", help="Run the whole searches too, of 22 minutes.")
    parser.add_argument("--out", type=Path, default=Path("bench.json"), help="Where the rows are written.")
    parser.add_argument("--backbone", default="efficientnet_lite0", help="Whose features.")
    parser.add_argument("--clothing", type=Path, default=CLOTHING if CLOTHING.is_dir() else None, help="A folder.")
    parser.add_argument("--images", type=int, help="Use no more images of a data set: a look that the bench works.")
    parser.add_argument("--naive-images", type=int, default=384, help="The naive way is timed on so many.")
    parser.add_argument("--threads", type=int, default=2, help="Cores to use.")
    return parser


def _table(rows: Iterable[Row]) -> Table:
    table = Table("work", "naive", "autotl", "unit", "ratio", "target", "holds")
    for row in rows:
        ratio = "" if row.ratio is None else f"{row.ratio:,.2f} ×"
        table.add_row(
            row.work, _figure(row.naive), _figure(row.autotl), row.unit, ratio, row.target, "yes" if row.holds else "NO"
        )
    return table


def _figure(value: float | None) -> str:
    if value is None:
        return "–"
    return f"{value:,.0f}" if abs(value) >= 100 or value == int(value) else f"{value:,.3g}"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
