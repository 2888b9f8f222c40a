"""What the commands leave when they are killed, stopped, unread or out of space."""

import contextlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

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
    assert not list((tmp_path / "data").iterdir())
    wait_for(lambda: not group_of(drawing.pid), 5)


@needs_proc
def test_a_preparation_that_is_killed_leaves_no_process_and_no_data_set(drawing, tmp_path):
    drawing.kill()
    drawing.wait()
    wait_for(lambda: not group_of(drawing.pid), 5)
    assert not (tmp_path / "data" / "demo").exists()
