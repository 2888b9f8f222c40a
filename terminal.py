"""The terminal: option types, streams, one-line errors, progress lines, tables."""

import contextlib
import os
import re
import signal
import sys
import textwrap
import time
from collections.abc import Callable, Collection, Iterable, Iterator
from functools import partial

import click
from click.core import ParameterSource

from posegan.files import printable
from posegan.recipes import TrainConfig

# rich is imported inside the functions, so that help and usage errors are instant.

PLAIN_SECONDS = 30  # between progress lines without a terminal


# ------------------------------------------------------------------------------ options


def parse_size(value: str) -> tuple[int, int]:
    """Height and width in pixels from "128x64". Raises BadParameter if no model supports it."""
    found = re.fullmatch("([0-9]{1,4})[xX]([0-9]{1,4})", value)
    if not found:
        raise click.BadParameter(f"{value!r} is not a size; write height x width, such as 128x64")
    height, width = map(int, found.groups())
    if not {height, width} <= set(range(16, 1025, 16)):
        raise click.BadParameter(f"{value}: both must be multiples of 16, at most 1024")
    return height, width


def parse_box(value: str) -> tuple[int, ...]:
    """Left, top, right and bottom from "10,20,110,220". Raises BadParameter if it is not a box."""
    try:
        left, top, right, bottom = box = tuple(map(int, value.split(",")))
    except ValueError:
        raise click.BadParameter(f"{value!r} is not a box; write it as 10,20,110,220") from None
    if left >= right or top >= bottom:
        raise click.BadParameter(f"{value}: right and bottom must exceed left and top")
    if max(map(abs, box)) > 10**6:
        raise click.BadParameter(f"{value}: no photo is that large")
    if min(right - left, bottom - top) < 8:
        raise click.BadParameter(f"{value}: too small to show a person")
    return box


def names_of(known: Collection[str], none: bool = False) -> Callable[[str], tuple[str, ...]]:
    """A parser of comma-separated names, put in the order of `known`; `none` allows "none"."""

    def parse(value: str) -> tuple[str, ...]:
        names = [] if value == ("none" if none else "") else value.split(",")
        for name in names:
            if name not in known:
                raise click.BadParameter(f"{name}: choose from {', '.join(known)}")
        return tuple(name for name in known if name in names)

    return parse


class Place(click.Path):
    """A path that is not empty: an empty one would mean the current folder."""

    def convert(self, value, param, ctx):
        """Check a path as click does, ~ being the home folder; an empty one fails."""
        if not os.path.lexists(value):
            if not str(value).strip():
                self.fail("is empty; give a path", param, ctx)
            value = os.path.expanduser(value)
        return super().convert(value, param, ctx)


def refuse(ctx: click.Context, names: Iterable[str], reason: str) -> None:
    """Raise if one of the options is given, as it would have no effect."""
    for option in ctx.command.params:
        given = ctx.get_parameter_source(option.name) == ParameterSource.COMMANDLINE
        if given and option.name in names:
            raise click.UsageError(f"{option.opts[0]}: {reason}; leave it out")


# ------------------------------------------------------------------------------ streams, errors


class Stream:
    """stdout or stderr. Output that nobody reads may be lost; the work may not."""

    def __init__(self, stream, lost: type[OSError]):
        self.stream, self.lost = stream, lost

    def __getattr__(self, name: str) -> object:
        found = getattr(self.stream, name)
        return partial(self._do, found) if name in ("write", "flush") else found

    def _do(self, action: Callable, *given: str) -> int | None:
        try:
            return 0 if given == ("",) else action(*given)  # click probes whether it takes text
        except OSError as error:  # it would recur at exit, for what is still in the buffer
            os.dup2(os.open(os.devnull, os.O_WRONLY), self.stream.fileno())
            if not isinstance(error, self.lost):
                raise
            return 0


def open_streams() -> None:
    """Make stdout and stderr survive odd names, closed pipes and being closed themselves."""
    for name in ("stdin", "stdout", "stderr"):
        if getattr(sys, name) is None:  # closed: the next file opened would take its number
            setattr(sys, name, open(os.devnull, "w"))  # noqa: SIM115
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(errors="replace")  # for undecodable names and for arrows
    sys.stdout, sys.stderr = Stream(sys.stdout, BrokenPipeError), Stream(sys.stderr, OSError)


@contextlib.contextmanager
def one_line() -> Iterator[None]:
    """Turn any exception into a one-line error; POSEGAN_DEBUG=1 shows the traceback instead."""
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
        remedy = "please report it with the traceback that POSEGAN_DEBUG=1 shows"
        message = f"{type(error).__name__}: {said}; {remedy}"
        lack = ("allocate memory", "out of memory", "new thread", "failed to map")  # torch's
        if isinstance(error, MemoryError) or any(word in said for word in lack):
            message = f"not enough memory ({said}); use smaller settings or fewer files"
        if isinstance(error, OSError):
            message = f"{error.filename or 'the output'}: can't be used ({error.strerror or said})"
        raise click.ClickException(printable(message)) from None


@contextlib.contextmanager
def answering(handler: Callable[[int, dict], None]) -> Iterator[None]:
    """Let `handler` receive the signals that ask a program to stop.

    It gets the signal's number and the earlier handlers by number, which are restored at the end.
    """
    numbers = {signal.SIGINT, signal.SIGTERM, getattr(signal, "SIGHUP", signal.SIGINT)}  # Windows
    before = {number: signal.getsignal(number) for number in numbers}
    # Ignored signals stay ignored: nohup wants a run to outlive its terminal.
    before = {number: was for number, was in before.items() if was is not signal.SIG_IGN}
    for one in before:
        signal.signal(one, lambda number, frame: handler(number, before))
    try:
        yield
    finally:
        for number, was in before.items():
            if signal.getsignal(number) is not signal.SIG_IGN:  # else the process is ending
                signal.signal(number, was)


