"""`verify_files`: digests and reasons in order, and a cache of the results that processes share."""

import hashlib
import multiprocessing
import os
import random
import sqlite3
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from autotl.data import verification
from autotl.data.decoding import THUMBNAIL_SIDE, UndecodableImage
from autotl.data.digests import digest_file
from autotl.data.sandbox import SandboxedDecoder
from autotl.data.verification import Verification, verify_files


def picture(path: Path, value: int) -> Path:
    """Write an image whose bytes are unique to `value`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (8, 8), (value % 256, value // 256, 7)).save(path)
    return path


def pictures(folder: Path, n: int) -> list[Path]:
    return [picture(folder / f"{i}.png", i) for i in range(n)]


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the files that were decoded, not taken from the cache."""
    names: list[str] = []

    def verify(
        self: SandboxedDecoder, path: Path, real: Callable[[SandboxedDecoder, Path], bytes] = SandboxedDecoder.verify
    ) -> bytes:
        names.append(path.name)
        return real(self, path)

    monkeypatch.setattr(SandboxedDecoder, "verify", verify)
    return names


# --- results


def test_results_are_in_the_order_of_the_paths(tmp_path: Path) -> None:
    paths = pictures(tmp_path, 3)
    (tmp_path / "text.png").write_text("not an image")
    paths.insert(1, tmp_path / "text.png")
    results = verify_files(paths)
    assert [result.digest for result in results] == [digest_file(path) for path in paths]
    assert [result.reason for result in results] == ["", "it isn't an image in a format that Pillow reads", "", ""]
    assert [len(result.thumbnail) for result in results] == [THUMBNAIL_SIDE**2, 0, THUMBNAIL_SIDE**2, THUMBNAIL_SIDE**2]


def test_a_digest_is_blake2b_of_the_bytes(tmp_path: Path) -> None:
    content = bytes(range(256)) * 5000  # more than one read
    (tmp_path / "a").write_bytes(content)
    assert digest_file(tmp_path / "a") == hashlib.blake2b(content, digest_size=16).hexdigest()


def test_a_file_that_cannot_be_opened_is_a_result_without_a_digest(tmp_path: Path) -> None:
    (tmp_path / "folder.png").mkdir()
    os.mkfifo(tmp_path / "pipe.png")
    results = verify_files([tmp_path / "missing.png", tmp_path / "folder.png", tmp_path / "pipe.png"])
    reasons = ["there is no such file", "it is a folder", "it is a pipe, a socket or a device"]
    assert results == [Verification("", reason) for reason in reasons]


def test_progress_starts_with_the_cached_files_and_counts_every_other(tmp_path: Path) -> None:
    paths, cache = pictures(tmp_path / "data", 5), tmp_path / "cache"
    verify_files(paths[:2], cache=cache)
    counts: list[tuple[int, int]] = []
    verify_files(paths, cache=cache, progress=lambda done, total: counts.append((done, total)))
    assert counts == [(2, 5), (3, 5), (4, 5), (5, 5)]


# --- the cache


def test_unchanged_files_are_decoded_once(tmp_path: Path, decoded: list[str]) -> None:
    paths = pictures(tmp_path / "data", 4)
    (tmp_path / "data" / "text.png").write_text("not an image")
    paths.append(tmp_path / "data" / "text.png")
    first = verify_files(paths, cache=tmp_path / "cache")
    assert len(decoded) == 5
    assert verify_files(paths, cache=tmp_path / "cache") == first
    assert len(decoded) == 5


def test_a_changed_file_is_decoded_again(tmp_path: Path, decoded: list[str]) -> None:
    paths = pictures(tmp_path / "data", 3)
    before = verify_files(paths, cache=tmp_path / "cache")
    decoded.clear()
    picture(paths[1], 999)
    os.utime(paths[1], ns=(1, 1))
    after = verify_files(paths, cache=tmp_path / "cache")
    assert decoded == ["1.png"]
    assert [after[0], after[2]] == [before[0], before[2]]
    assert after[1].digest == digest_file(paths[1]) != before[1].digest


def test_replaced_bytes_of_the_same_size_and_time_are_decoded_again(tmp_path: Path, decoded: list[str]) -> None:
    picture(tmp_path / "a.bmp", 1)
    time_before = (tmp_path / "a.bmp").stat().st_mtime_ns
    before = verify_files([tmp_path / "a.bmp"], cache=tmp_path / "cache")
    picture(tmp_path / "b.bmp", 2)
    os.utime(tmp_path / "b.bmp", ns=(time_before, time_before))
    (tmp_path / "b.bmp").replace(tmp_path / "a.bmp")
    assert (tmp_path / "a.bmp").stat().st_mtime_ns == time_before
    after = verify_files([tmp_path / "a.bmp"], cache=tmp_path / "cache")
    assert after[0].digest != before[0].digest
    assert len(decoded) == 2


