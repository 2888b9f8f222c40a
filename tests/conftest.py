"""Fixtures and small makers of data that several test modules share."""

import io
import json
import os
import shutil
import signal
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from click import ClickException
from click.testing import CliRunner
from PIL import Image

from posegan import checkpoints, datasets, demo, pairs, posegan, poses, recipes, training

BATCH = 2  # of some_images and some_pose


def some_images(height: int, width: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.rand(BATCH, 3, height, width, generator=generator) * 2 - 1


def some_pose(height: int, width: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    xy = torch.rand(BATCH, 25, 2, generator=generator) * torch.tensor([width - 1.0, height - 1.0])
    return torch.cat([xy, torch.ones(BATCH, 25, 1)], dim=-1)


@pytest.fixture(scope="session", autouse=True)
def heard_signals() -> None:
    """Under nohup, SIGHUP would be ignored here and in what the tests start."""
    if hasattr(signal, "SIGHUP"):
        signal.signal(signal.SIGHUP, signal.SIG_DFL)


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder with the real data sets, beside the checkout; tests that need it skip without."""
    folder = Path(__file__).resolve().parents[2] / "shared" / "data"
    if not folder.is_dir():
        pytest.skip("the real data sets are not beside this checkout")
    return folder


@pytest.fixture(scope="session")
def few_people(tmp_path_factory) -> pairs.Prepared:
    """Ten demo people in five poses each, prepared at 64x32; the last of them is for testing."""
    root = tmp_path_factory.mktemp("data")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(demo, "IDENTITIES", 10)
        patch.setattr(demo, "POSES", 5)
        return datasets.prepare(datasets.PrepareConfig(root=str(root), size=(64, 32)))


def body(height: float = 100, x: float = 30, y: float = 10) -> np.ndarray:
    """A standing BODY_25 pose (25, 3), all joints present, all different."""
    rng = np.random.default_rng(7)
    levels = np.array(
        [0.05, 0.2, *(0.2, 0.35, 0.5) * 2, 0.55, *(0.55, 0.75, 0.95) * 2, *(0.03,) * 4, *(1.0,) * 6]
    )
    sides = rng.uniform(-0.15, 0.15, 25)
    pose = np.stack([x + sides * height, y + levels * height, rng.uniform(0.5, 1, 25)], 1)
    return pose.astype(np.float32)


def openpose(*people: np.ndarray, key: str = "pose_keypoints_2d") -> str:
    return json.dumps(
        {"version": 1.3, "people": [{key: person.ravel().tolist()} for person in people]}
    )


def coco(poses: dict[str, np.ndarray], size: tuple[int, int]) -> str:
    """COCO's JSON of one person an image, from BODY_25 poses."""
    order = (0, 16, 15, 18, 17, 5, 2, 6, 3, 7, 4, 12, 9, 13, 10, 14, 11)
    images = [
        {"id": i, "file_name": name, "height": size[0], "width": size[1]}
        for i, name in enumerate(poses)
    ]
    annotations = [
        {"image_id": i, "keypoints": pose[list(order)].ravel().tolist()}
        for i, pose in enumerate(poses.values())
    ]
    return json.dumps({"images": images, "annotations": annotations})


def csv_row(name: str, points: np.ndarray) -> str:
    """A row of the DSCF/PATN CSV from COCO-18 points (18, 2): x, y."""
    x, y = points.T.astype(int).tolist()
    return f"{name}: {y}: {x}"


def csv_text(*rows: str) -> str:
    return "\n".join(["name:keypoints_y:keypoints_x", *rows]) + "\n"


def csv_of(people: dict[str, np.ndarray]) -> str:
    """The DSCF/PATN CSV of BODY_25 poses (25, 3) by picture name."""
    rows = []
    for name, pose in people.items():
        joints = pose[list(poses.COCO18)]
        rows.append(csv_row(name, np.where(joints[:, 2:] > 0, joints[:, :2].round(), -1)))
    return csv_text(*rows)


def picture(seed: int = 0, size: tuple[int, int] = (128, 64)) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (*size, 3), dtype=np.uint8)


def encoded(image: np.ndarray | Image.Image, kind: str = "png", **options) -> bytes:
    image = image if isinstance(image, Image.Image) else Image.fromarray(image)
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def write(path: Path, content: bytes | str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def tree(folder: Path, files: dict[str, bytes | str]) -> Path:
    for name, content in files.items():
        write(folder / name, content)
    return folder


def archive(folder: Path, kind: str) -> Path:
    """A folder's files in an archive beside it: zip, tar or tar.gz."""
    path = folder.with_name(f"{folder.name}.{kind}")
    files = sorted(file for file in folder.rglob("*") if file.is_file())
    if kind == "zip":
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as packed:
            for file in files:
                packed.write(file, file.relative_to(folder.parent))
    else:
        with tarfile.open(path, "w:gz" if kind == "tar.gz" else "w") as packed:
            for file in files[::-1]:
                packed.add(file, file.relative_to(folder.parent))
    return path


def fails(match: str):
    """Expect one line for the user, with these words in it (a regular expression)."""
    return pytest.raises(ClickException, match=match)


def average_in_one_process(rank: int, meeting: str) -> None:
    """One of two processes; here, as those that are spawned can import this module by its name."""
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{meeting}", rank=rank, world_size=2
    )
    network = torch.nn.Linear(2, 1, bias=False)
    network.weight.grad = torch.full((1, 2), float(rank))
    training.average_gradients(network)
    assert torch.equal(network.weight.grad, torch.full((1, 2), 0.5))
    torch.distributed.destroy_process_group()


def config_for(prepared, run: Path, **changes) -> recipes.TrainConfig:
    """Settings of a small run on prepared demo people."""
    model = changes.get("model", "residual")
    settings = {
        "data": "demo",
        "root": str(prepared.path.parent) if prepared else "",
        "model": model,
        "run": str(run),
        "steps": 4,
        "batch_size": 4,
        "learning_rate": 1e-3,
        "device": "cpu",
        "precision": "float32",
        "channels": 4,
        "descriptor": "map",
        "features": "none",
        "augment": recipes.AUGMENTATIONS,
        "save_every": 100,
        "compile": False,
        "seed": 3,
    }
    return recipes.TrainConfig(**recipes.complete(settings | changes))


def values_of(checkpoint: Path) -> dict:
    return checkpoints.read_checkpoint(checkpoint)["state"]


def same(a, b) -> bool:
    if isinstance(a, torch.Tensor):
        return torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(map(same, a, b))
    return a == b


def stop_at(step: int):
    """A report that interrupts the run after a step, as Ctrl-C does."""
    return lambda figures: figures["step"] == step and signal.raise_signal(signal.SIGINT)


def forget_batch_statistics(setattr) -> None:
    """Let batch norm use its running statistics in training too, which then stay as they are."""
    norm = torch.nn.modules.batchnorm._BatchNorm
    setattr(norm, "train", lambda self, mode=True: torch.nn.Module.train(self, False))


def train_in_one_process(rank: int, world: int, port: int, settings: dict, resume: bool) -> None:
    """One of several processes that train without batch statistics."""
    forget_batch_statistics(setattr)
    torch.set_num_threads(1)
    found = {"RANK": rank, "WORLD_SIZE": world, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    os.environ.update({name: str(value) for name, value in found.items()})
    config = recipes.TrainConfig(**settings)
    prepared = pairs.load("demo", config.root)
    training.train(config, prepared, resume, lambda figures: None)


# ------------------------------------------------------------------------------ whole commands

# They work in a copy of the folder `world`, and must fail once something in it is harmed.
COMMANDS = {
    "generate": "generate photo.png pose.json --checkpoint model.pt --out out.png --device cpu",
    "motion": "generate photo.png walk --checkpoint model.pt --out out.gif --device cpu",
    "own": "generate photo.png walk --source-pose pose.json --checkpoint model.pt --out out.gif",
    "score": "score --data folder --root data --checkpoint model.pt --scores pixels --device cpu",
    "folders": "score --generated made --target real --poses poses.csv --scores pixels",
    "prepare": "prepare --data folder --source people --root new --size 64x32",
    "posed": "prepare --data folder --source bare --poses poses.csv --root new --size 64x32",
    "train": "train --data folder --root data --run new --steps 1 --channels 4 --batch-size 2 "
    "--model unet --augment none",
    "resume": "train --run run --resume --steps 9 --root data",
}


@pytest.fixture(scope="session")
def world(tmp_path_factory) -> Path:
    """A folder with all that the commands above need."""
    folder = tmp_path_factory.mktemp("world")
    people, bare = {}, {}
    for person in ("al", "bo"):
        for shot in range(2):
            people[f"{person}/{shot}.png"] = bare[f"{person}/{shot}.png"] = encoded(
                picture(shot, (64, 32))
            )
            people[f"{person}/{shot}.json"] = openpose(body(50, 15, 4))
    tree(folder / "people", people)
    tree(folder / "bare", bare)
    for side in ("made", "real"):
        tree(folder / side, {f"{i}.png": encoded(picture(i, (64, 32))) for i in range(2)})
    write(folder / "photo.png", encoded(picture(0, (96, 64))))
    write(folder / "photo.json", openpose(body(80, 30, 8)))
    write(folder / "pose.json", openpose(body(80, 30, 8)))
    names = [*bare, "0.png", "1.png"]
    points = body(50, 15, 4)[[*range(8), *range(9, 19)], :2]
    write(folder / "poses.csv", csv_text(*(csv_row(name, points) for name in names)))
    prepared = datasets.prepare(
        datasets.PrepareConfig(
            "folder", str(folder / "people"), root=str(folder / "data"), size=(64, 32)
        )
    )
    config = config_for(
        prepared, folder / "run", model="unet", steps=2, batch_size=2, data="folder"
    )
    training.train(config, prepared, False, lambda figures: None)
    shutil.copy(folder / "run" / "generator.pt", folder / "model.pt")
    return folder


@pytest.fixture
def here(world, tmp_path, monkeypatch) -> Path:
    """A copy of that folder of one's own, which is the working folder."""
    folder = tmp_path / "here"
    shutil.copytree(world, folder)
    monkeypatch.chdir(folder)
    monkeypatch.delenv("POSEGAN_DATA", raising=False)
    return folder


def state(folder: Path) -> dict[str, object]:
    """All that lies in a folder, by name: bytes, or what else it is."""
    found = {}
    for path in sorted(folder.rglob("*")):
        status = path.lstat()
        small = path.is_file() and not path.is_symlink() and status.st_size < 2**22
        found[str(path)] = path.read_bytes() if small else (status.st_mode, status.st_size)
    return found


def refused(folder: Path, arguments: list[str], word: str, code: int = 1) -> None:
    """Run a command that must be refused in one line with that word, and change nothing."""
    before = state(folder)
    result = CliRunner().invoke(posegan.main, arguments)
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    lines = result.output.splitlines()
    assert result.exit_code == code, result.output
    assert "Traceback" not in result.output and "POSEGAN_DEBUG" not in result.output
    assert lines[-1].startswith("Error: ") and word in lines[-1], result.output
    assert sum(line.startswith("Error") for line in lines) == 1
    assert all(line.isprintable() for line in lines)
    after = state(folder)
    assert after == before, {*after} ^ {*before}
