"""Each check of a launcher finds its violation."""

import pytest

from autotl.devices import Slot
from autotl.testing import launchers
from autotl.testing.scripted import ScriptedLauncher
from autotl.workers.launcher import Ending
from autotl.workers.messages import Hello, Log, Stop

pytestmark = pytest.mark.slow


class Valid(ScriptedLauncher):
    """Keeps the contract without a process."""

    def start(self, slot):
        worker = super().start(slot)
        self.deliver(worker, [Hello(worker, slot)])
        return worker

    def send(self, worker, message):
        if isinstance(message, Stop):
            self.dead.add(worker)
            self.ending = Ending("the worker ended (exit code 0)", 0)

    def receive(self, timeout):
        messages = super().receive(timeout)
        if not messages:
            __import__("time").sleep(timeout)
        return messages


class Silent(Valid):
    start = ScriptedLauncher.start


class LogsFirst(Valid):
    def start(self, slot):
        worker = ScriptedLauncher.start(self, slot)
        self.deliver(worker, [Log("hello"), Hello(worker, slot)])
        return worker


class NamesAnotherSlot(Valid):
    def start(self, slot):
        return super().start(Slot("cpu:7", "cpu", "cpu", 1))


class SameIdentity(Valid):
    def start(self, slot):
        super().start(slot)
        return "worker"


class ReceivesAtOnce(Valid):
    receive = ScriptedLauncher.receive


class NeverStops(Valid):
    send = ScriptedLauncher.send


class StopsWithAnError(Valid):
    def send(self, worker, message):
        super().send(worker, message)
        self.ending = Ending("the worker ended (exit code 1)", 1)


class KillsOnce(Valid):
    def kill(self, worker):
        if worker in self.dead:
            raise ProcessLookupError(worker)
        super().kill(worker)


class EndsWithoutACause(Valid):
    def how_it_ended(self, worker):
        return Ending("")


class SendRaises(Valid):
    def send(self, worker, message):
        raise BrokenPipeError(worker)


@pytest.fixture(autouse=True)
def impatient(monkeypatch):
    monkeypatch.setattr(launchers, "START_SECONDS", 0.5)
    monkeypatch.setattr(launchers, "END_SECONDS", 0.5)


@pytest.mark.parametrize(
    ("launcher", "violated"),
    [
        (Valid, set()),
        (Silent, {"starts_at_once_and_greets"}),
        (LogsFirst, {"starts_at_once_and_greets"}),
        (NamesAnotherSlot, {"starts_at_once_and_greets"}),
        (ReceivesAtOnce, {"receives_within_the_timeout"}),
        (NeverStops, {"stops_a_worker_that_is_asked_to"}),
        (StopsWithAnError, {"stops_a_worker_that_is_asked_to"}),
        (EndsWithoutACause, {"kills_at_once"}),
        (SendRaises, {"stops_a_worker_that_is_asked_to", "a_message_to_a_worker_that_is_gone_is_dropped"}),
    ],
)
def test_a_launcher_that_violates_its_contract(launcher, violated, violations):
    assert set(violations("launcher", launcher())) == violated


@pytest.mark.parametrize(
    ("launcher", "check"), [(KillsOnce, "kills_at_once"), (SameIdentity, "starts_at_once_and_greets")]
)
def test_killing_twice_and_one_identity_for_all_are_found(launcher, check, violations):
    assert check in violations("launcher", launcher())
