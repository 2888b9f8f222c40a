"""Checkpoint files, and loading and running their generators.

A checkpoint is {"format", "config", "state"}: the config holds the settings of the run ("train"),
what its networks are ("shape") and a checksum of its data ("data").
"""

import contextlib
import dataclasses
import logging
import math
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from threading import Timer
from typing import get_origin
from zlib import crc32

import numpy as np
import torch
import torch.distributed as dist
from click import ClickException
from torch import Tensor, nn

from posegan import augment, datasets, features, models, pairs
from posegan.files import BadInput, replaced
from posegan.recipes import AUGMENTATIONS, TrainConfig
from posegan.terminal import answering

log = logging.getLogger("posegan")

FORMAT = 4
GIVEN = ("source", "target_pose", "source_pose")  # a generator's inputs, from a batch
PATIENCE = 30  # seconds until a process reports that it waits for the others
BUILT_IN = Path(__file__).with_name("market1501.pt")  # the model that comes with posegan


def pick_device(name: str) -> torch.device:
    """The device called `name`; auto: CUDA if available. Raises ClickException if it is missing."""
    name = str(name)
    if name not in ("auto", "cpu", "cuda"):
        raise BadInput(f"device {name}", "unknown device", "use auto, cpu or cuda")
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name == "cuda" and not torch.cuda.is_available():
        remedy = "check the driver with nvidia-smi, or use --device cpu"
        raise BadInput("--device cuda", "PyTorch finds no CUDA device here", remedy)
    if name == "cpu":
        return torch.device("cpu")
    device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", 0)))
    torch.cuda.set_device(device)
    return device


@contextlib.contextmanager
def processes(device: torch.device) -> Iterator[tuple[int, int]]:
    """Join the processes started by torchrun, if RANK is set; yields rank and world size.

    Raises ClickException if only some of torchrun's variables are set, or if another process ends.
    """
    names = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
    given = [name for name in names if os.environ.get(name)]
    if not given:
        yield 0, 1
        return
    rank, world, address, port = (os.environ.get(name, "") for name in names)
    numbers = address and all(map(str.isdecimal, (rank, world, port)))
    if not (numbers and int(rank) < int(world)):
        remedy = f"start several processes with torchrun, or unset {given[0]}"
        raise BadInput(", ".join(given), "set, but not by torchrun", remedy)
    place = f"{address}:{port}"
    waiting = Timer(PATIENCE, log.warning, ("%s: waiting for the other processes", place))
    waiting.start()
    try:
        dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
    except RuntimeError:
        remedy = "start all with torchrun, where they can reach this address"
        raise BadInput(place, "the other processes did not connect", remedy) from None
    finally:
        waiting.cancel()
    try:
        yield dist.get_rank(), dist.get_world_size()
        dist.barrier()  # whoever leaves first cuts the others' connections
    except RuntimeError as error:
        if isinstance(error, torch.OutOfMemoryError) or "onnection" not in str(error):
            raise
        raise ClickException(
            "another process has ended; see its message, then run again (train with --resume)"
        ) from None
    finally:
        dist.destroy_process_group()


def rank_and_world() -> tuple[int, int]:
    """This process's rank and the number of processes, inside `processes`."""
    return (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)


def build_generator(shape: dict) -> nn.Module:
    """The generator a checkpoint's `shape` describes, without its weights."""
    return models.GENERATORS[shape["model"]](shape["height"], shape["width"], **shape["options"])


def write_checkpoint(
    path: Path, config: TrainConfig, about: dict, state: dict, previous: Path | None = None
) -> None:
    """Write a checkpoint atomically, so that a crash at any moment leaves an intact one.

    The old file becomes `previous`. Raises ClickException if it can't be written.
    """
    settings = {"train": dataclasses.asdict(config)} | about
    content = {"format": FORMAT, "config": settings, "state": state}
    try:
        with undisturbed(), replaced(path, "--run") as beside:
            with open(beside, "wb") as file:
                torch.save(content, file)
                file.flush()
                os.fsync(file.fileno())
            if previous and path.exists() and not path.is_symlink():
                os.replace(path, previous)
    except RuntimeError as error:  # how torch.save reports a full disk
        problem = f"can't be written ({str(error).splitlines()[0]})"
        raise BadInput(
            path, problem, "free some space, or choose another place with --run"
        ) from None


