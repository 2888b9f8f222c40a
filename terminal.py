"""The terminal: kinds of options, streams, errors in one line, progress lines, tables."""

import contextlib
import os
import signal
import sys
import textwrap
import time
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import click
from click.core import ParameterSource

from posegan.files import printable

# rich is imported inside the functions: help and usage errors answer at once.
if TYPE_CHECKING:
    from rich.table import Table

    from posegan.recipes import TrainConfig

PLAIN_SECONDS = 30  # between lines on the progress where there is no terminal


# ------------------------------------------------------------------------------ options


class Size(click.ParamType):
    """HxW in pixels, multiples of 16."""

    name = "HxW"

    def convert(self, value, param, ctx) -> tuple[int, int]:
        """Parse "128x64" to (128, 64). Fails for anything that is no such size."""
        height, _, width = value.lower().partition("x")
        if not all(one.isdecimal() and len(one) < 20 for one in (height, width)):
            self.fail(f"{value!r} is not a size; write height x width, such as 128x64", param, ctx)
        if int(height) % 16 or int(width) % 16 or min(int(height), int(width)) < 16:
            self.fail(f"{value}: height and width must be multiples of 16, such as 128x64")
        if max(int(height), int(width)) > 1024:
            self.fail(f"{value}: at most 1024 pixels a side", param, ctx)
        return int(height), int(width)


class Place(click.Path):
    """A path, which is not empty."""

    def convert(self, value, param, ctx):
        """Check a path as click does. Fails for an empty one, which would mean here."""
        if not str(value):
            self.fail("is empty; give a path", param, ctx)
        return super().convert(value, param, ctx)


class Names(click.ParamType):
    """Names from a list, with commas between."""

    name = "NAMES"

    def __init__(self, known: tuple[str, ...], none: bool = False):
        self.known, self.none = known, none

    def convert(self, value, param, ctx) -> tuple[str, ...]:
        """Parse "b,a" to ("a", "b"), in the list's order. Fails for names that are not known."""
        names = value.split(",")
        if self.none and value == "none":
            return ()
        for name in names:
            if name and name not in self.known:
                self.fail(f"{name}: choose from {', '.join(self.known)}", param, ctx)
        return tuple(name for name in self.known if name in names)


class Box(click.ParamType):
    """LEFT,TOP,RIGHT,BOTTOM in pixels."""

    name = "LEFT,TOP,RIGHT,BOTTOM"

    def convert(self, value, param, ctx) -> tuple[int, ...]:
        """Parse "10,20,110,220". Fails for anything that is no box."""
        try:
            left, top, right, bottom = map(int, value.split(","))
        except ValueError:
            self.fail(f"{value!r} is not a box; write it as 10,20,110,220", param, ctx)
        if left >= right or top >= bottom:
            self.fail(f"{value}: right and bottom must be more than left and top", param, ctx)
        if max(map(abs, (left, top, right, bottom))) > 10**6:
            self.fail(f"{value}: no photo is that large", param, ctx)
        return left, top, right, bottom


PATH, FOLDER = Place(), Place(file_okay=False)
FILE = Place(dir_okay=False, path_type=Path)
data_option = click.option(
    "--data",
    default="demo",
    metavar="NAME",
    help="Prepared data set; train also takes several: NAME,NAME or NAME:SHARE,NAME:SHARE.",
)
root_option = click.option(
    "--root",
    default="data",
    envvar="POSEGAN_DATA",
    show_envvar=True,
    type=FOLDER,
    help="Folder of the prepared data sets.",
)
device_option = click.option(
    "--device",
    default="auto",
    type=click.Choice(["auto", "cpu", "cuda"]),
    help="Where to compute; auto takes CUDA where there is one.",
)
checkpoint_option = click.option(
    "--checkpoint",
    type=FILE,
    help="Checkpoint to use.  [default: the newest below runs/, else the one that comes along]",
)
pose_weights_option = click.option(
    "--pose-weights",
    type=FILE,
    help="Weights of torchvision's Keypoint R-CNN, where they can't be fetched.",
)
overwrite_option = click.option("--overwrite", is_flag=True, help="Replace files that are there.")


