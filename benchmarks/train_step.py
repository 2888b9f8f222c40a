"""Training steps of `flow` beside the generator of PATN's form, forward and backward.

    python benchmarks/train_step.py [--repeats 3]

Ours is the whole step as `posegan train` takes it: augmentation, both networks, all losses, both
optimisers and the moving average. Theirs is the generator alone, without losses, discriminators or
optimiser. Both in one run, in turns, on the CPU in float32; the best time of each counts. The peak
memory of a step of ours at batch 32 is measured in a process of its own.
"""

import subprocess
import sys
from pathlib import Path

import click
import torch
from inference import AttentionGenerator
from race import race

from posegan import augment, models, recipes, training

CASES = (  # height, width, batch size, images/s of PATN where it was first measured
    (128, 64, 8, 1.28),
    (256, 256, 2, 0.144),
)


def step_of_ours(height: int, width: int, count: int):
    """Calls that take one training step of `flow` on `count` random pairs, and its augmentation."""
    given = {"data": "none", "root": "", "run": "", "steps": 1, "batch_size": count, "seed": 0}
    given |= {"features": "none", "save_every": 1, "compile": False}
    given |= {"device": "cpu", "precision": "float32"}
    config = recipes.TrainConfig(**recipes.complete(given))
    shape = {"height": height, "width": width, "identities": 2, "options": {}, "model": "flow"}
    state = training.build(config, shape, torch.device("cpu"))
    images = torch.rand(2, count, 3, height, width).mul(2).sub(1)
    source, target = (x.contiguous(memory_format=torch.channels_last) for x in images)
    pose = torch.rand(count, 25, 3) * torch.tensor([width, height, 1])
    batch = {"source": source, "target": target, "source_pose": pose, "target_pose": pose.flip(0)}
    samples = torch.arange(count)

    def drawn():
        return batch | augment.draw(config.seed, 0, samples, (height, width))

    def augmented():
        return augment.augment(drawn(), config.augment)

    def step():
        training.train_step(config, state, drawn())

    return step, augmented


def step_of_theirs(height: int, width: int, count: int):
    """A call of forward and backward of PATN's form."""
    network = AttentionGenerator().to(memory_format=torch.channels_last)
    source = torch.rand(count, 3, height, width).contiguous(memory_format=torch.channels_last)
    heatmaps = torch.rand(count, 36, height, width).contiguous(memory_format=torch.channels_last)
    return lambda: network(source, heatmaps).mean().backward()


def peak(height: int, width: int, count: int) -> float:
    """The GB that a process needs for steps of ours."""
    code = f"import train_step; step, _ = train_step.step_of_ours({height}, {width}, {count}); "
    code += "step(); step(); import resource; "
    code += "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20)"
    here = Path(__file__).parent
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=here, capture_output=True, text=True, check=True
    )
    return float(done.stdout)


@click.command()
@click.option("--repeats", default=3, show_default=True, help="Timed steps of each.")
@click.option("--memory/--no-memory", default=True, help="Measure the peak memory as well.")
def main(repeats: int, memory: bool) -> None:
    parameters = sum(p.numel() for p in models.FlowGenerator(128, 64).parameters())
    print(f"{torch.get_num_threads()} threads, flow: {parameters / 1e6:.1f} M parameters")
    for height, width, count, published in CASES:
        step, augmented = step_of_ours(height, width, count)
        theirs = step_of_theirs(height, width, count)
        calls = {"flow, whole step": step, "augmentation": augmented, "PATN's form": theirs}
        best = race(calls, repeats)
        share = best.pop("augmentation") / best["flow, whole step"]
        print(f"{height}x{width} augmentation: {100 * share:.1f} % of a step")
        base = count / best["PATN's form"]
        for name, seconds in best.items():
            rate = count / seconds
            print(
                f"{height}x{width} {name:24} {rate:7.2f} images/s  {rate / base:5.1f} x here  "
                f"{rate / published:5.1f} x of {published}"
            )
        if memory:
            print(f"{height}x{width} flow, batch 32: {peak(height, width, 32):.1f} GB at most")


if __name__ == "__main__":
    main()
