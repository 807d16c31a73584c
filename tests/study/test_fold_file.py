"""Out-of-fold probabilities are read as they were written; torn and forged files are refused, whatever they hold."""

import io

import numpy as np
import pytest

from autotl.study.fold_file import read_fold_file
from autotl.study.study import FOLD_FILE

SHAPE = (4, 2)
SOUND = np.array([[0.25, 0.75], [1, 0], [np.nan, np.nan], [0.5, 0.5]])


def written(array):
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


def header(shape, dtype="<f8"):
    file = io.BytesIO()
    np.lib.format.write_array_header_1_0(file, {"descr": dtype, "fortran_order": False, "shape": shape})
    return file.getvalue()


def archive():
    file = io.BytesIO()
    np.savez(file, SOUND)
    return file.getvalue()


def test_probabilities_are_read_as_they_were_written(tmp_path):
    np.save(tmp_path / FOLD_FILE, SOUND)
    np.testing.assert_array_equal(read_fold_file(tmp_path, SHAPE), SOUND)


def test_other_files_of_probabilities_are_read_alike(tmp_path):
    np.save(tmp_path / "test.npy", SOUND)
    np.testing.assert_array_equal(read_fold_file(tmp_path, SHAPE, "test.npy"), SOUND)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        written(SOUND)[:-1],
        written(SOUND[:3]),
        written(SOUND.astype("U4")),
        written(SOUND * 3),
        written(-SOUND),
        written(np.where(SOUND == 0.75, np.inf, SOUND)),
        written(np.where(SOUND == 0.75, np.nan, SOUND)),
        header((10**12, 10**6)),
        header(SHAPE, "|O"),
        archive(),
    ],
)
def test_a_torn_or_forged_file_is_refused(content, tmp_path):
    (tmp_path / FOLD_FILE).write_bytes(content)
    with pytest.raises(ValueError, match=FOLD_FILE):
        read_fold_file(tmp_path, SHAPE)
