"""A call of foreign code that hangs is named, and ended when its time is up."""

import os
import signal
import socket
import subprocess
import sys
import textwrap
import threading
import time

import pytest

from autotl.coordinator import watchdog as watchdog_module
from autotl.coordinator.callbacks import PLUGIN_CALL_SECONDS, Callbacks
from autotl.coordinator.signals import Interrupts, handle_signals
from autotl.coordinator.watchdog import CallEnded, Watchdog
from autotl.errors import BrokenPlugin
from autotl.events import Callback


def sleeps():
    time.sleep(60)


def computes():
    while True:
        pass


def waits_for_a_lock():
    threading.Event().wait()


def waits_for_a_process():
    subprocess.run([sys.executable, "-c", "import time; time.sleep(60)"], check=True)


def waits_for_a_server():
    one, _other = socket.socketpair()
    one.recv(1)


def catches_exceptions():
    while True:
        try:
            time.sleep(60)
        except Exception:
            continue


@pytest.fixture
def opened():
    """A watchdog on the main thread, and the lines that it logs."""
    lines = []
    with handle_signals() as interrupts:
        interrupts.searching = True
        with Watchdog(interrupts, lines.append) as watchdog:
            watchdog.lines = lines
            yield watchdog


@pytest.mark.parametrize(
    "hangs",
    [sleeps, computes, waits_for_a_lock, waits_for_a_process, waits_for_a_server, catches_exceptions],
)
def test_a_call_that_hangs_is_ended(hangs, opened):
    began = time.monotonic()
    with pytest.raises(CallEnded):
        opened.call("a call", 0.2, hangs)
    assert time.monotonic() - began < 5
    assert opened.interrupts.moment is None, "the signal was taken for Ctrl-C"


def test_a_call_returns_what_its_function_returns_and_raises_what_it_raises(opened):
    assert opened.call("a call", 60, max, 1, 2) == 2
    with pytest.raises(ZeroDivisionError):
        opened.call("a call", 60, lambda: 1 / 0)


def test_a_call_that_takes_long_is_named_once(opened, monkeypatch):
    monkeypatch.setattr(watchdog_module, "NAMED_AFTER", 0.1)
    opened.call("callback 'x' in on_trial_finished", 60, time.sleep, 1.2)
    (line,) = opened.lines
    assert line.startswith("warning: callback 'x' in on_trial_finished has been running for")


def test_ctrl_c_ends_a_call_soon(opened, monkeypatch):
    monkeypatch.setattr(watchdog_module, "INTERRUPT_GRACE", 0.1)
    threading.Timer(0.2, os.kill, (os.getpid(), signal.SIGINT)).start()
    with pytest.raises(CallEnded):
        opened.call("a call", 60, sleeps)
    assert opened.interrupts.moment is not None


def test_a_second_ctrl_c_ends_it_at_once(opened, monkeypatch):
    monkeypatch.setattr(watchdog_module, "INTERRUPT_GRACE", 60)
    for delay in (0.2, 0.4):
        threading.Timer(delay, os.kill, (os.getpid(), signal.SIGINT)).start()
    with pytest.raises(KeyboardInterrupt):
        opened.call("a call", 60, sleeps)


def test_a_signal_that_arrives_after_the_call_is_no_ctrl_c(opened):
    opened._signals = 1
    os.kill(os.getpid(), signal.SIGINT)
    time.sleep(0.1)
    assert opened.interrupts.moment is None


def test_off_the_main_thread_a_call_is_named_and_waited_for():
    code = """
        import threading, time
        from autotl.coordinator import watchdog
        from autotl.coordinator.signals import handle_signals
        watchdog.NAMED_AFTER = 0.1
        def search():
            with handle_signals() as interrupts, watchdog.Watchdog(interrupts, print) as dog:
                dog.call("a call", 0.2, time.sleep, 1)
                print("returned")
        thread = threading.Thread(target=search)
        thread.start()
        thread.join()
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, timeout=60)
    assert "a call has been running for" in done.stdout
    assert done.stdout.endswith("returned\n")
    assert not done.stderr


class Hangs(Callback):
    name = "hangs"
    calls = 0

    def on_trial_finished(self, event):
        self.calls += 1
        time.sleep(60)

    def on_search_finished(self, event):
        self.calls += 1


class Stops(Callback):
    name = "stops"

    def on_trial_finished(self, event):
        return True


def test_a_callback_that_hangs_is_ended_and_named_and_the_others_are_called(opened):
    user, plugin = Hangs(), Hangs()
    callbacks = Callbacks([user], [plugin, Stops()], False, opened, opened.lines.append)
    assert callbacks.emit("on_trial_finished", None, 0.1)
    assert callbacks.emit("on_trial_finished", None, 60)
    callbacks.emit("on_search_finished", None, 60)
    assert [user.calls, plugin.calls] == [2, 2]
    assert [line for line in opened.lines if "was ended" in line] == [
        "warning: callback 'hangs' in on_trial_finished did not return in time, and was ended. It is not called again."
    ] * 2


def test_a_plugins_callback_gets_less_time_than_a_users():
    limits = []

    class Watches:
        def call(self, what, seconds, function, *arguments):
            limits.append(seconds)

    callbacks = Callbacks([Stops()], [Stops()], False, Watches(), print)
    callbacks.emit("on_trial_finished", None, 1000)
    callbacks.emit("on_search_finished", None, 1000)
    assert limits == [1000, PLUGIN_CALL_SECONDS, 1000, 1000]


def test_a_plugins_exception_costs_one_warning_and_a_users_is_raised():
    class Fails(Callback):
        name = "fails"

        def on_trial_finished(self, event):
            raise ValueError("no luck")

    lines = []
    quiet = Watchdog(Interrupts(), lines.append)
    plugins = Callbacks([], [Fails()], False, quiet, lines.append)
    assert not plugins.emit("on_trial_finished", None, 60)
    assert not plugins.emit("on_trial_finished", None, 60)
    assert lines == ["warning: callback 'fails' failed in on_trial_finished: ValueError: no luck"]
    with pytest.raises(ValueError, match="no luck"):
        Callbacks([Fails()], [], False, quiet, lines.append).emit("on_trial_finished", None, 60)
    with pytest.raises(BrokenPlugin, match="no luck"):
        Callbacks([], [Fails()], True, quiet, lines.append).emit("on_trial_finished", None, 60)
