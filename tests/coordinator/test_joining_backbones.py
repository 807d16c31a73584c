"""Backbones that join a search while it runs, with scripted workers and downloads."""

from autotl.ui.progress import WorkerLine


class ScriptedFetching:
    """A download that arrives at the third look at it."""

    def __init__(self) -> None:
        self.looks = 0
        self.wanted: list[bool] = []

    def advance(self, has_time_for) -> list[str]:
        self.looks += 1
        self.wanted.append(has_time_for("later", 10.0))
        return ["later"] if self.looks == 3 else []

    def lines(self) -> tuple[WorkerLine, ...]:
        return (WorkerLine("download", None, "later", "120.0 MB of 346.0 MB, 11.2 MB/s", 9.0),)


def test_a_backbone_is_no_longer_missing_once_it_has_arrived(scene) -> None:
    s = scene(trials=8, time=600)
    s.search.fetching = ScriptedFetching()
    s.scheduler.missing = {"later", "never"}
    s.scheduler.has_time_for = lambda name, left: left > 0
    s.run()
    assert s.search.fetching.looks > 3
    assert s.scheduler.missing == {"never"}


def test_a_download_is_asked_for_the_time_that_is_left_after_it(scene) -> None:
    s = scene(trials=8, time=600)
    s.search.fetching = ScriptedFetching()
    s.scheduler.missing = {"later"}
    left: list[float] = []
    s.scheduler.has_time_for = lambda name, seconds: bool(left.append(seconds))
    s.run()
    assert 500 < left[0] < 600 - 10 - 10  # the end has a reserve of its own
    assert left == sorted(left, reverse=True)


def test_the_display_shows_the_download_below_the_workers(scene) -> None:
    s = scene(trials=3)
    s.search.fetching = ScriptedFetching()
    s.scheduler.missing = set()
    s.scheduler.has_time_for = lambda name, left: False
    s.run()
    assert [worker.name for worker in s.recorder.snapshots[0].workers] == ["cpu:0", "cpu:1", "download"]
