"""Several studies, each in a journal of its own, as one storage that only reads: for a dashboard that compares them."""

import re
from collections.abc import Container, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO, NoReturn

from optuna.artifacts import FileSystemArtifactStore
from optuna.artifacts.exceptions import ArtifactNotFound
from optuna.storages import BaseStorage
from optuna.study import StudyDirection
from optuna.study._frozen import FrozenStudy  # noqa: PLC2701 (not exported)
from optuna.trial import FrozenTrial, TrialState

__all__ = ["CombinedArtifacts", "CombinedStorage"]

SPAN = 1 << 32
"""Numbers of one study's trials. A number below it is that in the study's own journal."""
TRIAL_KEY = re.compile(r"^(dashboard:(?:artifacts:)?)(\d+)(:)")
"""System attributes of a study that Optuna Dashboard keeps for a trial: `dashboard:7:note_ver`."""


class CombinedStorage(BaseStorage):
    """The studies of several folders, by the names of their folders.

    Args:
        studies: by name, the storage of each study and the study's number there.
    """

    def __init__(self, studies: Mapping[str, tuple[BaseStorage, int]]):
        self.names = list(studies)
        self.studies = list(studies.values())

    def _study(self, study_id: int) -> tuple[BaseStorage, int]:
        if not 0 <= study_id < len(self.studies):
            raise KeyError(f"no study has the number {study_id}")
        return self.studies[study_id]

    def _renumbered(self, trial: FrozenTrial, study_id: int) -> FrozenTrial:
        copied = FrozenTrial.__new__(FrozenTrial)
        copied.__dict__.update(trial.__dict__)
        copied._trial_id = study_id * SPAN + trial._trial_id
        return copied

    def get_study_id_from_name(self, study_name: str) -> int:
        if study_name not in self.names:
            raise KeyError(study_name)
        return self.names.index(study_name)

    def get_study_name_from_id(self, study_id: int) -> str:
        self._study(study_id)
        return self.names[study_id]

    def get_study_directions(self, study_id: int) -> list[StudyDirection]:
        storage, own = self._study(study_id)
        return storage.get_study_directions(own)

    def get_study_user_attrs(self, study_id: int) -> dict[str, Any]:
        storage, own = self._study(study_id)
        return storage.get_study_user_attrs(own)

    def get_study_system_attrs(self, study_id: int) -> dict[str, Any]:
        storage, own = self._study(study_id)

        def renumbered(match: re.Match[str]) -> str:
            return f"{match[1]}{study_id * SPAN + int(match[2])}{match[3]}"

        return {TRIAL_KEY.sub(renumbered, key): value for key, value in storage.get_study_system_attrs(own).items()}

    def get_all_studies(self) -> list[FrozenStudy]:
        return [
            FrozenStudy(
                study_name=name,
                direction=None,
                directions=self.get_study_directions(number),
                user_attrs=self.get_study_user_attrs(number),
                system_attrs=self.get_study_system_attrs(number),
                study_id=number,
            )
            for number, name in enumerate(self.names)
        ]

    def get_trial(self, trial_id: int) -> FrozenTrial:
        storage, _ = self._study(trial_id // SPAN)
        return self._renumbered(storage.get_trial(trial_id % SPAN), trial_id // SPAN)

    def get_all_trials(
        self,
        study_id: int,
        deepcopy: bool = True,  # noqa: FBT001, FBT002  # as Optuna declares it
        states: Container[TrialState] | None = None,
    ) -> list[FrozenTrial]:
        storage, own = self._study(study_id)
        trials = storage.get_all_trials(own, deepcopy=deepcopy, states=states)
        return [self._renumbered(trial, study_id) for trial in trials]

    # what would change a study

    def _refuse(self, *arguments: Any, **more: Any) -> NoReturn:
        raise RuntimeError("studies that are shown side by side can't be changed")

    create_new_study = delete_study = set_study_user_attr = set_study_system_attr = _refuse
    create_new_trial = set_trial_param = set_trial_state_values = set_trial_intermediate_value = _refuse
    set_trial_user_attr = set_trial_system_attr = _refuse


class CombinedArtifacts:
    """The artifacts of several studies, as an artifact store of Optuna that is read only.

    Args:
        folders: of artifacts.
    """

    def __init__(self, folders: Sequence[Path]):
        self.stores = [FileSystemArtifactStore(str(folder)) for folder in folders]

    def open_reader(self, artifact_id: str) -> BinaryIO:
        for store in self.stores:
            try:
                return store.open_reader(artifact_id)
            except ArtifactNotFound:
                continue
        raise ArtifactNotFound(f"no study has the artifact {artifact_id}")

    def write(self, artifact_id: str, content_body: BinaryIO) -> None:
        raise RuntimeError("studies that are shown side by side can't be changed")

    def remove(self, artifact_id: str) -> None:
        raise RuntimeError("studies that are shown side by side can't be changed")
