"""What a coordinator's answers cost it, for many workers that do nothing else than to run trials."""

import os
import time
from pathlib import Path

import optuna
from fire import Outcome, by_fire
from optuna.storages.journal._storage import JournalOperation as Op
from optuna.trial import TrialState

from autotl.study.storage import Journal, storage_on
from autotl.workers.codec import decode, encode
from autotl.workers.messages import FROM_WORKER
from autotl.workers.requests import ExchangeLogs
from autotl.workers.service import StudyService

WORKERS, TRIALS = 64, int(os.environ.get("AUTOTL_SOAK_TRIALS", "10_000"))
ATTRIBUTES, MILLISECONDS = 14, 5.0


class _Worker:
    """Writes what a trial writes, and knows how many logs it has read, without replaying them."""

    def __init__(self, service: StudyService, name: str):
        self.service, self.name, self.read, self.seconds = service, name, 0, 0.0

    def exchange(self, logs: list[dict]) -> None:
        request = encode(ExchangeLogs(self.read, tuple(logs), self.read))
        began = time.process_time()
        answer = self.service.answer(self.name, decode(request, FROM_WORKER))
        encode(answer)
        self.seconds += time.process_time() - began
        assert not answer.error, answer.error
        self.read += answer.value.count("\n")

    def run(self, trial: int) -> None:
        def log(operation: Op, **values: object) -> dict:
            return {"op_code": operation, "worker_id": self.name, "trial_id": trial, **values}

        self.exchange([])
        parameter = {"param_name": "x", "param_value_internal": 0.5, "distribution": _distribution}
        attributes = [log(Op.SET_TRIAL_USER_ATTR, user_attr={f"a{i}": i}) for i in range(ATTRIBUTES)]
        self.exchange([log(Op.SET_TRIAL_PARAM, **parameter)])
        self.exchange([*attributes, log(Op.SET_TRIAL_INTERMEDIATE_VALUE, step=1, intermediate_value=0.5)])
        state = {"state": TrialState.COMPLETE, "values": [0.5], "datetime_complete": "2026-01-01T00:00:00.000000"}
        self.exchange([log(Op.SET_TRIAL_STATE_VALUES, **state)])


_distribution = optuna.distributions.distribution_to_json(optuna.distributions.FloatDistribution(0.0, 1.0))


@by_fire
def sixty_four_idle_workers(folder: Path) -> Outcome:
    """Each trial is four exchanges, whose answers bring a worker the logs of all others."""
    (folder / "trials").mkdir()
    study = optuna.create_study(study_name="s", storage=storage_on(Journal(folder)))
    service = StudyService(folder, Journal(folder), [])
    workers = [_Worker(service, f"w{i}") for i in range(WORKERS)]
    memory = []
    for number in range(TRIALS):
        study.enqueue_trial({"x": 0.5})
        trial = study.ask()
        workers[number % WORKERS].run(trial._trial_id)
        if number in (TRIALS // 2, TRIALS - 1):
            memory.append(int(Path("/proc/self/status").read_text().split("RssAnon:")[1].split()[0]) / 1024)
    milliseconds = 1000 * sum(worker.seconds for worker in workers) / TRIALS
    complete = sum(trial.state == TrialState.COMPLETE for trial in study.get_trials(deepcopy=False))
    grown = memory[-1] - memory[0]
    figure = f"{milliseconds:.2f} ms of CPU a trial, {complete} complete, {grown:.0f} MiB more in the second half"
    return Outcome(
        figure, f"at most {MILLISECONDS:.0f} ms a trial", milliseconds <= MILLISECONDS and complete == TRIALS
    )
