"""Sequences of a million values in little memory: each is one or a few arrays that behave like a tuple.

A Python string takes 50 bytes beside its letters, a Path ten times that; here a digest takes 16 bytes, a path the bytes
of its name.
"""

import base64
import os
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Generic, TypeVar

import numpy as np

from autotl.data.digests import DIGEST_BYTES

__all__ = [
    "ByDigest",
    "Column",
    "DigestColumn",
    "DigestLookup",
    "PathColumn",
    "TextColumn",
    "as_column",
    "codes",
    "numbers",
]

T = TypeVar("T")


class Column(Sequence[T], Generic[T]):
    """A sequence on arrays. Equal to any sequence of the same values. Its subclasses know how to make one value."""

    arrays: tuple[np.ndarray, ...]
    """All of the same length or with one more entry, in the order in which `plain` keeps them."""

    def _value(self, index: int) -> T:
        raise NotImplementedError

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return tuple(self._value(i) for i in range(*index.indices(len(self))))
        size = len(self)
        if not -size <= index < size:
            raise IndexError(index)
        return self._value(int(index) % size)

    def __iter__(self) -> Iterator[T]:
        return map(self._value, range(len(self)))

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Sequence) or isinstance(other, str):
            return NotImplemented
        return len(self) == len(other) and all(a == b for a, b in zip(self, other, strict=True))

    def __hash__(self) -> int:
        return hash(tuple(self))

    def __repr__(self) -> str:
        return f"<{type(self).__name__} of {len(self):,}>"

    def plain(self) -> dict[str, Any]:
        """JSON values from which `Column.from_plain` makes the column again."""
        return {"column": type(self).__name__, "arrays": [_plain_array(array) for array in self.arrays]}

    @staticmethod
    def from_plain(values: Mapping[str, Any]) -> "Column[Any]":
        """The column of `plain`. Raises ValueError, KeyError or TypeError where `values` are something else."""
        cls = _CLASSES[values["column"]]
        column = cls.__new__(cls)
        column.arrays = tuple(map(_array, values["arrays"]))
        column._check()
        return column

    def _check(self) -> None:
        """Raises ValueError where arrays from elsewhere don't fit together."""
        raise NotImplementedError


def _plain_array(array: np.ndarray) -> dict[str, Any]:
    content = base64.b64encode(zlib.compress(array.tobytes(), 1)).decode()
    return {"dtype": array.dtype.str, "shape": list(array.shape), "zlib": content}


def _array(values: Mapping[str, Any]) -> np.ndarray:
    dtype = np.dtype(values["dtype"])
    if dtype.hasobject:
        raise ValueError("objects are not sent")
    content = zlib.decompress(base64.b64decode(values["zlib"], validate=True))
    return np.frombuffer(content, dtype).reshape(values["shape"])


class DigestColumn(Column[str]):
    """Image digests, uint8 [n, 16]; values are 32 hex digits."""

    def __init__(self, digests: "Iterable[str] | np.ndarray"):
        if not isinstance(digests, np.ndarray):
            digests = np.frombuffer(bytes.fromhex("".join(digests)), np.uint8)
        self.arrays = (np.ascontiguousarray(digests).reshape(-1, DIGEST_BYTES),)

    @staticmethod
    def of(digests: Sequence[str]) -> "DigestColumn":
        """The digests as a column, without a copy where they are one. Raises ValueError for one of another length."""
        if isinstance(digests, DigestColumn):
            return digests
        if wrong := next((d for d in digests if len(d) != 2 * DIGEST_BYTES), None):
            raise ValueError(f"an image digest must have {2 * DIGEST_BYTES} hex digits, got {wrong!r}")
        return DigestColumn(digests)

    @property
    def bytes(self) -> np.ndarray:
        """uint8 [n, 16]."""
        return self.arrays[0]

    def take(self, chosen: "np.ndarray | slice") -> "DigestColumn":
        """The digests at some indices."""
        return DigestColumn(self.bytes[chosen])

    def halves(self) -> tuple[np.ndarray, np.ndarray]:
        """The first and the last eight bytes of each digest, uint64 [n]."""
        both = self.bytes.view(">u8").astype(np.uint64)
        return both[:, 0].copy(), both[:, 1].copy()

    def __len__(self) -> int:
        return len(self.arrays[0])

    def _value(self, index: int) -> str:
        return self.arrays[0][index].tobytes().hex()

    def __iter__(self) -> Iterator[str]:
        digits = self.arrays[0].tobytes().hex()
        return (digits[i : i + 2 * DIGEST_BYTES] for i in range(0, len(digits), 2 * DIGEST_BYTES))

    def _check(self) -> None:
        if self.bytes.ndim != 2 or self.bytes.shape[1] != DIGEST_BYTES or self.bytes.dtype != np.uint8:
            raise ValueError("not digests")


