"""The protocol between a coordinator and its workers: every message as a frozen dataclass.

Messages travel as JSON (`autotl.workers.codec`). No message holds a moment, since clocks differ between processes:
`remaining` fields are seconds left when the message is sent, None for no limit. Nothing here imports torch.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

from autotl.config import StudyConfig
from autotl.data.dataset import ImageDataset
from autotl.data.splits import Split
from autotl.devices import Slot
from autotl.engines.probe import ProbeResult
from autotl.engines.recorded import FeatureSource
from autotl.features.progress import ExtractionProgress
from autotl.study.advice import Advice
from autotl.study.needs import Recording
from autotl.study.space import Choices
from autotl.workers.requests import REQUESTS, Answer, Request

__all__ = [
    "FROM_COORDINATOR",
    "FROM_WORKER",
    "NO_TIME_TO_TEST",
    "Activity",
    "Context",
    "Crashed",
    "DeviceError",
    "DiskIsFull",
    "Finalize",
    "Finalized",
    "FromWorker",
    "Hello",
    "HookCalled",
    "Log",
    "ModelSaved",
    "PluginFailed",
    "PluginIsBroken",
    "Probed",
    "Ready",
    "Record",
    "RecordTest",
    "Recorded",
    "RunTrial",
    "SearchFacts",
    "SetDeadline",
    "Setup",
    "Stop",
    "ToWorker",
    "TrialEnded",
    "TrialProgress",
    "TrialStarted",
    "member_folder",
]

NO_TIME_TO_TEST = "There was no time to predict the test images: run the same command again to predict them."


@dataclass(frozen=True)
class Context:
    """What a worker needs before its first job."""

    config: StudyConfig
    folder: Path
    """The study's folder, absolute."""
    dataset: ImageDataset
    split: Split
    choices: Choices
    slot: Slot
    cores: int
    """CPU cores of the whole search: the finalizing worker uses all of them while the others rest."""
    backbone_digests: Mapping[str, str] = field(default_factory=dict)
    """Of the backbones that are on the coordinator's machine, by name: workers elsewhere must have the same."""
    copy: Path | None = None
    """The folder of a journal that takes the place of the study's database, which is lost."""
    database: tuple[str, str] | None = None
    """For workers elsewhere: the URL of the study's database, without a password, and the study's name there."""


@dataclass(frozen=True)
class SearchFacts:
    """What the coordinator knows about a search that is about to end."""

    elapsed: float
    """Seconds since the search began."""
    trials: Mapping[str, int]
    """Number of trials by state: `complete`, `pruned`, `failed`."""
    versions: Mapping[str, str]
    """Versions of libraries and plugins by distribution."""


# -- from the coordinator to a worker


@dataclass(frozen=True)
class Setup:
    """Prepare for jobs: load plugins, open the study, create the engine. Answered by Ready."""

    context: Context
    remaining: float | None
    """Seconds until trials have to be done."""


@dataclass(frozen=True)
class SetDeadline:
    """The moment at which trials have to be done has moved."""

    remaining: float | None


@dataclass(frozen=True)
class RunTrial:
    """Job: train trial `number`, which is running in the study, and tell its result. Answered by TrialStarted …
    TrialEnded."""

    number: int
    time_budget: float | None
    """Seconds that the trial plans to train for."""
    source: FeatureSource | None = None
    """Whose recorded features the trial reads; None where the worker uses its own and records what is missing."""
    sample: int | None = None
    """Number of training and validation images that it learns from; None for all."""


@dataclass(frozen=True)
class Record:
    """Job: record features before trials need them. Answered by Recorded."""

    recording: Recording

    def describe(self) -> str:
        """What the worker does, in words for people."""
        return f"recording {self.recording.describe()}"


@dataclass(frozen=True)
class RecordTest:
    """Job: record what the best model so far computes of the test images, which nothing is chosen by. Answered by
    Recorded."""

    seconds_per_image: Mapping[str, float]
    """Measured duration of a pass with all cores, by backbone."""
    time_limit: float
    """Seconds that the passes of the model's networks may take."""

    def describe(self) -> str:
        """What the worker does, in words for people."""
        return "test images"


@dataclass(frozen=True)
class Align:
    """Job: measure how near the images are to what each backbone knows, and write alignment.json. Answered by
    Aligned."""

    backbones: tuple[str, ...]
    num_images: int
    """Of the sample."""
    time_budget: float
    """Seconds for all backbones."""

    def describe(self) -> str:
        """What the worker does, in words for people."""
        return "measuring alignment"


@dataclass(frozen=True)
class Finalize:
    """Last job: select the members, refit them, save the model, predict the test images once."""

    remaining: float | None
    """Seconds until the result is due."""
    seconds_per_image: Mapping[str, float]
    """Measured duration of a pass with all cores, by backbone."""
    facts: SearchFacts
    refit: bool = True
    """False after a worker crashed while it refitted."""
    interrupted: bool = False
    """A user waits after Ctrl-C: skip the test images unless there is time for all of them."""


