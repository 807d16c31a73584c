"""Ctrl-C and SIGTERM: once to end with what there is, twice to end at once."""

import os
import signal
import threading

import pytest

from autotl.coordinator.signals import INTERRUPT_SECONDS, Interrupts, handle_signals
from autotl.testing.scripted import VirtualClock


def test_before_the_first_trial_it_is_python_s_own():
    with pytest.raises(KeyboardInterrupt):
        Interrupts()()


def test_the_first_is_noted_and_the_second_raises():
    clock = VirtualClock()
    interrupts = Interrupts(clock)
    interrupts.searching = True
    assert interrupts.deadline == float("inf")
    interrupts()
    assert interrupts.deadline == clock.now() + INTERRUPT_SECONDS
    assert not interrupts.overdue()
    clock.sleep(INTERRUPT_SECONDS + 0.1)
    assert interrupts.overdue()
    with pytest.raises(KeyboardInterrupt):
        interrupts()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signals_are_handled_in_the_block_alone(number):
    before = signal.getsignal(number)
    with handle_signals() as interrupts:
        interrupts.searching = True
        os.kill(os.getpid(), number)
        signal.getsignal(number)  # the handler runs at the next bytecode
        assert interrupts.moment is not None
    assert signal.getsignal(number) is before


def test_off_the_main_thread_nothing_is_handled():
    handlers = []

    def run():
        with handle_signals():
            handlers.append(signal.getsignal(signal.SIGINT))

    before = signal.getsignal(signal.SIGINT)
    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    assert handlers == [before]
