"""The worker pool over scripted workers: what is sent, what arrives, and which process is replaced."""

from dataclasses import dataclass

import pytest

from autotl.devices import Slot
from autotl.testing.scripted import ScriptedLauncher, VirtualClock
from autotl.workers.launcher import Ending
from autotl.workers.messages import Hello, Log, Ready, RunTrial, SetDeadline, Setup, Stop
from autotl.workers.pool import MAX_CRASHES, CrashCounter, WorkerPool, remaining_or_none


@dataclass(frozen=True)
class TinyContext:
    slot: Slot
    cores: int = 2


CPU = [Slot("cpu:0", "cpu", "cpu", 1), Slot("cpu:1", "cpu", "cpu", 1)]


@pytest.fixture
def pool():
    return WorkerPool(ScriptedLauncher(), list(CPU), VirtualClock(100.0))


def connect(pool, worker):
    pool.launcher.inbox.append((worker.identity, Hello(worker.identity, worker.slot)))
    return list(pool.poll(0))


def test_each_slot_gets_a_worker(pool):
    assert [worker.slot for worker in pool.workers] == CPU
    assert [worker.identity for worker in pool.workers] == ["cpu:0-1", "cpu:1-2"]


def test_a_worker_is_set_up_when_it_is_connected_and_the_context_known(pool):
    one, two = pool.workers
    connect(pool, one)
    assert pool.launcher.sent == []
    pool.set_up(TinyContext(CPU[0]))
    connect(pool, two)
    assert pool.launcher.sent == [
        (one.identity, Setup(TinyContext(CPU[0]), None)),
        (two.identity, Setup(TinyContext(CPU[1]), None)),
    ]


def test_a_deadline_is_sent_as_seconds_left_and_only_when_it_moves(pool):
    pool.set_deadline(130.0)
    pool.clock.sleep(5)
    pool.set_deadline(130.0)
    pool.set_up(TinyContext(CPU[0]))
    connect(pool, pool.workers[0])
    deadlines = [message for _, message in pool.launcher.sent if isinstance(message, SetDeadline)]
    assert deadlines == [SetDeadline(30.0)] * 2
    assert pool.launcher.sent[-1][1] == Setup(TinyContext(CPU[0]), 25.0)


def test_a_message_is_a_sign_of_life(pool):
    worker = pool.workers[0]
    pool.clock.sleep(7)
    pool.launcher.inbox.append((worker.identity, Log("x")))
    assert list(pool.poll(0)) == [(worker, Log("x"))]
    assert (worker.last_message, pool.workers[1].last_message) == (107.0, 100.0)


def test_the_last_messages_of_a_dead_worker_come_before_its_ending(pool):
    worker = pool.workers[0]
    pool.launcher.dead.add(worker.identity)
    pool.launcher.inbox.append((worker.identity, Log("first")))
    pool.launcher.late.append((worker.identity, Log("last")))
    assert list(pool.poll(0)) == [
        (worker, Log("first")),
        (worker, Log("last")),
        (worker, Ending("the worker ended (exit code 1)", 1, "worker.log")),
    ]


def test_the_ending_of_a_killed_worker_has_the_reason(pool):
    worker = pool.workers[0]
    pool.kill(worker, "it was too slow")
    assert list(pool.poll(0)) == [(worker, Ending("it was too slow", 1, "worker.log"))]


def test_messages_of_a_dropped_worker_are_ignored(pool):
    worker = pool.workers[0]
    pool.drop(worker)
    pool.launcher.inbox.append((worker.identity, Log("late")))
    assert list(pool.poll(0)) == []
    assert worker.identity in pool.launcher.killed


def test_a_replaced_worker_is_a_new_process_on_the_same_slot(pool):
    worker = pool.workers[0]
    new = pool.replace(worker)
    assert pool.workers[0] is new
    assert (new.slot, new.ready, new.connected) == (worker.slot, False, False)
    assert new.identity != worker.identity
    assert pool.launcher.killed == [worker.identity]


def test_a_job_makes_a_worker_busy(pool):
    worker = pool.workers[0]
    pool.clock.sleep(3)
    pool.give(worker, RunTrial(0, None), "asking")
    assert (worker.busy, worker.since, worker.activity) == (True, 103.0, "asking")
    assert pool.launcher.sent == [(worker.identity, RunTrial(0, None))]


def test_a_worker_that_joins_gets_the_context_and_is_not_ours_to_restart(pool):
    pool.set_up(TinyContext(CPU[0]))
    slot = Slot("cpu:0@4711", "cpu", "cpu", 1)
    pool.launcher.inbox.append(("stranger", Hello("stranger", slot)))
    ((worker, _),) = pool.poll(0)
    assert (worker.joined, worker.slot, pool.workers[-1]) == (True, slot, worker)
    assert pool.launcher.sent[-1] == ("stranger", Setup(TinyContext(slot), None))


def test_a_worker_that_is_told_to_leave_is_not_ready(pool):
    worker = pool.workers[0]
    worker.ready = True
    pool.leave(worker)
    assert (worker.leaving, worker.ready, pool.launcher.sent[-1][1]) == (True, False, Stop())


def test_closing_kills_busy_workers_and_lets_idle_ones_stop(pool):
    busy, idle = pool.workers
    busy.busy = True
    pool.launcher.send = lambda worker, message: pool.launcher.dead.add(worker)
    pool.close()
    assert pool.launcher.killed == [busy.identity, idle.identity]
    assert pool.clock.time < 100.1
    assert pool.workers == []
    pool.close()


def test_a_worker_that_does_not_stop_is_killed_in_time(pool):
    pool.close()
    assert pool.clock.time < 103
    assert len(pool.launcher.killed) == 2


def test_ready_is_passed_on_as_it_is(pool):
    worker = pool.workers[0]
    pool.launcher.inbox.append((worker.identity, Ready()))
    assert list(pool.poll(0)) == [(worker, Ready())]
    assert not worker.ready  # to decide that is the coordinator's


def test_crashes_in_a_row_are_counted_for_each_device():
    crashes = CrashCounter()
    assert [crashes.crashed("cpu") for _ in range(MAX_CRASHES)] == [False] * (MAX_CRASHES - 1) + [True]
    assert not crashes.crashed("cuda:0")
    crashes.succeeded("cpu")
    assert not crashes.crashed("cpu")


@pytest.mark.parametrize(("seconds", "remaining"), [(1.5, 1.5), (float("inf"), None), (-2.0, -2.0)])
def test_no_limit_is_none_in_messages(seconds, remaining):
    assert remaining_or_none(seconds) == remaining