def refuse(ctx: click.Context, names: Iterable[str], reason: str) -> None:
    """Raise where one of the options is given, as it would do nothing."""
    for option in ctx.command.params:
        given = ctx.get_parameter_source(option.name) == ParameterSource.COMMANDLINE
        if given and option.name in names:
            raise click.UsageError(f"{option.opts[0]}: {reason}; leave it out")


# ------------------------------------------------------------------------------ streams, errors


class Stream:
    """stdout or stderr. What is printed may be lost, where nobody reads it; the work may not."""

    def __init__(self, stream, lost: type[OSError]):
        self.stream, self.lost = stream, lost

    def __getattr__(self, name: str) -> object:
        found = getattr(self.stream, name)
        return partial(self._do, found) if name in ("write", "flush") else found

    def _do(self, action: Callable, *given: str) -> int | None:
        try:
            return 0 if given == ("",) else action(*given)  # click tries whether it takes text
        except OSError as error:  # it would come again at the end, for what is still in the buffer
            os.dup2(os.open(os.devnull, os.O_WRONLY), self.stream.fileno())
            if not isinstance(error, self.lost):
                raise
            return 0


def open_streams() -> None:
    """Make stdout and stderr such that names and lost readers do no harm, if they are there."""
    for name in ("stdin", "stdout", "stderr"):
        if getattr(sys, name) is None:  # closed: else the next file would be opened in its place
            setattr(sys, name, open(os.devnull, "w"))  # noqa: SIM115
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(errors="replace")  # names may be no text, terminals may know no arrow
    sys.stdout, sys.stderr = Stream(sys.stdout, BrokenPipeError), Stream(sys.stderr, OSError)


@contextlib.contextmanager
def one_line() -> Iterator[None]:
    """Turn all that ends a command into one line; POSEGAN_DEBUG=1 shows the traceback instead."""
    try:
        yield
    except (click.exceptions.Exit, click.Abort):
        raise
    except click.ClickException as error:
        error.message = printable(error.message)
        raise
    except Exception as error:
        if os.environ.get("POSEGAN_DEBUG"):
            raise
        said = (str(error) or "no reason given").splitlines()[0]
        message = f"{type(error).__name__}: {said}; POSEGAN_DEBUG=1 shows where: please report it"
        if isinstance(error, MemoryError):
            message = f"not enough memory ({said}); use smaller numbers or fewer files"
        if isinstance(error, OSError):
            message = f"{error.filename or 'the output'}: can't be used ({error.strerror or said})"
        raise click.ClickException(printable(message)) from None


@contextlib.contextmanager
def stoppable() -> Iterator[None]:
    """Let what a signal ends clean up behind it, undisturbed by a second one."""

    def stop(number: int, frame: object) -> None:
        for one in previous:
            signal.signal(one, signal.SIG_IGN)
        raise KeyboardInterrupt(number)

    numbers = {signal.SIGINT, signal.SIGTERM, getattr(signal, "SIGHUP", signal.SIGTERM)}
    previous = {one: signal.getsignal(one) for one in numbers}
    for one in numbers:
        if previous[one] is not signal.SIG_IGN:  # as nohup wants it
            signal.signal(one, stop)
    try:
        yield
    except KeyboardInterrupt as error:
        click.echo("stopped", err=True)
        previous = {}  # the process ends, and ends undisturbed
        raise SystemExit(128 + (error.args or (signal.SIGINT,))[0]) from None
    finally:
        for one in previous:
            signal.signal(one, previous[one])


class Commands(click.Group):
    """Commands that end with one line, and leave nothing half done, whatever comes."""

    def make_context(self, *given, **more) -> click.Context:
        """Parse the command line. Raises ClickException for what is none."""
        open_streams()
        with one_line():
            return super().make_context(*given, **more)

    def invoke(self, ctx: click.Context) -> object:
        """Run a command. Raises ClickException, or SystemExit after a signal."""
        with one_line(), stoppable():
            return super().invoke(ctx)


