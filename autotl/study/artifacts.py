"""Pictures that Optuna Dashboard shows beside a study and its trials."""

import tempfile
from pathlib import Path

import optuna

from autotl.atomic_io import write_atomically

__all__ = ["upload_picture"]

SVG = "image/svg+xml"


def upload_picture(study: optuna.Study, trial: optuna.Trial | None, folder: Path, name: str, svg: str) -> str:
    """Upload a drawing as an artifact of a trial, or of the study where `trial` is None. A study's picture of the same
    name is replaced: Optuna has no way to delete one.

    Args:
        folder: the study's.
        name: of the file.

    Returns:
        The artifact's name in the folder `artifacts`.
    """
    # imports the clients of object stores, too, where they are installed
    from optuna.artifacts import FileSystemArtifactStore, get_all_artifact_meta, upload_artifact

    artifacts = folder / "artifacts"
    artifacts.mkdir(exist_ok=True)
    if trial is None:
        for known in get_all_artifact_meta(study):
            # a journal may be a stranger's, and the id becomes the name of a file
            if known.filename == name and (artifacts / Path(known.artifact_id).name).is_file():
                write_atomically(artifacts / Path(known.artifact_id).name, svg.encode())
                return Path(known.artifact_id).name
    with tempfile.TemporaryDirectory(prefix="autotl-") as temporary:
        file = Path(temporary) / name
        file.write_bytes(svg.encode())
        return upload_artifact(
            artifact_store=FileSystemArtifactStore(str(artifacts)),
            file_path=str(file),
            study_or_trial=study if trial is None else trial,
            mimetype=SVG,
            storage=study._storage,
        )
