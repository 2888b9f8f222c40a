"""Pictures a second of many poses on one photograph, beside the model's own images a second.

    python benchmarks/poses_of_one.py [--repeats 5] [--count 1000]

The example photograph, at the rows of the model and at twice and four times as many. The
pictures are those that `posegan generate` writes, before they are encoded; the model's own are
`count` source and target poses in batches of 32, in turns with them.
"""

from functools import partial
from pathlib import Path

import click
import numpy as np
import torch
from PIL import Image
from race import race

from posegan import checkpoints, photo, poses, terminal

EXAMPLE = Path(photo.__file__).with_name("examples") / "person.jpg"


def take(rows: int, size: tuple[int, int]) -> tuple[photo.Shot, np.ndarray]:
    """The example with that many rows, and a motion of its person."""
    picture = poses.read_photo(EXAMPLE)
    own, _ = photo.own_pose(EXAMPLE, picture)
    small = (rows, round(picture.shape[1] * rows / len(picture)))
    own = poses.fit_pose(own, picture.shape[:2], small)
    picture = np.asarray(Image.fromarray(picture).resize(small[::-1], Image.Resampling.BOX))
    return photo.shoot(picture, own, [photo.read_targets("walk")], size)


def alone(model: photo.Model, shot: photo.Shot, moved: np.ndarray) -> None:
    for start in range(0, len(moved), photo.BATCH):
        pose = torch.from_numpy(shot.frame.to_model(moved[start : start + photo.BATCH]))
        source = shot.source.expand(len(pose), -1, -1, -1)
        checkpoints.generate(model.generator, source, pose, pose.flip(0))


def whole(model: photo.Model, shot: photo.Shot, moved: np.ndarray) -> None:
    for _ in shot.pictures(model.generator, moved):
        pass


@click.command()
@click.option("--repeats", default=3, show_default=True)
@click.option("--count", default=1000, show_default=True)
def main(repeats: int, count: int) -> None:
    terminal.keep_memory()  # as the command does
    model = photo.load(checkpoints.BUILT_IN)
    for times in (1, 2, 4):
        shot, moved = take(times * model.size[0], model.size)
        given = model, shot, np.resize(moved, (count, *moved.shape[1:]))
        best = race({call: partial(call, *given) for call in (alone, whole)}, repeats)
        print(
            f"{len(shot.photo)} rows: {count / best[whole]:.1f} pictures/s, the model alone "
            f"{count / best[alone]:.1f}: {100 * best[alone] / best[whole]:.0f} %"
        )


if __name__ == "__main__":
    main()
