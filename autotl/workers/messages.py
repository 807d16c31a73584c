"""What passes between the coordinator and its workers. Everything here pickles, and none of it needs torch."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from autotl.config import StudyConfig
from autotl.data.dataset import ImageDataset
from autotl.data.splits import Split
from autotl.devices import Slot
from autotl.study.space import Choices

__all__ = ["Context", "Finish", "Send", "Ticket", "member_folder"]

Send = Callable[..., None]
"""`send("doing", text)`: tells the coordinator something; see `autotl.workers.pool` for the words."""


@dataclass(frozen=True)
class Context:
    """What a worker has to know before its first ticket."""

    config: StudyConfig
    folder: Path
    dataset: ImageDataset
    split: Split
    choices: Choices
    slot: Slot
    cores: int
    """All that the search may use: for the last step, when the other workers rest."""


@dataclass(frozen=True)
class Ticket:
    """Leave to run one trial."""

    time_budget: float
    """Seconds that the trial should keep within; it plans its epochs by them."""


@dataclass(frozen=True)
class Finish:
    """The last ticket: choose the members, fit them again, save the model, look at the test images once."""

    until: float
    """time.monotonic() at which the result has to be there."""
    seconds_an_image: dict[str, float]
    """What a pass over an image takes with all cores, by backbone, where it was measured."""
    facts: dict[str, Any]
    """What the coordinator knows of the result: seconds, versions, counts of trials."""
    refit: bool = True
    """No where a worker was lost over it."""
    brief: bool = False
    """Somebody waits at the keyboard: where there is no time to look at all test images, look at none."""


def member_folder(folder: Path, number: int) -> Path:
    """Where a trial's fitted model lies in a study's folder."""
    return folder / "trials" / f"{number:05}"