class DigestLookup:
    """Finds digests in a column by binary search. Of equal digests the last one is found."""

    def __init__(self, digests: DigestColumn):
        high, low = digests.halves()
        self.order = np.lexsort((low, high))
        self.high, self.low = high[self.order], low[self.order]
        self._ambiguous = bool((self.high[1:] == self.high[:-1]).any())

    def forget_order(self) -> None:
        """Free the memory that `find` needs and `find_sorted` doesn't."""
        self.order = self.order[:0]

    def digests(self) -> DigestColumn:
        """The digests in their sorted order."""
        return DigestColumn(np.stack([self.high, self.low], axis=1).astype(">u8").view(np.uint8))

    def find(self, digests: DigestColumn) -> np.ndarray:
        """int64 [n]: the index of each digest in the column, -1 where it isn't there."""
        place = self.find_sorted(digests)
        return np.where(place >= 0, self.order[place], -1) if len(self.order) else place

    def find_sorted(self, digests: DigestColumn) -> np.ndarray:
        """int64 [n]: the place of each digest in the sorted order, -1 where it isn't in the column."""
        high, low = digests.halves()
        if not len(self.high):
            return np.full(len(high), -1)
        place = np.searchsorted(self.high, high, side="right") - 1
        found = (place >= 0) & (self.high[place] == high) & (self.low[place] == low)
        if self._ambiguous:
            for i in np.flatnonzero(~found & (place >= 0) & (self.high[place] == high)):
                j = place[i]
                while j > 0 and self.high[j] == high[i] and self.low[j] != low[i]:
                    j -= 1
                place[i], found[i] = j, self.high[j] == high[i] and self.low[j] == low[i]
        return np.where(found, place, -1)


class ByDigest(Mapping[str, T]):
    """What `value(index)` returns for the index of a digest in a column, as a mapping from digests."""

    def __init__(self, digests: DigestColumn, value: Callable[[int], T]):
        self._digests, self._value = digests, value
        self._lookup = DigestLookup(digests)

    def __getitem__(self, digest: str) -> T:
        index = int(self._lookup.find(DigestColumn([digest]))[0])
        if index < 0:
            raise KeyError(digest)
        return self._value(index)

    def __iter__(self) -> Iterator[str]:
        return iter(dict.fromkeys(self._digests))

    def __len__(self) -> int:
        return len(dict.fromkeys(self._digests))


class TextColumn(Column[str]):
    """Texts in one buffer: their bytes one after another, and where each begins [n + 1]."""

    def __init__(self, texts: Iterable[str]):
        encoded = [os.fsencode(text) for text in texts]
        begins = np.zeros(len(encoded) + 1, np.int64)
        np.cumsum([len(text) for text in encoded], out=begins[1:])
        narrow = begins.astype(np.uint32) if begins[-1] < 2**32 else begins
        self.arrays = (np.frombuffer(b"".join(encoded), np.uint8), narrow)

    def __len__(self) -> int:
        return len(self.arrays[1]) - 1

    def _value(self, index: int) -> str:
        buffer, begins = self.arrays
        return os.fsdecode(buffer[begins[index] : begins[index + 1]].tobytes())

    def _check(self) -> None:
        buffer, begins = self.arrays
        if buffer.dtype != np.uint8 or begins.ndim != 1 or begins.dtype.kind not in "ui" or not len(begins):
            raise ValueError("not texts")


