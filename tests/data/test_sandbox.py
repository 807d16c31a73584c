"""A file that crashes, hangs or starves its reader costs a child process and is named; the search goes on."""

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, TiffImagePlugin

from autotl.data import sandbox as apart
from autotl.data.decoding import THUMBNAIL, UndecodableImage, verify
from autotl.data.sandbox import Readers
from autotl.data.verification import check_files

FAULTY = """#!{python}
import ctypes, os, signal, sys, time
import autotl.data.sandbox as apart
real = apart.verify
def verify(path):
    if "segfault" in path.name: ctypes.string_at(0)
    if "killed" in path.name: os.kill(os.getpid(), signal.SIGKILL)
    if "exits" in path.name: os._exit(3)
    if "hangs" in path.name: time.sleep(60)
    if "prints" in path.name: os.write(1, b"a C library has something to say")
    return real(path)
apart.verify = verify
apart.main()
"""


@pytest.fixture
def faulty(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Children in which a file's name says what its bytes would do to a real reader."""
    program = tmp_path / "python"
    program.write_text(FAULTY.format(python=sys.executable))
    program.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(program))


@pytest.fixture
def tiff(tmp_path: Path) -> Callable[[str], Path]:
    def make(name: str) -> Path:
        path = tmp_path / name
        Image.fromarray(np.arange(64 * 48 * 3, dtype=np.uint8).reshape(48, 64, 3)).save(path, "TIFF")
        return path

    return make


@pytest.mark.usefixtures("faulty")
@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("segfault.tif", "it crashes its reader (SIGSEGV)"),
        ("killed.tif", "it crashes its reader (SIGKILL)"),
        ("exits.tif", "it crashes its reader (exit code 3)"),
        ("hangs.tif", "its reader hung: it took more than 1 s"),
    ],
)
def test_what_ends_its_reader_is_named_and_the_next_file_is_read(
    name: str, reason: str, tiff: Callable[[str], Path]
) -> None:
    with Readers(seconds=1) as readers:
        with pytest.raises(UndecodableImage) as caught:
            readers.verify(tiff(name))
        assert str(caught.value) == reason
        assert len(readers.verify(tiff("sound.tif"))) == THUMBNAIL**2


@pytest.mark.usefixtures("faulty")
def test_a_crash_is_remembered_and_what_may_have_other_causes_is_not(
    tmp_path: Path, tiff: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    paths = [tiff("segfault.tif"), tiff("killed.tif"), tiff("sound.tif")]
    first = check_files(paths, cache=tmp_path / "cache")
    assert [bool(check.reason) for check in first] == [True, True, False]
    monkeypatch.undo()  # readers without faults
    again = check_files(paths, cache=tmp_path / "cache")
    assert [check.reason for check in again] == ["it crashes its reader (SIGSEGV)", "", ""]


@pytest.mark.usefixtures("faulty")
def test_what_a_c_library_prints_is_no_answer(tiff: Callable[[str], Path]) -> None:
    with Readers() as readers:
        assert readers.verify(tiff("prints.tif")) == verify(tiff("sound.tif"))


@pytest.mark.usefixtures("faulty")
def test_usual_formats_are_read_in_this_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def never(*_: object, **__: object) -> None:
        raise AssertionError("a child was started")

    monkeypatch.setattr(subprocess, "Popen", never)
    for suffix in ("png", "jpg"):
        Image.new("RGB", (40, 30)).save(tmp_path / f"segfault.{suffix}")
        assert Readers().verify(tmp_path / f"segfault.{suffix}")
    with pytest.raises(UndecodableImage, match="no such file"):
        Readers().verify(tmp_path / "missing.tif")


def test_a_jpeg_in_cmyk_is_read_apart_for_its_profile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Image.new("CMYK", (40, 30), (0, 0, 0, 255)).save(tmp_path / "a.jpg")
    started: list[object] = []
    real = subprocess.Popen
    monkeypatch.setattr(subprocess, "Popen", lambda *a, **k: started.append(a) or real(*a, **k))
    with Readers() as readers:
        assert max(readers.verify(tmp_path / "a.jpg")) < 50
    assert len(started) == 1


@pytest.mark.parametrize("name", ['with "quotes" and \n lines.tif', os.fsdecode(b"caf\xe9.tif"), "ünï.tif"])
def test_any_name_reaches_the_child(name: str, tiff: Callable[[str], Path]) -> None:
    with Readers() as readers:
        assert readers.verify(tiff(name))


def test_a_reason_comes_back_as_it_would_be_here(tmp_path: Path, tiff: Callable[[str], Path]) -> None:
    path = tiff("a.tif")
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(UndecodableImage) as here:
        verify(path)
    with Readers() as readers, pytest.raises(UndecodableImage) as there:
        readers.verify(path)
    assert str(there.value) == str(here.value)


def test_a_reader_that_a_plugin_brought_is_asked_last(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Own(TiffImagePlugin.ImageFile.ImageFile):
        format = "OWN"

        def _open(self) -> None:
            assert self.fp is not None
            if self.fp.read(3) != b"OWN":
                raise SyntaxError("not of this format")
            self._mode, self._size = "L", (16, 16)
            self.tile = [("raw", (0, 0, 16, 16), 3, ("L", 0, 1))]

    Own.__module__ = "someones_plugin"
    (tmp_path / "a.own").write_bytes(b"OWN" + bytes(range(256)))
    with Readers() as readers, pytest.raises(UndecodableImage, match="isn't an image"):
        readers.verify(tmp_path / "a.own")
    monkeypatch.setitem(Image.OPEN, "OWN", (Own, None))
    monkeypatch.setattr(Image, "ID", [*Image.ID, "OWN"])
    with Readers() as readers:
        assert readers.verify(tmp_path / "a.own") == bytes(range(256))


def test_children_end_with_the_readers(tiff: Callable[[str], Path]) -> None:
    with Readers() as readers:
        readers.verify(tiff("a.tif"))
        (child,) = readers._idle.queue
        assert child.poll() is None
    assert child.poll() == 0


def test_a_child_ends_when_its_parent_is_killed(tmp_path: Path, tiff: Callable[[str], Path]) -> None:
    code = (
        "import sys, time; from autotl.data.sandbox import Readers; readers = Readers(); "
        f"readers.verify({str(tiff('a.tif'))!r}); print(readers._idle.queue[0].pid, flush=True); time.sleep(60)"
    )
    parent = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    child = int(parent.stdout.readline())
    parent.kill()
    parent.wait()
    until = time.monotonic() + 5
    while Path(f"/proc/{child}/cmdline").exists() and Path(f"/proc/{child}/cmdline").read_bytes():
        assert time.monotonic() < until, "the child lives on"
        time.sleep(0.05)


@pytest.mark.skipif(sys.platform != "linux", reason="the limit is set on Linux")
def test_a_child_may_not_take_all_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    code = "from autotl.data import apart; apart.MEMORY = 1 << 30; apart._limit(); bytearray(2 << 30)"
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert "MemoryError" in ended.stderr
    assert apart.MEMORY > 2**32
