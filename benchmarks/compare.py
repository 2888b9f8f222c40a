"""The three models on equal terms: trained on as many samples, scored on the same test pairs.

    posegan prepare --data market1501 --source ZIP --poses CSVs
    python benchmarks/compare.py --samples 50000 --limit 2000

Runs `posegan train` and `posegan score` for each model, into runs/compare-MODEL/, and prints the
table as Markdown. A run that is there is continued, so the script may be stopped and started again;
without ImageNet's weights `residual` trains its descriptor along. Hours are those of the log.
"""

import json
import subprocess
import sys
from pathlib import Path

import click
import torch

import posegan
import training


def command(*arguments: object) -> None:
    subprocess.run([sys.executable, posegan.__file__, *map(str, arguments)], check=True)


def hours(log: Path, batch_size: int) -> float:
    """Training hours by the log: of every line the steps since the last, at the speed it names."""
    seconds, last = 0.0, 0
    for line in map(json.loads, log.read_text().splitlines()):
        seconds += (line["step"] - last) * batch_size / line["images_per_second"]
        last = line["step"]
    return seconds / 3600


@click.command()
@click.option("--data", default="market1501", show_default=True, metavar="NAME")
@click.option("--root", default="data", show_default=True, metavar="DIR")
@click.option("--samples", default=50_000, show_default=True, metavar="PAIRS", help="Seen by each.")
@click.option("--limit", default=2000, show_default=True, metavar="PAIRS", help="Test pairs.")
@click.option("--batch-size", default=32, show_default=True, metavar="PAIRS")
@click.option("--learning-rate", default=1e-3, show_default=True)
@click.option("--channels", default=64, show_default=True)
@click.option("--device", default="auto", show_default=True)
@click.option("--model", "chosen", multiple=True, type=click.Choice(posegan.MODELS))
def main(data, root, samples, limit, batch_size, learning_rate, channels, device, chosen) -> None:
    rows = []
    for model in chosen or posegan.MODELS:
        run = Path("runs", f"compare-{model}")
        checkpoint = run / "latest.pt"
        base = ["--data", data, "--root", root, "--device", device]
        steps = ["--run", run, "--steps", -(-samples // batch_size)]
        if checkpoint.exists():
            command("train", *base, *steps, "--resume")
        else:
            command(
                *("train", *base, *steps, "--model", model, "--batch-size", batch_size),
                *("--learning-rate", learning_rate, "--channels", channels),
                *("--descriptor-weights", "none"),
            )
        scores = run / "scores.json"
        command("score", *base, "--checkpoint", checkpoint, "--limit", limit, "--json", scores)
        found = json.loads(scores.read_text())["scores"]
        generator = training.load_generator(checkpoint, torch.device("cpu"))
        parameters = sum(p.numel() for p in generator.parameters()) / 1e6
        steps = training.read_checkpoint(checkpoint)["state"]["step"]
        spent = hours(run / "log.jsonl", batch_size)
        cells = [model, f"{steps * batch_size:,}", f"{spent:.2f}", f"{parameters:.1f}"]
        cells.append(f"{steps * batch_size / spent / 3600:.1f}")
        cells += [f"{found[name]:.4f}" for name in ("ssim_dscf", "mask_ssim", "l1", "detail")]
        rows.append(cells)
    headings = ["model", "samples", "hours", "M parameters", "images/s"]
    headings += ["ssim_dscf", "mask_ssim", "l1", "detail"]
    for cells in (headings, ["---"] * len(headings), *rows):
        print("| " + " | ".join(cells) + " |")
    print(f"\nN = {limit:,} test pairs of {data}, {torch.get_num_threads()} threads or CUDA")


if __name__ == "__main__":
    main()