def test_a_missing_file_is_not_cached(tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    assert verify_files([tmp_path / "a.png"], cache=cache)[0].reason == "there is no such file"
    picture(tmp_path / "a.png", 1)
    assert verify_files([tmp_path / "a.png"], cache=cache)[0].reason == ""


@pytest.mark.parametrize("transient", [False, True])
def test_a_transient_failure_is_not_cached(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, transient: bool) -> None:
    def fail(self: SandboxedDecoder, path: Path) -> bytes:
        raise UndecodableImage("it crashes its decoder", path, transient=transient)

    paths, cache = pictures(tmp_path / "data", 1), tmp_path / "cache"
    with monkeypatch.context() as patch:
        patch.setattr(SandboxedDecoder, "verify", fail)
        assert verify_files(paths, cache=cache)[0].reason == "it crashes its decoder"
    assert verify_files(paths, cache=cache)[0].reason == ("" if transient else "it crashes its decoder")


def test_each_version_of_pillow_has_its_own_results(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, decoded: list[str]
) -> None:
    paths, cache = pictures(tmp_path / "data", 1), tmp_path / "cache"
    with monkeypatch.context() as patch:
        patch.setattr(verification, "_DECODER", "another version")
        verify_files(paths, cache=cache)
    verify_files(paths, cache=cache)
    assert len(decoded) == 2


def test_a_name_that_is_not_utf8_is_cached(tmp_path: Path, decoded: list[str]) -> None:
    path = picture(tmp_path / os.fsdecode(b"caf\xe9.png"), 1)
    for _ in range(2):
        assert verify_files([path], cache=tmp_path / "cache")[0].reason == ""
    assert len(decoded) == 1


def test_a_corrupt_cache_is_ignored(tmp_path: Path) -> None:
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache" / verification._DATABASE).write_text("not a database, and longer than the header of one" * 3)
    results = verify_files(pictures(tmp_path / "data", 2), cache=tmp_path / "cache")
    assert all(result.digest for result in results)


def test_a_corrupt_cache_is_begun_anew(tmp_path: Path, decoded: list[str]) -> None:
    paths = pictures(tmp_path / "data", 2)
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache" / verification._DATABASE).write_text("not a database, and longer than the header of one" * 3)
    for _ in range(2):
        verify_files(paths, cache=tmp_path / "cache")
    assert len(decoded) == 2


def test_a_flipped_byte_never_changes_a_result(tmp_path: Path) -> None:
    paths, cache = pictures(tmp_path / "data", 3), tmp_path / "cache"
    right = verify_files(paths, cache=cache)
    database = cache / verification._DATABASE
    content, rng = database.read_bytes(), random.Random(0)
    used = [i for i, byte in enumerate(content) if byte]  # most of a page is empty
    for position in (*rng.sample(used, 150), content.index(right[0].digest.encode())):
        damaged = bytearray(content)
        damaged[position] ^= 1 << rng.randrange(8)
        database.write_bytes(damaged)
        states = [verification._state(path) for path in paths]
        cached = verification._read_cache(cache, states)
        assert all(cached.get(state, result) == result for state, result in zip(states, right, strict=True)), position
    database.write_bytes(damaged)
    assert verify_files(paths, cache=cache) == right


def test_a_cache_folder_that_cannot_be_created_is_ignored(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    results = verify_files(pictures(tmp_path / "data", 2), cache=tmp_path / "file" / "cache")
    assert all(result.digest for result in results)


def test_a_read_only_cache_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, decoded: list[str]) -> None:
    paths, cache = pictures(tmp_path / "data", 2), tmp_path / "cache"
    verify_files(paths, cache=cache)
    database = cache / verification._DATABASE
    monkeypatch.setattr(verification, "_connect", lambda _: sqlite3.connect(f"file:{database}?mode=ro", uri=True))
    decoded.clear()
    new = picture(tmp_path / "data" / "new.png", 77)
    assert all(result.digest for result in verify_files([*paths, new], cache=cache))
    assert decoded == ["new.png"]


def test_processes_share_a_cache(tmp_path: Path) -> None:
    paths, cache = pictures(tmp_path / "data", 60), tmp_path / "cache"
    with multiprocessing.get_context("spawn").Pool(3) as pool:
        first, second, third = pool.starmap(verify_files, [(paths, 2, cache)] * 3)
    assert first == second == third
    with sqlite3.connect(cache / verification._DATABASE) as database:
        assert database.execute("SELECT count(*) FROM verifications").fetchone() == (60,)


@pytest.mark.slow
def test_many_files_are_verified_by_child_processes_with_the_same_results(tmp_path: Path, monkeypatch) -> None:
    rng = np.random.default_rng(0)
    paths = []
    for i in range(40):
        paths.append(tmp_path / f"{i:02}.{('jpg', 'png', 'tif', 'txt')[i % 4]}")
        if i % 4 == 3:
            paths[-1].write_bytes(rng.bytes(100))
        else:
            Image.fromarray(rng.integers(0, 255, (20 + i, 30, 3), dtype=np.uint8)).save(paths[-1])
    alone = verify_files(paths, 2)
    monkeypatch.setattr(verification, "IN_CHILDREN_FROM", 2)
    seen = []
    assert verify_files(paths, 2, progress=lambda done, total: seen.append(done)) == alone
    assert seen == list(range(41))
