"""The kept predictions of test images are found again by digest, and other files are refused."""

import numpy as np
import pytest

from autotl.model.doubt import unit_length
from autotl.report.held_out import TEST_FILE, HeldOut, load_test, save_test
from autotl.report.recorded import nearest

DIGESTS = [f"{i:032x}" for i in range(8)]
TESTED = HeldOut(np.array([6, 4]), np.array([[0.2, 0.8], [0.7, 0.3]]), np.ones((1, 3), np.float32), "abcd")


def test_predictions_are_found_again_where_images_were_listed_in_another_order(tmp_path):
    save_test(tmp_path, TESTED, DIGESTS)
    loaded = load_test(tmp_path, DIGESTS[::-1], np.array([0, 1, 3]), 2)
    assert loaded.images.tolist() == [1, 3]
    np.testing.assert_array_equal(loaded.probabilities, TESTED.probabilities)
    assert loaded.features.shape == (1, 3)
    assert loaded.backbone == "abcd"
    assert loaded.predicted.tolist() == [1, 0]


def test_a_file_of_other_images_or_classes_is_not_used(tmp_path):
    assert load_test(tmp_path, DIGESTS, np.arange(8), 2) is None
    save_test(tmp_path, TESTED, DIGESTS)
    assert load_test(tmp_path, DIGESTS, np.arange(3), 2) is None
    assert load_test(tmp_path, DIGESTS, np.arange(8), 3) is None


def test_a_pickle_is_not_loaded(tmp_path):
    np.savez(tmp_path / TEST_FILE, digests=np.array([{"a": 1}], dtype=object), allow_pickle=True)
    assert load_test(tmp_path, DIGESTS, np.arange(8), 2) is None


@pytest.mark.parametrize("k", [1, 3, 50])
def test_nearest_are_those_of_the_largest_cosine(k):
    rng = np.random.default_rng(0)
    base, queries = unit_length(rng.standard_normal((40, 5))), unit_length(rng.standard_normal((6, 5)))
    numbers, cosines = nearest(queries, base, k)
    product = queries @ base.T
    np.testing.assert_array_equal(numbers, np.argsort(-product, axis=1)[:, :k])
    np.testing.assert_allclose(cosines, -np.sort(-product, axis=1)[:, :k])
