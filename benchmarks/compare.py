"""The three models on equal terms: trained on as many samples, scored on the same test pairs.

    posegan prepare --data market1501 --source ZIP --poses CSVs
    python benchmarks/compare.py --model residual --channels 16
    python benchmarks/compare.py

Runs `posegan train` and `posegan score` for each model, into RUNS/compare-MODEL/, and prints the
table as Markdown; RUNS/compare.png shows random test pairs: source, target pose, target, and what
each model makes of them. A run that is there is continued with its own settings, so the script may
be stopped and started again; without ImageNet's weights `residual` trains its descriptor along.
Hours are those of the log; images/s are generated ones, 32 at once. At full width `residual` takes
several times as long on a CPU as the other two, so the first line trains a quarter of it.

Of `flow` it says as well how far its flow is off, in pixels on the body, where the source itself
was deformed in a known way, and what scores cost that are made without the source pose.
"""

import json
import subprocess
import sys
from pathlib import Path

import click
import numpy as np
import torch
from PIL import Image
from race import race
from torch import nn

from posegan import augment, checkpoints, losses, metrics, models, pairs, posegan, poses, recipes

SHEET_PAIRS = 12
TIMED = 8  # batches
GIVEN = ("source", "target_pose", "source_pose")  # to a generator


def command(*arguments: object) -> None:
    subprocess.run([sys.executable, posegan.__file__, *map(str, arguments)], check=True)


def hours(log: Path, batch_size: int) -> float:
    """Training hours by the log: a line names the speed since the last one."""
    seconds, last = 0.0, 0
    for line in map(json.loads, log.read_text().splitlines()):
        seconds += (line["step"] - last) * batch_size / line["images_per_second"]
        last = line["step"]
    return seconds / 3600


def speed(generator: nn.Module, batch: dict) -> float:
    """Images a second that a generator makes of a batch, by the best of some runs."""
    given = [batch[name] for name in GIVEN]
    best = race({"generate": lambda: checkpoints.generate(generator, *given).cpu()}, TIMED)
    return len(batch["source"]) / best["generate"]


def write_sheet(path: Path, generators: dict[str, nn.Module], prepared: pairs.Prepared) -> None:
    """Draw random test pairs with what each model makes of them."""
    chosen = np.random.default_rng(0).permutation(prepared.pairs_test)[:SHEET_PAIRS]
    batch = pairs.gather(prepared, chosen)
    columns = [checkpoints.to_pictures(batch[side]) for side in ("source", "target")]
    columns.insert(1, batch["target_pose"].numpy())
    for generator in generators.values():
        made = checkpoints.generate(generator, *(batch[name] for name in GIVEN))
        columns.append(checkpoints.to_pictures(made))
    rows = [poses.comparison(*row) for row in zip(*columns)]
    half = len(rows) // 2
    Image.fromarray(poses.sheet([a + b for a, b in zip(rows[:half], rows[half:])])).save(path)