def read_checkpoint(path: Path) -> dict:
    """Read a checkpoint. Raises ClickException for damaged and foreign files."""
    content = features.read_state_dict(path)
    if not {"format", "config", "state"} <= content.keys():
        raise BadInput(path, "not a posegan checkpoint", "train one with posegan train")
    if content["format"] != FORMAT:
        problem = f"checkpoint format {content['format']}, this version reads {FORMAT}"
        raise BadInput(path, problem, "use the posegan that wrote it")
    if not well_formed(content):
        problem = "a checkpoint with missing or impossible values"
        raise BadInput(path, problem, "use another, or train again")
    return content


def well_formed(content: dict) -> bool:
    """Whether a checkpoint has all required parts, with possible types and values."""
    try:
        config, state = content["config"], content["state"]
        train, shape = TrainConfig(**config["train"]), config["shape"]
        numbers = (  # with their least and greatest values
            (shape["height"], 16, 1024),
            (shape["width"], 16, 1024),
            (shape["options"]["channels"], 1, 1024),
            (shape["identities"], 0, math.inf),
            (state["step"], 0, math.inf),
            (train.steps, 1, math.inf),
            (train.batch_size, 1, 2**14),
            (train.save_every, 1, math.inf),
            (train.seed, 0, 2**63 - 1),
        )
        kinds = [(getattr(train, one.name), one.type) for one in dataclasses.fields(train)]
        weights = [float(weight) for weight in train.loss_weights.values()]
        return (
            all(isinstance(value, get_origin(kind) or kind) for value, kind in kinds)
            and shape["model"] in models.GENERATORS
            and 0 < train.learning_rate <= 1
            and {*train.augment} <= {*AUGMENTATIONS}
            and train.precision in ("auto", "float32", "bfloat16")
            and 0 < sum(weights) < math.inf
            and min(weights) >= 0
            and all(type(x) is int and least <= x <= most for x, least, most in numbers)
            and all(value.isfinite().all() for value in state["average"].values())
        )
    except (KeyError, TypeError, ValueError, AttributeError, RuntimeError, OverflowError):
        return False


@contextlib.contextmanager
def undisturbed() -> Iterator[None]:
    """Defer signals while a checkpoint is written."""
    waiting = []
    with answering(lambda number, before: waiting.append(number)):
        yield
    for number in waiting:
        signal.raise_signal(number)


def default_checkpoint(runs: Path = Path("runs")) -> Path:
    """The newest checkpoint in `runs`, else the built-in one; raises ClickException without any."""
    if found := list(runs.glob("*/latest.pt")):
        return max(found, key=lambda path: path.stat().st_mtime)
    if not BUILT_IN.is_file():
        again = "install posegan again, train one with posegan train"
        remedy = f"{again}, or name one with --checkpoint FILE"
        raise BadInput(BUILT_IN, "the model that comes with posegan is missing", remedy)
    return BUILT_IN


# ------------------------------------------------------------------------------ running a generator


def load_generator(path: Path, device: torch.device) -> nn.Module:
    """The averaged generator of a checkpoint, for running only; its `trained` holds the data, step
    and seed of its training. Raises ClickException for a file that is not a posegan checkpoint.
    """
    try:
        content = read_checkpoint(path)
    except ClickException:
        if path != BUILT_IN:
            raise
        problem = "the model that comes with posegan is damaged"
        raise BadInput(path, problem, "install posegan again") from None
    try:
        generator = build_generator(content["config"]["shape"])
        generator.load_state_dict(content["state"]["average"])
    except (KeyError, TypeError, ValueError, RuntimeError):
        remedy = "use the version that wrote it, or train again"
        raise BadInput(path, "this version can't rebuild its model", remedy) from None
    settings, step = content["config"]["train"], content["state"]["step"]
    generator.trained = {"data": settings["data"], "step": step, "seed": settings["seed"]}
    weights = content["state"]["average"].values()
    generator.checksum = crc32(b"".join(value.numpy().tobytes() for value in weights))
    return features.fused(generator).to(device, memory_format=torch.channels_last)


