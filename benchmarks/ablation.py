"""Does augmentation help? One model with all six, with none, and with each left out in turn.

    posegan prepare --data market1501 --source ZIP --poses CSVs
    python benchmarks/ablation.py --steps 400 --limit 500
    python benchmarks/ablation.py --steps 400 --limit 500 --official

All runs have the same steps, seed and order of pairs, into RUNS/ablation-NAME/. A tenth of the
training people is kept out of training, and their pairs are scored: ssim_dscf on clean sources and
the mean over the five severities of each corruption, as `posegan score --corruptions` makes them.
`--official` scores the official test pairs instead, for the final figure only. Prints Markdown:
means with the half of their 95 % interval, and then, pair by pair, what is lost to the run with all
six. The intervals draw people, as one's pairs are alike; they don't say how much another seed of
the training would change. A run that is there is continued, and what is scored is kept.
"""

import dataclasses
from pathlib import Path

import click
import numpy as np
import race  # noqa: F401  this checkout's modules
import torch
from torch import Tensor

from posegan import augment, checkpoints, metrics, pairs, recipes, terminal, training

HELD_OUT = 0.1  # of the training people
COLUMNS = ("clean", *augment.CORRUPTIONS)


def variants() -> dict[str, tuple[str, ...]]:
    """The augmentations of each run, by its name."""
    all_six = recipes.AUGMENTATIONS
    without = {f"without {one}": tuple(n for n in all_six if n != one) for one in all_six}
    return {"none": (), "all": all_six, **without}


def trained(config: recipes.TrainConfig, prepared: pairs.Prepared) -> Path:
    """Train a run to its end, or what is left of it; gives its checkpoint."""
    checkpoint = Path(config.run, "latest.pt")
    started = checkpoint.exists()
    if started:
        check(checkpoints.read_checkpoint(checkpoint)["config"]["train"], config)
    with terminal.progress_line(config.run, "steps") as update:

        def report(figures: dict) -> None:
            speed = figures.get("images_per_second")
            note = {"note": f"{speed:.1f} images/s"} if speed else {}
            update(completed=figures["step"], total=config.steps, **note)

        checkpoint, ended = training.train(config, prepared, started, report)
    if not ended:
        raise click.Abort
    return checkpoint


def check(found: dict, config: recipes.TrainConfig) -> None:
    """Raise where a run that is there has other settings."""
    if found != dataclasses.asdict(config):
        raise click.ClickException(f"{config.run}: has other settings; choose another --runs")


def similarities(checkpoint: Path, prepared: pairs.Prepared, limit: int, device: str) -> Tensor:
    """ssim_dscf of the first `limit` test pairs, (P, columns), corruptions by their mean."""
    generator = checkpoints.load_generator(checkpoint, checkpoints.pick_device(device))

    def run(corruption: tuple[str, int] | None) -> Tensor:
        batches = checkpoints.scored_batches(prepared, generator, limit, corruption)
        scores = (metrics.scores(b["generated"], b["target"], names=["ssim_dscf"]) for b in batches)
        return torch.cat([score["ssim_dscf"].cpu() for score in scores])

    severities = range(1, augment.SEVERITIES + 1)
    spoilt = [
        torch.stack([run((kind, severity)) for severity in severities]).mean(0)
        for kind in augment.CORRUPTIONS
    ]
    return torch.stack([run(None), *spoilt], dim=1)


def summary(values: Tensor, people: np.ndarray, sign: str = "") -> list[str]:
    """A table's cells: means of (P, columns) with the half of their 95 % interval.

    `people` (P,) says whose pairs they are: the bootstrap draws people with all their pairs.
    """
    _, groups, counts = np.unique(people, return_inverse=True, return_counts=True)
    groups, counts = torch.from_numpy(groups), torch.from_numpy(counts)
    sums = torch.zeros(len(counts), len(COLUMNS), dtype=torch.float64)
    sums.index_add_(0, groups, values)
    means = metrics.Means()
    weights = dict.fromkeys(COLUMNS, counts)
    means.add(dict(zip(COLUMNS, (sums / counts[:, None]).T)), weights)
    found, intervals = means.values(), means.intervals()
    halves = {name: (high - low) / 2 for name, (low, high) in intervals.items()}
    return [f"{found[name]:{sign}.4f} ± {halves[name]:.4f}" for name in COLUMNS]


def show(rows: dict[str, list[str]]) -> None:
    """Print a table as Markdown."""
    print(f"\n| augmentation | {' | '.join(COLUMNS)} |")
    print("|" + " --- |" * (1 + len(COLUMNS)))
    for name, cells in rows.items():
        print(f"| {name} | {' | '.join(cells)} |", flush=True)


@click.command()
@click.option("--data", default="market1501", show_default=True, metavar="NAME")
@click.option("--root", default="data", show_default=True, metavar="DIR")
@click.option("--runs", default="runs", show_default=True, metavar="DIR")
@click.option("--model", default="flow", show_default=True, type=click.Choice(recipes.MODELS))
@click.option("--steps", default=400, show_default=True)
@click.option("--batch-size", default=32, show_default=True, metavar="PAIRS")
@click.option("--learning-rate", default=1e-3, show_default=True)
@click.option("--channels", default=32, show_default=True)
@click.option("--limit", default=500, show_default=True, metavar="PAIRS", help="To score.")
@click.option("--official", is_flag=True, help="Score the official test pairs.")
@click.option("--device", default="auto", show_default=True)
@click.option("--seed", default=0, show_default=True)
def main(data, root, runs, model, limit, official, device, seed, **settings) -> None:
    prepared = pairs.load(data, root)
    kept, held = pairs.hold_out(prepared, HELD_OUT, seed)
    held = np.random.default_rng(seed).permutation(held)  # so that the first are of all people
    inner = dataclasses.replace(prepared, pairs_train=kept, pairs_test=held)
    scored = prepared if official else inner
    found = {}
    for name, augmentations in variants().items():
        run = Path(runs, f"ablation-{name.replace(' ', '-')}")
        given = settings | {"data": data, "root": root, "model": model, "run": str(run)}
        given |= {"features": "none", "augment": augmentations, "save_every": 100, "seed": seed}
        given |= {"compile": False, "device": device}
        config = recipes.TrainConfig(**recipes.complete(given))
        file = run / f"{'official' if official else 'held-out'}-{limit}.pt"
        if not file.exists():
            values = similarities(trained(config, inner), scored, limit, device)
            torch.save({"config": dataclasses.asdict(config), "values": values}, file)
        kept_values = torch.load(file)
        check(kept_values["config"], config)
        found[name] = kept_values["values"]
    people = prepared.identity[scored.pairs_test[:limit, 0]]
    which = "official test pairs" if official else "pairs"
    print(f"{model}, {settings}, seed {seed}; ssim_dscf of {len(people):,} {which} of {data},")
    print(f"{len(set(people)):,} people, none of them trained on")
    show({name: summary(values, people) for name, values in found.items()})
    print("\nDifferences to the run with all six:")
    others = {name: values - found["all"] for name, values in found.items() if name != "all"}
    show({name: summary(values, people, "+") for name, values in others.items()})


if __name__ == "__main__":
    main()
