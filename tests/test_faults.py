"""What the commands leave when they are killed, stopped, unread or out of space."""

import contextlib
import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from conftest import body, encoded, openpose, picture, tree, write

from posegan import pairs

COMMAND = (sys.executable, "-m", "posegan")


def start(*arguments: object, **options) -> subprocess.Popen:
    """A command of its own, in a group of processes of its own."""
    return subprocess.Popen(
        [*COMMAND, *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        **options,
    )


def group_of(leader: int) -> list[int]:
    """The processes of a session that still run, by /proc."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError, IndexError):
            state, _, group, session = (folder / "stat").read_text().rpartition(")")[2].split()[:4]
            if state != "Z" and leader in (int(group), int(session)):
                found.append(int(folder.name))
    return found


def wait_for(what, seconds: float = 30) -> None:
    end = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.05)


@pytest.fixture
def drawing(tmp_path):
    """`posegan prepare` while it draws the demo in several processes."""
    command = start("prepare", "--root", tmp_path / "data", "--size", "128x64")
    try:
        wait_for(lambda: list((tmp_path / "data").glob(".demo.partial-*/new/demo/images.npy")))
        wait_for(lambda: len(group_of(command.pid)) > 2)
        yield command
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(command.pid, signal.SIGKILL)
        command.communicate()


needs_proc = pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="needs /proc")


@needs_proc
@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM", "SIGHUP"])
def test_a_preparation_that_is_stopped_leaves_no_folder_and_no_process(drawing, tmp_path, name):
    number = getattr(signal, name)
    drawing.send_signal(number)
    time.sleep(0.05)
    drawing.send_signal(number)  # nobody waits patiently
    _, errors = drawing.communicate(timeout=30)
    assert drawing.returncode == 128 + number, errors
    assert errors.splitlines()[-1] == "stopped" and "Traceback" not in errors
    assert not (tmp_path / "data").exists()
    wait_for(lambda: not group_of(drawing.pid), 5)


@needs_proc
def test_a_preparation_that_is_killed_leaves_no_process_and_no_data_set(drawing, tmp_path):
    drawing.kill()
    drawing.wait()
    wait_for(lambda: not group_of(drawing.pid), 5)
    assert not (tmp_path / "data" / "demo").exists()


@needs_proc
def test_a_drawing_process_that_is_killed_is_one_line(drawing, tmp_path):
    children = set(group_of(drawing.pid)) - {drawing.pid}
    workers = [one for one in children if b"demo.py" in Path(f"/proc/{one}/cmdline").read_bytes()]
    os.kill(workers[0], signal.SIGKILL)
    _, errors = drawing.communicate(timeout=60)
    assert drawing.returncode == 1
    assert errors.splitlines()[-1].startswith("Error: demo: a drawing process was kil")
    assert "Traceback" not in errors and not (tmp_path / "data").exists()


# ------------------------------------------------------------------------------ streams, disks


@pytest.fixture
def folder(tmp_path) -> tuple[str, ...]:
    """The arguments that prepare a few pictures of two people, for a shell in `tmp_path`."""
    tree(tmp_path / "in", own_pictures())
    return ("prepare", "--data", "folder", "--source", "in", "--size", "64x32")


def own_pictures() -> dict[str, bytes | str]:
    files = {}
    for person in ("al", "bo"):
        for shot in range(2):
            files[f"{person}/{shot}.png"] = encoded(picture(shot))
            files[f"{person}/{shot}.json"] = openpose(body())
    return files


def in_shell(folder: Path, arguments: tuple[str, ...], ending: str) -> subprocess.CompletedProcess:
    """Run a command with what a shell makes of its streams."""
    line = f"unset PYTHONUNBUFFERED; set -o pipefail; {shlex.join([*COMMAND, *arguments])} {ending}"
    return subprocess.run(
        ["bash", "-c", line], cwd=folder, capture_output=True, text=True, check=False
    )


LOST = (">&-", "2>&-", "<&-", ">&- 2>&-", "<&- >&- 2>&-", "| true", "2>&1 | true", "2>/dev/full")


@pytest.mark.parametrize("ending", LOST)
def test_work_is_done_whether_or_not_somebody_reads(folder, tmp_path, ending):
    done = in_shell(tmp_path, folder, ending)
    assert (done.returncode, done.stderr.count("Traceback")) == (0, 0), done.stderr
    assert len(pairs.load("folder", tmp_path / "data").images) == 4
    assert "Exception ignored" not in done.stderr


@pytest.mark.parametrize("arguments", [["--help"], ["score", "--help"], ["--version"]])
def test_help_that_nobody_reads_is_no_error(tmp_path, arguments):
    for ending in (">&-", "| true", ">&- 2>&-"):
        done = in_shell(tmp_path, arguments, ending)
        assert (done.returncode, done.stderr) == (0, "")


def test_output_that_cannot_be_written_is_an_error_but_the_work_is_done(folder, tmp_path):
    done = in_shell(tmp_path, folder, ">/dev/full")
    last = "Error: the output: can't be used (No space left on device)"
    assert done.returncode == 1 and done.stderr.splitlines()[-1] == last
    assert len(pairs.load("folder", tmp_path / "data").images) == 4


@pytest.fixture
def small_disk(tmp_path) -> Iterator[Path]:
    """A disk of 64 kB."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(disk)]
    if not shutil.which("mount") or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("no disk can be mounted here")
    yield disk
    subprocess.run(["umount", str(disk)], check=True)


@pytest.mark.parametrize("more", [(), ("--parsing", "maps")])
def test_a_full_disk_is_one_line_and_leaves_nothing_on_it(folder, tmp_path, small_disk, more):
    labels = encoded(np.zeros((8, 8), np.uint8))
    tree(tmp_path / "maps", {f"{person}/0.png": labels for person in ("al", "bo")})
    size = ("--size", "64x80" if more else "256x256")  # the pictures fit, their maps do not
    done = in_shell(tmp_path, (*folder, *size, *more, "--root", "disk"), "")
    assert done.returncode == 1
    last = "disk/folder: can't be written (No space left on device); choose another place with"
    assert last in done.stderr.splitlines()[-1]
    assert not list(small_disk.iterdir())


def test_a_message_is_one_line_and_the_traceback_is_there_for_who_wants_it(tmp_path):
    program = "import sys, posegan.datasets as p; from posegan.posegan import main\n"
    program += "def fail(*_): raise RuntimeError('line 1\\nline 2')\np.prepare = fail; main()"
    write(tmp_path / "program.py", program)
    command = [sys.executable, tmp_path / "program.py", "prepare"]
    plain = subprocess.run(command, capture_output=True, text=True, check=False)
    message = "Error: RuntimeError: line 1; please report it with the traceback "
    message += "that POSEGAN_DEBUG=1 shows"
    assert (plain.returncode, plain.stderr.splitlines()[-1]) == (1, message)
    assert "Traceback" not in plain.stderr and "line 2" not in plain.stderr
    wanted = os.environ | {"POSEGAN_DEBUG": "1"}
    more = subprocess.run(command, capture_output=True, text=True, check=False, env=wanted)
    assert "Traceback" in more.stderr and "line 2" in more.stderr
