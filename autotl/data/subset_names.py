"""Which names of folders, columns and values mean a subset: `Training`, `seg_test`, `valid`, `dev` and the like."""

import re
import unicodedata
from functools import cache

from autotl.data.dataset import Subset

__all__ = ["SUBSET_WORDS", "class_name", "means_unlabelled", "subset_of"]

SUBSET_WORDS: dict[str, Subset] = {
    "train": "train",
    "training": "train",
    "trn": "train",
    "val": "validation",
    "valid": "validation",
    "validation": "validation",
    "validate": "validation",
    "dev": "validation",
    "eval": "validation",
    "test": "test",
    "testing": "test",
    "tst": "test",
    "holdout": "test",
}
"""Subsets by the words that folders and manifests use for them."""
_FILLERS = {
    "set",
    "data",
    "dataset",
    "images",
    "image",
    "imgs",
    "img",
    "folder",
    "split",
    "subset",
    "public",
    "private",
}
"""Words beside a subset's that don't change its meaning: `test_set`, `Train Images`, `PublicTest`."""
_UNLABELLED = {"pred", "predict", "prediction", "predictions", "unlabeled", "unlabelled", "unlabel"}
_ENDINGS = re.compile(r"^(.+?)(?:set|data|images?|imgs?)$")


@cache
def subset_of(name: str, *, loosely: bool = False) -> Subset | None:
    """The subset that a name means; None if it means none.

    Args:
        loosely: allow another first or last word: `seg_train`, `test-multiple_fruits`. Such a name can be a class's as
            well (`train_station`).

    >>> subset_of("Training"), subset_of("test_set"), subset_of("seg_train"), subset_of("seg_train", loosely=True)
    ('train', 'test', None, 'train')
    """
    words = _words(name)
    subsets = [SUBSET_WORDS[word] for word in words if word in SUBSET_WORDS]
    if len(subsets) != 1:
        return None
    rest = [word for word in words if word not in SUBSET_WORDS and word not in _FILLERS and not word.isdigit()]
    at_an_end = words[0] in SUBSET_WORDS or words[-1] in SUBSET_WORDS
    return subsets[0] if not rest or (loosely and at_an_end) else None


def means_unlabelled(name: str) -> bool:
    """Whether a folder's name says that its images have no labels: `seg_pred`, `unlabeled`."""
    return any(word in _UNLABELLED for word in _words(name))


def _words(name: str) -> list[str]:
    spaced = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", unicodedata.normalize("NFKC", name))  # PublicTest
    words = []
    for word in re.findall(r"[^\W\d_]+|\d+", spaced.casefold()):
        ending = _ENDINGS.match(word)
        words.append(ending[1] if ending and ending[1] in SUBSET_WORDS else word)
    return words


def class_name(name: str) -> str:
    """A folder's name as a class: text that every file format holds.

    A byte that isn't UTF-8 becomes an escape sequence, as in `caf\\xe9`: JSON files, journals and reports are UTF-8.
    """
    return name.encode(errors="surrogateescape").decode(errors="backslashreplace")
