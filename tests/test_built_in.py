"""The built-in model."""

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from conftest import fails
from PIL import Image

from posegan import checkpoints, metrics, posegan, poses

CPU = torch.device("cpu")


def test_it_is_small_and_makes_identical_bytes_twice(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert checkpoints.BUILT_IN.stat().st_size <= 12e6
    generator = checkpoints.load_generator(checkpoints.BUILT_IN, CPU)
    assert sum(parameter.numel() for parameter in generator.parameters()) <= 12e6
    for name in ("a.png", "b.png"):
        command = ["generate", "example", "walk", "--sheet", "--device", "cpu", "--out", name]
        result = CliRunner().invoke(posegan.main, command)
        assert result.exit_code == 0, result.output
        assert f"model: {checkpoints.BUILT_IN}" in result.output
    one, other = ((tmp_path / name).read_bytes() for name in ("a.png", "b.png"))
    assert one == other


def test_it_beats_both_baselines_on_real_pairs(shared_data):
    folder = shared_data / "dscf-market1501"
    known = poses.read_poses(shared_data / "market-annotation-train.csv")
    files = sorted(path.name for path in (folder / "target").iterdir())[:48]
    sides = []
    for side in ("source", "target"):
        pictures = [np.asarray(Image.open(folder / side / name).convert("RGB")) for name in files]
        sides.append(torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2))
    source, target = sides
    given = []
    for place in (1, 0):
        names = [name.removesuffix(".png").split("__")[place] for name in files]
        joints = [known[f"{name}.jpg"].joints for name in names]
        given.append(torch.from_numpy(np.stack(joints)).float())
    made = checkpoints.generate(
        checkpoints.load_generator(checkpoints.BUILT_IN, CPU), source, *given
    )
    mean = target.float().mean(0).round().to(torch.uint8).expand_as(target)
    names = ["ssim_dscf", "mask_ssim", "l1"]
    ours, *others = (metrics.scores(x, target, given[0], names) for x in (made, source, mean))
    for other in others:
        assert ours["ssim_dscf"].mean() > other["ssim_dscf"].mean() + 0.05
        assert ours["mask_ssim"].nanmean() > other["mask_ssim"].nanmean() + 0.02
        assert ours["l1"].mean() < other["l1"].mean()


@pytest.mark.parametrize("harm", ["missing", "damaged"])
def test_a_model_that_is_missing_or_damaged_is_one_line(tmp_path, monkeypatch, harm):
    file = tmp_path / "market1501.pt"
    if harm == "damaged":
        content = bytearray(checkpoints.BUILT_IN.read_bytes())
        content[len(content) // 2] ^= 1
        file.write_bytes(content)
    monkeypatch.setattr(checkpoints, "BUILT_IN", file)
    with fails(f"the model that comes with posegan is {harm}; install posegan again"):
        checkpoints.load_generator(checkpoints.default_checkpoint(tmp_path / "runs"), CPU)