class CodeColumn(Column[str]):
    """Texts of which many are equal: a small integer for each, and the different texts."""

    def __init__(self, texts: Iterable[str]):
        number_of: dict[str, int] = {}
        numbers = np.fromiter((number_of.setdefault(text, len(number_of)) for text in texts), np.uint32)
        kinds = TextColumn(number_of)
        self.arrays = (numbers.astype(np.min_scalar_type(max(0, len(number_of) - 1))), *kinds.arrays)

    def __len__(self) -> int:
        return len(self.arrays[0])

    @property
    def _kinds(self) -> TextColumn:
        kinds = TextColumn.__new__(TextColumn)
        kinds.arrays = self.arrays[1:]
        return kinds

    def _value(self, index: int) -> str:
        return self._kinds._value(self.arrays[0][index])

    def __iter__(self) -> Iterator[str]:
        kinds = tuple(self._kinds)
        return (kinds[number] for number in self.arrays[0])

    def _check(self) -> None:
        self._kinds._check()
        if self.arrays[0].dtype.kind != "u" or self.arrays[0].max(initial=0) >= max(1, len(self._kinds)):
            raise ValueError("not codes")


class PathColumn(Column[Path]):
    """Paths: the folder of each by its number, and its name."""

    def __init__(self, paths: Iterable[Path | str]):
        number_of: dict[str, int] = {}
        folders: list[int] = []

        def name(path: Path | str) -> str:
            folder, _, name = str(path).rpartition("/")
            folders.append(number_of.setdefault(folder + "/" if folder or str(path)[:1] == "/" else "", len(number_of)))
            return name

        names = TextColumn(map(name, paths))
        numbers = np.array(folders, np.uint32)
        self.arrays = (numbers, *TextColumn(number_of).arrays, *names.arrays)

    def __len__(self) -> int:
        return len(self.arrays[0])

    def _value(self, index: int) -> Path:
        numbers, folder_bytes, folder_begins, name_bytes, name_begins = self.arrays
        number = numbers[index]
        folder = folder_bytes[folder_begins[number] : folder_begins[number + 1]].tobytes()
        return Path(os.fsdecode(folder + name_bytes[name_begins[index] : name_begins[index + 1]].tobytes()))

    def _check(self) -> None:
        if len(self.arrays) != 5 or len(self.arrays[4]) != len(self) + 1:
            raise ValueError("not paths")


class NumberColumn(Column[Any]):
    """Integers, or numbers of which some are missing: NaN stands for None."""

    def __init__(self, numbers: Iterable[float | None]):
        values = numbers if isinstance(numbers, np.ndarray) else list(numbers)
        if not isinstance(values, np.ndarray) and any(value is None or isinstance(value, float) for value in values):
            self.arrays = (np.array([np.nan if value is None else value for value in values], np.float64),)
        else:
            whole = np.array(values, np.int64)
            self.arrays = (whole.astype(np.int32) if np.abs(whole).max(initial=0) < 2**31 else whole,)

    def __len__(self) -> int:
        return len(self.arrays[0])

    def _value(self, index: int) -> Any:
        value = self.arrays[0][index].item()
        return None if value != value else value  # NaN

    def __array__(self, dtype: Any = None, *, copy: bool | None = None) -> np.ndarray:
        return np.array(self.arrays[0], dtype=dtype)

    def _check(self) -> None:
        if self.arrays[0].ndim != 1 or self.arrays[0].dtype.kind not in "if":
            raise ValueError("not numbers")


_CLASSES: dict[str, type[Column[Any]]] = {
    cls.__name__: cls for cls in (DigestColumn, TextColumn, CodeColumn, PathColumn, NumberColumn)
}
codes, numbers = CodeColumn, NumberColumn


def as_column(values: Sequence[Any], make: Callable[[Any], Column[Any]]) -> Sequence[Any]:
    """The values as a column; an empty sequence stays as it is."""
    return values if isinstance(values, Column) or not len(values) else make(values)
