"""Decoding in child processes: a file that crashes, hangs or starves its decoder ends a child and is reported."""

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, TiffImagePlugin

from autotl.data import digests, sandbox
from autotl.data.decoding import THUMBNAIL_SIDE, ImageLimits, UndecodableImage, verify
from autotl.data.digests import digest_file
from autotl.data.sandbox import SandboxedDecoder

FAULTY = """#!{python}
import ctypes, os, signal, sys, time
from autotl.data import sandbox
sys.argv = sys.argv[3:]  # as after -P -m autotl.data.sandbox
real = sandbox.verify
def verify(path, *arguments, **options):
    if "segfault" in path.name: ctypes.string_at(0)
    if "killed" in path.name: os.kill(os.getpid(), signal.SIGKILL)
    if "exits" in path.name: os._exit(3)
    if "hangs" in path.name: time.sleep(60)
    if "prints" in path.name: os.write(1, b"a message of a C library")
    return real(path, *arguments, **options)
sandbox.verify = verify
sandbox.main()
"""


@pytest.fixture
def faulty(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Children whose decoder has a fault, which the name of the file selects."""
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


@pytest.mark.slow
@pytest.mark.usefixtures("faulty")
@pytest.mark.parametrize(
    ("name", "reason", "transient"),
    [
        ("segfault.tif", "it crashes its decoder (SIGSEGV)", False),
        ("killed.tif", "it crashes its decoder (SIGKILL)", True),
        ("exits.tif", "it crashes its decoder (exit code 3)", True),
        ("hangs.tif", "it hangs its decoder: more than 1 s", True),
    ],
)
def test_a_file_that_ends_a_child_is_undecodable_and_the_next_file_is_decoded(
    name: str, reason: str, transient: bool, tiff: Callable[[str], Path]
) -> None:
    with SandboxedDecoder() as decoder:
        assert len(decoder.verify(tiff("sound.tif"))) == THUMBNAIL_SIDE**2  # starts the child, which takes a while
        decoder.timeout = 1.0
        with pytest.raises(UndecodableImage) as caught:
            decoder.verify(tiff(name))
        assert (str(caught.value), caught.value.transient) == (reason, transient)
        decoder.timeout = 30.0
        assert len(decoder.verify(tiff("sound.tif"))) == THUMBNAIL_SIDE**2


@pytest.mark.usefixtures("faulty")
def test_output_of_a_c_library_does_not_reach_the_answers(tiff: Callable[[str], Path]) -> None:
    with SandboxedDecoder() as decoder:
        assert decoder.verify(tiff("prints.tif")) == verify(tiff("sound.tif"))


def test_trusted_formats_are_decoded_in_this_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise AssertionError("a child was started")

    monkeypatch.setattr(subprocess, "Popen", fail)
    for suffix in ("png", "jpg"):
        Image.new("RGB", (40, 30)).save(tmp_path / f"a.{suffix}")
        assert SandboxedDecoder().verify(tmp_path / f"a.{suffix}")
    with pytest.raises(UndecodableImage, match="no such file"):
        SandboxedDecoder().verify(tmp_path / "missing.tif")
    Image.new("RGB", (40, 30)).save(tmp_path / "a.tif")
    with pytest.raises(AssertionError, match="a child was started"):
        SandboxedDecoder().verify(tmp_path / "a.tif")


def test_a_cmyk_jpeg_is_decoded_in_a_child(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Image.new("CMYK", (40, 30), (0, 0, 0, 255)).save(tmp_path / "a.jpg")
    started: list[object] = []
    real = subprocess.Popen
    monkeypatch.setattr(subprocess, "Popen", lambda *a, **k: started.append(a) or real(*a, **k))
    with SandboxedDecoder() as decoder:
        assert max(decoder.verify(tmp_path / "a.jpg")) < 50
    assert len(started) == 1


@pytest.mark.parametrize("name", ['with "quotes" and \n lines.tif', os.fsdecode(b"caf\xe9.tif"), "ünï.tif"])
def test_every_file_name_reaches_the_child(name: str, tiff: Callable[[str], Path]) -> None:
    with SandboxedDecoder() as decoder:
        assert decoder.verify(tiff(name)) == verify(tiff("plain.tif"))


def test_a_child_returns_the_same_reason_as_this_process(tiff: Callable[[str], Path]) -> None:
    path = tiff("a.tif")
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(UndecodableImage) as in_process:
        verify(path)
    with SandboxedDecoder() as decoder, pytest.raises(UndecodableImage) as in_child:
        decoder.verify(path)
    assert str(in_child.value) == str(in_process.value)
    assert in_child.value.path == path


def test_a_plugins_decoder_is_used_where_pillows_own_fail(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
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
    with SandboxedDecoder() as decoder, pytest.raises(UndecodableImage, match="isn't an image"):
        decoder.verify(tmp_path / "a.own")
    monkeypatch.setitem(Image.OPEN, "OWN", (Own, None))
    monkeypatch.setattr(Image, "ID", [*Image.ID, "OWN"])
    with SandboxedDecoder() as decoder:
        assert decoder.verify(tmp_path / "a.own") == bytes(range(256))


def test_idle_children_end_with_the_context(tiff: Callable[[str], Path]) -> None:
    with SandboxedDecoder() as decoder:
        decoder.verify(tiff("a.tif"))
        (child,) = decoder._idle.queue
        assert child.poll() is None
    assert child.poll() == 0


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_a_child_ends_when_its_parent_is_killed(tiff: Callable[[str], Path]) -> None:
    code = (
        "import sys, time; from autotl.data.sandbox import SandboxedDecoder; decoder = SandboxedDecoder(); "
        f"decoder.verify({str(tiff('a.tif'))!r}); print(decoder._idle.queue[0].pid, flush=True); time.sleep(60)"
    )
    parent = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    command_line = Path(f"/proc/{int(parent.stdout.readline())}/cmdline")
    assert b"autotl.data.sandbox" in command_line.read_bytes()
    parent.kill()
    parent.wait()
    deadline = time.monotonic() + 5
    while command_line.exists() and command_line.read_bytes():  # empty for a zombie
        assert time.monotonic() < deadline, "the child is still running"
        time.sleep(0.05)


@pytest.mark.skipif(sys.platform != "linux", reason="the limit is set on Linux only")
def test_the_memory_of_a_child_is_limited() -> None:
    code = (
        "from autotl.data import sandbox; sandbox._set_limits(1 << 30); bytearray(1 << 20); "
        "print('small', flush=True); bytearray(2 << 30)"
    )
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert ended.stdout == "small\n"
    assert ended.stderr.rstrip().endswith("MemoryError")
    assert ImageLimits().memory > 2**32


def test_a_child_imports_nothing_from_the_current_folder(
    tiff: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in ("PIL", "random", "struct"):
        (tmp_path / f"{module}.py").write_text("raise ImportError('shadowed')")
    monkeypatch.chdir(tmp_path)
    with SandboxedDecoder() as decoder:
        assert len(decoder.verify(tiff("sound.tif"))) > 0


def test_the_content_of_an_untrusted_format_is_decoded_in_a_child(tmp_path):
    path = tmp_path / "image.webp"
    Image.new("RGB", (20, 30), "red").save(path)
    with SandboxedDecoder() as decoder:
        assert decoder.verify(path.read_bytes()) == decoder.verify(path)
        assert decoder._idle.qsize() == 1
        with pytest.raises(UndecodableImage, match="isn't an image"):
            decoder.verify(b"no image")


# several files at a time


def test_many_files_are_verified_as_one_by_one(tmp_path: Path, tiff: Callable[[str], Path]) -> None:
    photograph = tmp_path / "photograph.jpg"
    Image.fromarray(np.arange(64 * 48 * 3, dtype=np.uint8).reshape(48, 64, 3)).save(photograph)
    (tmp_path / "broken.jpg").write_bytes(photograph.read_bytes()[:200])
    paths = [photograph, tmp_path / "broken.jpg", tiff("sound.tif"), tmp_path / "missing.jpg"]
    with SandboxedDecoder() as decoder:
        answers = decoder.verify_many(paths)
    assert [digest for digest, _ in answers] == [*map(digest_file, paths[:3]), ""]
    assert [answer for _, answer in answers[::2]] == [verify(photograph), verify(paths[2])]
    assert str(answers[1][1]).startswith("it is broken")
    assert str(answers[3][1]) == "there is no such file"


def test_a_child_keeps_no_large_file_in_memory(
    tmp_path: Path, tiff: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tiff("a.tif")
    expected = sandbox._answer(path, ImageLimits())
    monkeypatch.setattr(digests, "MAX_CONTENT", 10)
    monkeypatch.setattr(digests, "digest_bytes", lambda content: pytest.fail("was read as a whole"))
    assert sandbox._answer(path, ImageLimits()) == expected
    assert sandbox._answer(tmp_path, ImageLimits())[1 + digests.DIGEST_BYTES :] == b"it is a folder"


@pytest.mark.slow
@pytest.mark.usefixtures("faulty")
@pytest.mark.parametrize("name", ["segfault.tif", "exits.tif", "hangs.tif"])
def test_many_files_end_before_one_that_crashes_or_hangs_its_decoder(name: str, tiff: Callable[[str], Path]) -> None:
    with SandboxedDecoder(timeout=3) as decoder:
        assert len(decoder.verify_many([tiff("sound.tif"), tiff(name), tiff("another.tif")])) == 1
        assert len(decoder.verify_many([tiff("sound.tif"), tiff("another.tif")])) == 2


def test_a_format_that_no_child_knows_is_left_to_this_process(tmp_path: Path, tiff: Callable[[str], Path]) -> None:
    (tmp_path / "text.jpg").write_text("no image")
    with SandboxedDecoder() as decoder:
        assert len(decoder.verify_many([tiff("sound.tif"), tmp_path / "text.jpg"])) == 1