class Still(nn.Module):
    """In place of a flow generator: moves nothing."""

    def maps(self, pose):
        """None are needed."""
        return pose

    def correspondence(self, source, target_maps, source_maps):
        """As FlowGenerator's, with flows of zero."""
        B, _, H, W = source.shape
        flows = tuple(source.new_zeros(B, 2, H // scale, W // scale) for scale in (8, 4, 2, 1))
        return None, None, models.Correspondence(None, flows, ())


@torch.inference_mode()
def end_point_error(generator: nn.Module, prepared: pairs.Prepared, limit: int) -> float:
    """The mean end-point error of known deformations of test sources, in pixels on the body."""
    device = next(generator.parameters(), torch.zeros(1)).device
    errors = []
    for start in range(0, min(limit, len(prepared.pairs_test)), pairs.CHUNK):
        chosen = prepared.pairs_test[start : min(limit, start + pairs.CHUNK)]
        batch = pairs.gather(prepared, chosen)
        samples = torch.arange(start, start + len(chosen))
        batch |= augment.draw(0, 0, samples, (prepared.height, prepared.width))
        batch = {name: value.to(device) for name, value in batch.items()}
        batch["source"] = pairs.normalise(batch["source"])
        error = losses.deformation_error(generator, losses.complete(batch, 0))
        errors.append((len(chosen), error.item()))
    return sum(count * error for count, error in errors) / sum(count for count, _ in errors)


def price_of_no_pose(generator: nn.Module, prepared: pairs.Prepared, limit: int) -> list[float]:
    """ssim_dscf of the test pairs with and without the source pose."""
    means = metrics.Means()
    for start in range(0, min(limit, len(prepared.pairs_test)), pairs.CHUNK):
        batch = pairs.gather(prepared, prepared.pairs_test[start : min(limit, start + pairs.CHUNK)])
        given = [batch[name] for name in GIVEN]
        made = {"told": checkpoints.generate(generator, *given)}
        made["untold"] = checkpoints.generate(generator, *given[:2])
        target, names = batch["target"], ["ssim_dscf"]
        made = {n: metrics.scores(one, target, names=names) for n, one in made.items()}
        means.add({n: found["ssim_dscf"] for n, found in made.items()})
    return list(means.values().values())


@click.command()
@click.option("--data", default="market1501", show_default=True, metavar="NAME")
@click.option("--root", default="data", show_default=True, metavar="DIR")
@click.option("--runs", default="runs", show_default=True, metavar="DIR")
@click.option("--samples", default=50_000, show_default=True, metavar="PAIRS", help="Seen by each.")
@click.option("--limit", default=2000, show_default=True, metavar="PAIRS", help="Test pairs.")
@click.option("--batch-size", default=32, show_default=True, metavar="PAIRS")
@click.option("--learning-rate", default=1e-3, show_default=True)
@click.option("--channels", default=64, show_default=True)
@click.option("--device", default="auto", show_default=True)
@click.option("--model", "chosen", multiple=True, type=click.Choice(recipes.MODELS))
def main(
    data, root, runs, samples, limit, batch_size, learning_rate, channels, device, chosen
) -> None:
    rows, generators = [], {}
    for model in chosen or recipes.MODELS:
        run = Path(runs, f"compare-{model}")
        checkpoint = run / "latest.pt"
        base = ["--data", data, "--root", root]
        steps = ["--run", run, "--steps", -(-samples // batch_size)]
        if checkpoint.exists():
            command("train", *base, *steps, "--resume")
        else:
            command(
                *("train", *base, *steps, "--model", model, "--batch-size", batch_size),
                *("--learning-rate", learning_rate, "--channels", channels, "--augment", "none"),
            )
        scores = run / "scores.json"
        command(
            *(
                "score",
                *base,
                "--device",
                device,
                "--checkpoint",
                checkpoint,
                "--limit",
                limit,
                "--json",
                scores,
            ),
            *("--scores", "pixels"),
        )
        content = json.loads(scores.read_text())
        generator = checkpoints.load_generator(checkpoint, checkpoints.pick_device(device))
        generators[model] = generator
        prepared = pairs.load(data, root)
        parameters = sum(p.numel() for p in generator.parameters()) / 1e6
        saved = checkpoints.read_checkpoint(checkpoint)
        together = saved["config"]["train"]["batch_size"]
        cells = [model, f"{saved['state']['step'] * together:,}"]
        cells += [f"{hours(run / 'log.jsonl', together):.1f}", f"{parameters:.1f}"]
        cells.append(f"{speed(generator, pairs.gather(prepared, prepared.pairs_test[:32])):.1f}")
        for name in ("ssim_dscf", "mask_ssim", "l1", "detail"):
            low, high = content["intervals"][name]
            cells.append(f"{content['scores'][name]:.4f} ± {(high - low) / 2:.4f}")
        rows.append(cells)
    headings = ["model", "samples", "hours", "M parameters", "images/s"]
    headings += ["ssim_dscf", "mask_ssim", "l1", "detail"]
    for cells in (headings, ["---"] * len(headings), *rows):
        print("| " + " | ".join(cells) + " |")
    print(f"\nN = {limit:,} test pairs of {data}, {torch.get_num_threads()} threads or CUDA")
    write_sheet(Path(runs, "compare.png"), generators, prepared)
    if "flow" in generators:
        error, still = (end_point_error(g, prepared, limit) for g in (generators["flow"], Still()))
        print(f"known deformations: {error:.2f} px off, {still:.2f} px where nothing moves")
        told, untold = price_of_no_pose(generators["flow"], prepared, limit)
        print(f"ssim_dscf with the source pose {told:.4f}, without {untold:.4f}")


if __name__ == "__main__":
    main()
