"""New poses for a data set's training people, in Market-1501's layout, for re-identification."""

import contextlib
import csv
import itertools
import re
import shutil
import zlib
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch.distributed as dist
from torch import nn

from posegan import checkpoints, pairs, poses
from posegan.files import BadInput, check_output, replaced
from posegan.terminal import progress_line, say


class PlannedPicture(NamedTuple):
    """A picture to make, of a person in another's pose."""

    file: str  # named as in Market-1501
    source: str
    pose: str
    seed: int
    made_from: str  # a checksum of the data and the model
    pair: tuple[int, int]  # indices of source and pose in the prepared folder


def plan_people(prepared: pairs.Prepared, count: int, made_from: str = "") -> list[PlannedPicture]:
    """The pictures to make for `count` new poses of each training person, from the training pairs.

    Each picture has its own seed, so that a larger `count` extends a smaller one.
    """
    known = np.unique(prepared.pairs_train)
    if not len(known):
        raise BadInput(prepared.path, "no training pairs", "prepare people with two pictures each")
    planned = []
    # Market-1501's own numbers are kept; people without one get an unused number.
    taken = {*prepared.identity}
    free = (n for n in map("{:04d}".format, itertools.count(1)) if n not in taken)
    for label in np.unique(prepared.labels[known]):
        own = known[prepared.labels[known] == label]
        name = prepared.identity[own[0]]
        person = name if re.fullmatch(r"\d{4}", name) else next(free)
        for number in range(count):
            seed = int(np.random.SeedSequence([int(label), number]).generate_state(1)[0])
            rng = np.random.default_rng(seed)
            pair = int(rng.choice(own)), int(rng.choice(known))
            source, pose = map(str, prepared.files[list(pair)])
            scene = re.search(r"_(c\ds\d)_", source) or (None, "c1s1")
            name = f"{person}_{scene[1]}_{900000 + number}_00.jpg"  # frame numbers no camera has
            planned.append(PlannedPicture(name, source, pose, seed, made_from, pair))
    return planned


def write_data_set(data: str, root: str, count: int, out: Path, generator: nn.Module) -> None:
    """Write `count` new poses of each training person, laid out as Market-1501's training folder.

    Existing pictures are kept, so a second run continues; several processes share the work. Raises
    ClickException if sizes differ, or if `out` holds something else.
    """
    prepared = pairs.load(data, root)
    checkpoints.check_size(prepared, generator)
    made_from = zlib.crc32(str(prepared.description["digest"]).encode(), generator.checksum)
    rows = plan_people(prepared, count, f"{made_from:08x}")
    folder = out / "bounding_box_train"
    (rank, world), total = checkpoints.rank_and_world(), len(rows)
    if rank == 0:
        write_manifest(out / "manifest.csv", rows)
        for lost in folder.glob(".*.partial-*"):  # left by a killed process
            shutil.rmtree(lost, ignore_errors=True)
    if world > 1:
        dist.barrier()
    rows = rows[rank::world]
    whole = {file.name for file in folder.glob("*.jpg") if file.is_file() and file.stat().st_size}
    left = [row for row in rows if row.file not in whole]
    with progress_line("generating", "pictures") as update:
        for start in range(0, len(left), pairs.CHUNK):
            part = left[start : start + pairs.CHUNK]
            batch = pairs.gather(prepared, np.array([row.pair for row in part]))
            given = (batch[name] for name in ("source", "target_pose", "source_pose"))
            made = checkpoints.to_pictures(checkpoints.generate(generator, *given))
            poses.write_pictures(made, [folder / row.file for row in part], overwrite=True)
            update(completed=len(rows) - len(left) + start + len(part), total=len(rows))
    if world > 1:
        dist.barrier()
    say(f"{out}: {total:,} pictures of {prepared.identities:,} people")


def write_manifest(path: Path, rows: list[PlannedPicture]) -> None:
    """Write the planned pictures as CSV; raises if the folder holds something else."""
    check_output(path, "--out", True, {})
    table = [PlannedPicture._fields[:5], *(tuple(map(str, row[:5])) for row in rows)]
    if path.is_file():
        found = []
        with contextlib.suppress(csv.Error), open(path, **pairs.TEXT) as file:
            found += map(tuple, csv.reader(file))
        if found[:1] != table[:1] or not {*found} <= {*table}:
            remedy = "continue with the same model and data, and at least the same --count, or name"
            raise BadInput(path, "lists other pictures", f"{remedy} a new folder with --out")
    elif path.parent.exists() and any(path.parent.iterdir()):
        problem = "not empty, and not started by this command"
        raise BadInput(path.parent, problem, "name a new folder with --out")
    with replaced(path, "--out") as beside, open(beside, "w", **pairs.TEXT) as file:
        csv.writer(file).writerows(table)