# ------------------------------------------------------------------------------ what is printed


def say(*lines: object, err: bool = False) -> None:
    """Print lines that hold names; of several processes, one does."""
    for line in lines if os.environ.get("RANK", "0") == "0" else ():
        click.echo(printable(str(line)), err=err)


@contextlib.contextmanager
def progress_line(description: str, unit: str) -> Iterator[Callable]:
    """A progress line on stderr; gives what moves it: update(completed=, total=, note=)."""
    from rich import progress
    from rich.console import Console

    columns = [progress.BarColumn(10), progress.MofNCompleteColumn(), unit, "{task.fields[note]}"]
    columns = ["{task.description}", *columns, progress.TimeRemainingColumn()]
    silent = os.environ.get("RANK", "0") != "0"  # of several processes one speaks
    with progress.Progress(*columns, console=Console(stderr=True), disable=silent) as line:
        yield partial(line.update, line.add_task(description, total=None, note=""))


@contextlib.contextmanager
def training_line(config: "TrainConfig") -> Iterator[Callable[[dict], None]]:
    """What shows how training goes: a progress line, or where there is no terminal plain lines."""
    if not sys.stderr.isatty():
        yield plain_lines(config)
        return
    with progress_line("training", "") as update:

        def report(figures: dict) -> None:
            note = {"note": describe_losses(figures)} if "reconstruction" in figures else {}
            update(completed=figures["step"], total=config.steps, **note)

        yield report


def plain_lines(config: "TrainConfig") -> Callable[[dict], None]:
    """What prints a line with step, images/s, losses and the time left every PLAIN_SECONDS."""
    last = -float("inf")

    def report(figures: dict) -> None:
        nonlocal last
        ended = figures["step"] == config.steps
        if "reconstruction" in figures and (ended or time.monotonic() - last > PLAIN_SECONDS):
            last = time.monotonic()
            images = (config.steps - figures["step"]) * config.batch_size
            left = images / max(figures["images_per_second"], 1e-9) / 60
            done = f"step {figures['step']:,} of {config.steps:,}"
            say(f"{done}, {describe_losses(figures)}, {left:.0f} min left", err=True)

    return report


def describe_losses(figures: dict) -> str:
    """images/s, the main losses and the last validation scores, by name."""
    names = ("reconstruction", "adversarial", "discriminator")
    parts = [f"{figures['images_per_second']:.1f} images/s"]
    parts += [f"{name} {figures[name]:.3f}" for name in names if name in figures]
    parts += [f"{name} {value:.3f}" for name, value in figures.get("validation", {}).items()]
    return ", ".join(parts)


def show(table: "Table") -> None:
    """Print a table, 80 columns wide where there is no terminal; its cells are plain text.

    In a narrow terminal the lines break rather than a name or a number is cut.
    """
    from rich.console import Console
    from rich.measure import Measurement

    table.title = table.title and printable(table.title)
    for column in table.columns:
        if column.header == "recipe":
            column.overflow = "fold"
        else:
            column.no_wrap = True
            column.min_width = max(map(len, (column.header, *column.cells)))
    console = Console(width=None if os.isatty(1) else 80, markup=False, emoji=False)
    needed = Measurement.get(console, console.options.update(max_width=1000), table).minimum
    console.width = max(console.width, needed)
    console.print(table)


def new_table(title: str, left: Iterable[str], right: Iterable[str], last: str) -> "Table":
    """A table with its headings: those `left` and the `last` with words, the others numbers."""
    from rich import box
    from rich.table import Table

    table = Table(title=title, title_justify="left", title_style="", box=box.SIMPLE_HEAD)
    table.pad_edge, table.padding = False, (0, 1, 0, 0)
    for heading in left:
        table.add_column(heading)
    for heading in right:
        table.add_column(heading, justify="right")
    table.add_column(last)
    return table


def show_text(text: str) -> None:
    """Print a paragraph, 80 columns wide; paths stay in one piece."""
    options = {"subsequent_indent": "  ", "break_long_words": False, "break_on_hyphens": False}
    click.echo(textwrap.fill(text, 80, **options))