@contextlib.contextmanager
def stoppable() -> Iterator[None]:
    """Let a command clean up after a signal, undisturbed by a second one."""

    def stop(number: int, before: dict) -> None:
        for one in before:  # ignore all further signals: the process is ending
            signal.signal(one, signal.SIG_IGN)
        raise KeyboardInterrupt(number)

    try:
        with answering(stop):
            yield
    except KeyboardInterrupt as error:
        click.echo("stopped", err=True)
        raise SystemExit(128 + (error.args or (signal.SIGINT,))[0]) from None


def keep_memory() -> None:
    """Let glibc keep freed memory: returning it and asking again takes a tenth of a step."""
    import ctypes

    with contextlib.suppress(AttributeError, TypeError):  # another C library, Windows
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(-1, 2**31 - 1)  # M_TRIM_THRESHOLD
        mallopt(-3, 2**25)  # M_MMAP_THRESHOLD, its maximum


class Commands(click.Group):
    """Commands that fail with one line and leave nothing half done."""

    def make_context(self, *given, **more) -> click.Context:
        """Parse the command line. Raises ClickException if it is invalid."""
        open_streams()
        with one_line():
            return super().make_context(*given, **more)

    def invoke(self, ctx: click.Context) -> object:
        """Run a command. Raises ClickException, or SystemExit after a signal."""
        keep_memory()
        with one_line(), stoppable():
            return super().invoke(ctx)


# ------------------------------------------------------------------------------ printing


def silent_process() -> bool:
    """Whether this is one of several processes, and not the one that prints."""
    return bool(os.environ.get("WORLD_SIZE")) and os.environ.get("RANK", "0") != "0"


def say(*lines: object, err: bool = False) -> None:
    """Print lines, with odd characters in names escaped; only the first process prints."""
    for line in () if silent_process() else lines:
        click.echo(printable(str(line)), err=err)


@contextlib.contextmanager
def progress_line(description: str, unit: str, silent: bool = False) -> Iterator[Callable]:
    """A progress line on stderr; yields its update(completed=, total=, note=)."""
    from rich import progress
    from rich.console import Console

    columns = [progress.BarColumn(10), progress.MofNCompleteColumn(), unit, "{task.fields[note]}"]
    columns = ["{task.description}", *columns, progress.TimeRemainingColumn()]
    silent |= silent_process()
    with progress.Progress(*columns, console=Console(stderr=True), disable=silent) as line:
        yield partial(line.update, line.add_task(description, total=None, note=""))


@contextlib.contextmanager
def training_line(config: TrainConfig) -> Iterator[Callable[[dict], None]]:
    """Training progress: a live line, or without a terminal a plain one every PLAIN_SECONDS."""
    plain, last = not sys.stderr.isatty(), -float("inf")
    with progress_line("training", "", silent=plain) as update:

        def report(figures: dict) -> None:
            nonlocal last
            step, steps = figures["step"], config.steps
            update(completed=step, total=steps)
            if "reconstruction" not in figures:
                return
            said, now = describe_losses(figures), time.monotonic()
            update(note=said)
            if plain and (step == steps or now - last > PLAIN_SECONDS):
                last, rate = now, max(figures["images_per_second"], 1e-9)
                left = (steps - step) * config.batch_size / rate / 60
                say(f"step {step:,} of {steps:,}, {said}, {left:.0f} min left", err=True)

        yield report


def describe_losses(figures: dict) -> str:
    """images/s, the main losses and the last validation scores, as text."""
    names = ("reconstruction", "adversarial", "discriminator")
    parts = [f"{figures['images_per_second']:.1f} images/s"]
    parts += [f"{name} {figures[name]:.3f}" for name in names if name in figures]
    parts += [f"{name} {value:.3f}" for name, value in figures.get("validation", {}).items()]
    return ", ".join(parts)


def show_table(title: str, headings: list[str], rows: list[list[str]]) -> None:
    """Print a plain-text table: words in the first and last columns, numbers in the others. In a
    narrow terminal its lines wrap, so that no name or number is cut.
    """
    from rich import box
    from rich.console import Console
    from rich.table import Table

    style = {"title_justify": "left", "title_style": "", "box": box.SIMPLE_HEAD}
    table = Table(title=printable(title), pad_edge=False, padding=(0, 1, 0, 0), **style)
    for place, column in enumerate(zip(headings, *rows)):
        side = "left" if place in (0, len(headings) - 1) else "right"
        folds = column[0] == "recipe"
        options = {"overflow": "fold"} if folds else {"min_width": max(map(len, column))}
        table.add_column(column[0], justify=side, no_wrap=not folds, **options)
    for row in rows:
        table.add_row(*row)
    console = Console(width=None if os.isatty(1) else 80, markup=False, emoji=False)
    wide = console.options.update(max_width=1000)
    console.width = max(console.width, console.measure(table, options=wide).minimum)
    console.print(table)


def show_text(text: str) -> None:
    """Print a paragraph, 80 columns wide, without breaking paths."""
    options = {"subsequent_indent": "  ", "break_long_words": False, "break_on_hyphens": False}
    click.echo(textwrap.fill(text, 80, **options))
