"""Trials by fire, too long for the test suite: `make soak`, or `python tests/soak/soak.py [NAME…]`.

Writes soak.json, a list of {trial, figure, target, holds}, and exits with 1 where one does not hold. With names, it
runs those alone and keeps what the file says of the others.
"""

import json
import sys
import tempfile
import time
import traceback
from pathlib import Path

import clusters  # noqa: F401  # each of these registers its trials
import containers  # noqa: F401
import crowding  # noqa: F401
import databases  # noqa: F401
import disks  # noqa: F401
import forged_models  # noqa: F401
import idle_workers  # noqa: F401
import killing  # noqa: F401
import millions  # noqa: F401
import mutations  # noqa: F401
import pools  # noqa: F401
import promises  # noqa: F401
import speeds  # noqa: F401
from fire import TRIALS, Outcome

PAGE = Path("soak.json")


def main(names: list[str]) -> int:
    unknown = sorted(set(names) - set(TRIALS))
    if unknown:
        print(f"There is no trial {', '.join(unknown)}. There are: {', '.join(TRIALS)}")
        return 2
    rows = {row["trial"]: row for row in json.loads(PAGE.read_text())} if PAGE.exists() and names else {}
    for name in names or TRIALS:
        began = time.monotonic()
        with tempfile.TemporaryDirectory(prefix=f"soak-{name}-") as folder:
            try:
                outcome = TRIALS[name](Path(folder))
            except Exception as error:
                traceback.print_exc()
                outcome = Outcome(f"{type(error).__name__}: {error}", "the trial comes to its end", False)
        rows[name] = {"trial": name, "figure": outcome.figure, "target": outcome.target, "holds": outcome.holds}
        verdict = "holds" if outcome.holds else "DOES NOT HOLD"
        print(f"{name}: {verdict} in {time.monotonic() - began:.0f} s: {outcome.figure} ({outcome.target})", flush=True)
        PAGE.write_text(json.dumps(list(rows.values()), indent=2, ensure_ascii=False) + "\n")
    return 0 if all(row["holds"] for row in rows.values()) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
