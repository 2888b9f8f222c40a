"""Are joints where the pose wants them? As often as MediaPipe finds them there in real targets?

    pip install mediapipe==0.10.9  # the last wheels that carry their networks
    python benchmarks/joints.py [--data market1501] [--checkpoint FILE] [--limit 500]

A joint counts as found within 5 % of the picture's height from where the target's pose has it:
shoulders, elbows, wrists, hips, knees and ankles that the pose knows. Pictures lie on a square of
their mean colour, twice their height, as the detector wants room around a person. Where no person
is found, no joint is. Half the 95 % interval is over pictures.
"""

from pathlib import Path

import click
import numpy as np
import race  # noqa: F401, first: the modules are this checkout's
import torch
from PIL import Image

from posegan import checkpoints, pairs

# BODY_25's number of each joint, and MediaPipe's.
JOINTS = {2: 12, 3: 14, 4: 16, 5: 11, 6: 13, 7: 15, 9: 24, 10: 26, 11: 28, 12: 23, 13: 25, 14: 27}
SHARE, ENLARGED = 0.05, 1.5


def found(detector, picture: np.ndarray, pose: np.ndarray) -> float:
    """The share of a pose's joints (25, 3) that are found in a picture uint8 (H, W, 3)."""
    H, W = picture.shape[:2]
    known = [joint for joint in JOINTS if pose[joint, 2] > 0]
    if not known:
        return np.nan
    size = round(ENLARGED * W), round(ENLARGED * H)
    side = 2 * size[1]
    room = Image.new("RGB", (side, side), tuple(picture.mean((0, 1)).astype(int)))
    corner = np.array([(side - size[0]) // 2, (side - size[1]) // 2])
    room.paste(Image.fromarray(picture).resize(size, Image.Resampling.BICUBIC), tuple(corner))
    person = detector.process(np.asarray(room)).pose_landmarks
    if person is None:
        return 0.0
    marks = [person.landmark[JOINTS[joint]] for joint in known]
    places = np.array([(mark.x * side, mark.y * side) for mark in marks])
    places = (places - corner) / ENLARGED - 0.5
    return float((np.linalg.norm(places - pose[known, :2], axis=1) <= SHARE * H).mean())


@click.command()
@click.option("--data", default="market1501", show_default=True)
@click.option("--root", default="data", show_default=True)
@click.option("--checkpoint", type=Path, help="Default: the model that comes along.")
@click.option("--limit", default=500, show_default=True, help="Test pairs.")
def main(data: str, root: str, checkpoint: Path | None, limit: int) -> None:
    import mediapipe

    detector = mediapipe.solutions.pose.Pose(static_image_mode=True, min_detection_confidence=0.05)
    prepared = pairs.load(data, root)
    path = checkpoint or checkpoints.BUILT_IN
    generator = checkpoints.load_generator(path, torch.device("cpu"))
    shares = {"generated": [], "target": [], "source": []}
    for batch in checkpoints.scored_batches(prepared, generator, limit):
        for name, each in shares.items():
            pictures = checkpoints.to_pictures(batch[name])
            each += map(found, [detector] * limit, pictures, batch["target_pose"].numpy())
    for name, each in shares.items():
        values = np.array(each)[~np.isnan(each)]
        half = 1.96 * values.std() / len(values) ** 0.5
        print(f"{name:10} joints found {values.mean():.3f} +- {half:.3f}  N = {len(values):,}")


if __name__ == "__main__":
    main()