@torch.inference_mode()
def synthesise(
    generator: nn.Module, source: Tensor, target_pose: Tensor, source_pose: Tensor | None = None
) -> models.Synthesis:
    """Run a generator on pictures, source uint8 (B, 3, H, W); returns all it makes, in float32.

    One source, and its pose, may serve all target poses (B, 25, 3): `flow` encodes it once. A
    generator without a flow paints the whole picture. Computes in float32 on every device, as
    scores must not depend on it. Raises ClickException if NaN comes out.
    """
    device, count = next(generator.parameters()).device, len(target_pose)
    source, target_pose = pairs.normalise(source.to(device)), target_pose.to(device)
    source_pose = None if source_pose is None else source_pose.to(device)
    with augment.in_float32(source):
        if isinstance(generator, models.FlowGenerator):
            made = generator.synthesise(source, target_pose, source_pose)
        else:
            source = source.expand(count, -1, -1, -1)
            source_pose = None if source_pose is None else source_pose.expand(count, -1, -1)
            made = models.painting(generator(source, target_pose, source_pose))
    if not made.image.isfinite().all():
        remedy = "give an earlier checkpoint with --checkpoint, or train again with a lower "
        raise BadInput("the model outputs NaN", "training diverged", f"{remedy}--learning-rate")
    return made


def generate(
    generator: nn.Module, source: Tensor, target_pose: Tensor, source_pose: Tensor | None = None
) -> Tensor:
    """The pictures of `synthesise`, uint8 (B, 3, H, W) on the generator's device."""
    return to_levels(synthesise(generator, source, target_pose, source_pose).image)


def to_levels(images: Tensor) -> Tensor:
    """Images in [-1, 1] as uint8."""
    return images.float().add(1).mul_(127.5).round_().clamp_(0, 255).to(torch.uint8)


def check_size(prepared: pairs.Prepared, generator: nn.Module) -> None:
    """Raise ClickException if the pictures differ in size from the generator's."""
    if (prepared.height, prepared.width) != (generator.height, generator.width):
        problem = f"images of {prepared.height}x{prepared.width}, but the model makes "
        problem += f"{generator.height}x{generator.width}"
        remedy = "give a checkpoint trained at this size with --checkpoint"
        raise BadInput(prepared.path, problem, remedy)


def scored_batches(
    prepared: pairs.Prepared,
    generator: nn.Module,
    limit: int | None,
    corruption: tuple[str, int] | None = None,
) -> Iterator[dict]:
    """The first `limit` test pairs in batches, with `generated`, `baselines` and `names` (B, 2).

    The baselines are images by name; `names` are the files of source and target; `corruption` is
    the kind and severity applied to sources. Each of several processes generates its share, and
    the first yields the batches. Raises ClickException if sizes differ or there are no pairs.
    """
    check_size(prepared, generator)
    chosen = prepared.pairs_test[:limit]
    if not len(chosen):
        raise BadInput(prepared.path, "no test pairs", "prepare more people")
    mean = pairs.mean_image(prepared)  # (3, H, W)
    parts = [chosen[at : at + pairs.CHUNK] for at in range(0, len(chosen), pairs.CHUNK)]
    rank, world = rank_and_world()
    for first in range(0, len(parts), world):
        group = parts[first : first + world]
        group = group[rank : rank + 1] if rank else group  # the first needs all targets
        batches = [spoilt_batch(prepared, part, corruption) for part in group]
        own = generate(generator, *(batches[0][name] for name in GIVEN)).cpu() if batches else None
        every = [own] * world if rank == 0 else None
        if world > 1:
            dist.gather_object(own, every)
        for batch, made in zip(batches, every or ()):
            source = batch["source"]
            batch["baselines"] = {"source": source, "mean": mean.expand_as(source)}
            yield batch | {"generated": made}


def spoilt_batch(
    prepared: pairs.Prepared, part: np.ndarray, corruption: tuple[str, int] | None
) -> dict:
    """`gather`'s batch for pairs (B, 2), with corrupted sources, and `names`."""
    batch = pairs.gather(prepared, part) | {"names": prepared.files[part]}  # (B, 2)
    if corruption:
        # Seeded by file name, so that a source is corrupted alike in all its pairs.
        keys = (os.fsencode(datasets.picture_key(name)) for name in batch["names"][:, 0])
        samples = torch.tensor([crc32(key) >> 1 for key in keys])
        given = pairs.normalise(batch["source"]), batch["source_pose"], *corruption, samples
        source, batch["source_pose"] = augment.corrupt(*given)
        batch["source"] = to_levels(source)
    return batch


def to_pictures(images: Tensor) -> np.ndarray:
    """uint8 tensors (B, 3, H, W) on any device as arrays (B, H, W, 3)."""
    return images.permute(0, 2, 3, 1).cpu().numpy()