@dataclass(frozen=True)
class Stop:
    """End the process with exit code 0 once the current job is done."""


# -- from a worker to the coordinator; each message is a sign of life


@dataclass(frozen=True)
class Hello:
    """First message on a connection: which worker this is."""

    token: str
    """What the launcher gave to the process that it started."""
    slot: Slot
    """Where the worker runs; a worker that joins from another process tells it to the coordinator."""


@dataclass(frozen=True)
class Probed:
    """The worker has asked its device whether it works, before Setup; during Setup, where its host can't run trials of
    this search. It ends where the device isn't usable."""

    probe: ProbeResult


@dataclass(frozen=True)
class Ready:
    """The worker waits for jobs."""

    seconds: float = 0.0
    """In which it has imported its libraries; 0 where that isn't known."""


@dataclass(frozen=True)
class TrialStarted:
    """The trial has its recipe."""

    number: int
    strategy: str
    backbone: str
    head: str
    description: str


@dataclass(frozen=True)
class TrialProgress:
    """The trial has used a fraction of its own budget; `score` is its best validation score."""

    number: int
    fraction: float
    score: float


@dataclass(frozen=True)
class TrialEnded:
    """The trial is told: the study has its state and value."""

    number: int


@dataclass(frozen=True)
class Recorded:
    """Record or RecordTest is done, or given up."""

    source: FeatureSource | None
    """Where the features are; None where they could not be recorded, and after RecordTest."""
    cause: str = ""
    """Why not."""
    is_device_error: bool = False
    """The worker's process ends: it cannot be trusted further."""


@dataclass(frozen=True)
class Aligned:
    """Align is done, or given up."""

    advice: Advice = field(default_factory=Advice)
    """Empty where nothing was measured."""
    cause: str = ""
    """Why it was given up."""
    is_device_error: bool = False
    """The worker's process ends: it cannot be trusted further."""


@dataclass(frozen=True)
class DeviceError:
    """The trial is told as failed by an accelerator error. The worker's process ends: it cannot be trusted further."""

    number: int
    cause: str


@dataclass(frozen=True)
class Activity:
    """What the worker does now, in words for people."""

    text: str


@dataclass(frozen=True)
class HookCalled:
    """The worker waits for a plugin's event hook: its trial is told, or its model is saved."""

    plugin: str
    hook: str


@dataclass(frozen=True)
class Log:
    """A line for the user."""

    text: str


@dataclass(frozen=True)
class PluginFailed:
    """A plugin's hook raised: a warning for the user, once for each plugin and hook."""

    plugin: str
    hook: str
    text: str


@dataclass(frozen=True)
class PluginIsBroken:
    """The same under --strict-plugins: the search ends."""

    text: str


@dataclass(frozen=True)
class DiskIsFull:
    """The disk that holds `path` is full: the search ends."""

    text: str
    path: Path


@dataclass(frozen=True)
class ModelSaved:
    """The model is on disk. A later one replaces it: of refitted members, or tested."""

    result: Mapping[str, Any]
    is_tested: bool = False
    """The test images are predicted as well; plugins are yet to be notified."""


@dataclass(frozen=True)
class Finalized:
    """Finalize is done."""

    result: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Crashed:
    """The worker cannot go on; its process ends."""

    traceback: str


ToWorker: TypeAlias = Setup | SetDeadline | RunTrial | Record | RecordTest | Align | Finalize | Stop | Answer
FromWorker: TypeAlias = (
    Hello
    | Probed
    | Ready
    | TrialStarted
    | TrialProgress
    | TrialEnded
    | Recorded
    | Aligned
    | DeviceError
    | ExtractionProgress
    | Activity
    | HookCalled
    | Log
    | PluginFailed
    | PluginIsBroken
    | DiskIsFull
    | ModelSaved
    | Finalized
    | Crashed
    | Request
)

FROM_COORDINATOR = {
    cls.__name__: cls for cls in (Setup, SetDeadline, RunTrial, Record, RecordTest, Align, Finalize, Stop, Answer)
}
FROM_WORKER = {
    cls.__name__: cls
    for cls in (
        *(
            Hello,
            Probed,
            Ready,
            TrialStarted,
            TrialProgress,
            TrialEnded,
            Recorded,
            Aligned,
            DeviceError,
            Activity,
            HookCalled,
            Log,
        ),
        *(ExtractionProgress, PluginFailed, PluginIsBroken, DiskIsFull, ModelSaved, Finalized, Crashed, *REQUESTS),
    )
}


def member_folder(folder: Path, number: int) -> Path:
    """Where the fitted model of trial `number` lies in a study's folder."""
    return folder / "trials" / f"{number:05}"
