"""Training: state, processes, the loop, log and sample sheets."""

import contextlib
import json
import logging
import math
import os
import shutil
import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist
from click import ClickException
from PIL import Image
from torch import Tensor, nn
from torch.nn.utils import parametrize

from posegan import augment, features, losses, metrics, models, pairs, poses
from posegan.checkpoints import (
    GIVEN,
    build_generator,
    generate,
    pick_device,
    processes,
    read_checkpoint,
    to_pictures,
    write_checkpoint,
)
from posegan.files import BadInput, replaced
from posegan.recipes import TrainConfig
from posegan.terminal import answering

try:
    import fcntl
except ImportError:  # Windows, where folders can't be opened, so there is no lock
    fcntl = None

log = logging.getLogger("posegan")

WRITTEN = ("latest.pt", "previous.pt", "best.pt", "generator.pt", "log.jsonl", "curves.png")

ADAM_BETAS = (0.5, 0.999)  # the first author's
DECAY_EPOCHS = 20  # RPT-GAN divides the learning rate by 10 each time this many epochs pass
WARM_UP = 500  # steps of learning rate warm-up otherwise, at most a tenth of the run
ADVERSARY_FROM = 0.2  # share of a run after which a discriminator on frozen features joins
AVERAGE_DECAY = 0.999  # of the moving average of the generator's weights
LOG_EVERY_STEPS = 10
SHEET_PAIRS = 8
HELD_OUT = 0.02  # share of the training people to validate on
VALIDATED = 256  # of their pairs
VALIDATION_SCORES = ("ssim_dscf", "mask_ssim", "l1", "detail")


@dataclass
class State:
    """Everything that changes during a run, and the frozen features that the losses need."""

    generator: nn.Module
    average: nn.Module  # exponential moving average of the generator: for samples and generation
    discriminator: nn.Module
    generator_optimizer: torch.optim.Optimizer
    discriminator_optimizer: torch.optim.Optimizer
    features: nn.Module | None = None  # frozen, so not saved in checkpoints
    step: int = 0
    best: float = -math.inf  # validation score

    def parts(self) -> dict:
        """The parts saved in a checkpoint, by name."""
        others = ("features", "step", "best")
        return {name: part for name, part in vars(self).items() if name not in others}


# ------------------------------------------------------------------------------ devices, processes


def autocast(device: torch.device, precision: str) -> torch.autocast:
    """Mixed precision as a switch: "auto" is bfloat16 if the device supports it natively."""
    if precision == "auto":
        if device.type == "cuda":
            fast = torch.cuda.is_bf16_supported(including_emulation=False)
        else:
            fast = torch.cpu._is_avx512_bf16_supported()
        precision = "bfloat16" if fast else "float32"
    kind = "cpu" if device.type == "meta" else device.type
    return torch.autocast(kind, torch.bfloat16, enabled=precision == "bfloat16")


def average_gradients(network: nn.Module) -> None:
    """Replace gradients by their mean over all processes."""
    if not dist.is_initialized():
        return
    gradients = [p.grad for p in network.parameters() if p.grad is not None]
    flat = mean_of_processes(torch.cat([gradient.flatten() for gradient in gradients]))
    means = [m.view_as(g) for g, m in zip(gradients, flat.split([g.numel() for g in gradients]))]
    torch._foreach_copy_(gradients, means)


def mean_of_processes(values: Tensor) -> Tensor:
    """The mean of values over all processes, the same in each."""
    if dist.is_initialized():
        dist.all_reduce(values)
        values = values / dist.get_world_size()
    return values


def any_process(flag: bool, device: torch.device) -> bool:
    """Whether the flag is set in any process."""
    if not dist.is_initialized():
        return flag
    return mean_of_processes(torch.tensor(float(flag), device=device)).item() > 0


@contextlib.contextmanager
def interruptible() -> Iterator[list[int]]:
    """Turn Ctrl-C, SIGTERM and SIGHUP into a flag, so that a run stops between steps; yields it.

    A second signal stops at once, by the default handler; not with several processes, however, as
    torchrun sends a SIGTERM after every Ctrl-C.
    """
    flag = []

    def stop(number: int, before: dict) -> None:
        if not flag:
            log.warning("stopping after this step and saving the run")
        flag.append(number)
        for one in before if "RANK" not in os.environ else ():
            signal.signal(one, before[one])

    with answering(stop):
        yield flag


# ----------------------------------------------------------------------------- state, checkpoints


def describe(config: TrainConfig, prepared: pairs.Prepared) -> dict:
    """What a checkpoint must record about its networks to rebuild them."""
    options = {"channels": config.channels}
    if config.model == "residual":
        network = "lite0" if config.features == "lite0" else "resnet50"
        options |= {"descriptor": config.descriptor, "network": network}
        options["frozen"] = config.features != "none"
    return {
        "model": config.model,
        "height": prepared.height,
        "width": prepared.width,
        "identities": prepared.identities,
        "options": options,
    }


def build(config: TrainConfig, shape: dict, device: torch.device) -> State:
    """A fresh state: networks initialised from the seed, and the papers' optimisers.

    A frozen descriptor does not have its weights yet.
    """
    torch.manual_seed(config.seed)
    judge = None
    if config.features != "none" and not config.to_the_letter:
        judge = features.load_features(config.features)
    generator, average = build_generator(shape), build_generator(shape)
    if judge is not None:
        discriminator = models.ProjectedDiscriminator(judge.widths, config.channels)
    elif config.to_the_letter:
        sizes = shape["height"], shape["width"], shape["identities"]
        discriminator = models.Discriminator(*sizes, config.channels)
    else:
        discriminator = models.PatchDiscriminator(config.channels)
    for network in (generator, average, discriminator, judge):
        if network is not None:
            network.to(device, memory_format=torch.channels_last)
    average.load_state_dict(generator.state_dict())
    average.eval().requires_grad_(False)

    def adam(network: nn.Module) -> torch.optim.Adam:
        trained = [p for p in network.parameters() if p.requires_grad]
        fused = device.type in ("cpu", "cuda")
        return torch.optim.Adam(trained, config.learning_rate, ADAM_BETAS, fused=fused)

    optimizers = adam(generator), adam(discriminator)
    return State(generator, average, discriminator, *optimizers, judge)


@torch.no_grad()
def describe_sources(
    config: TrainConfig, state: State, batches: pairs.Batches, device: torch.device
) -> Tensor | None:
    """A frozen descriptor's vectors (N, D) of all sources, by picture; None if they may change.

    They do if sources are augmented. Maps are not cached: they would fill the memory.
    """
    vector = config.model == "residual" and config.descriptor == "vector"
    if not vector or config.features == "none" or config.augment:
        return None
    table = torch.zeros(len(batches.prepared.images), state.generator.descriptor.widths[-1])
    sources = np.unique(batches.pairs[:, 0])
    for start in range(0, len(sources), config.batch_size):
        # Always whole batches: another batch size would change the order of sums.
        part = np.resize(sources[start:], config.batch_size)
        pictures = torch.from_numpy(np.stack([batches.prepared.images[i] for i in part]))
        source = pairs.normalise(pictures.to(device).permute(0, 3, 1, 2))  # (B, 3, H, W)
        with autocast(device, config.precision):
            found = state.generator.descriptor(source)
        table[part] = found.float().cpu()
    return table


def save(run: Path, config: TrainConfig, about: dict, state: State) -> None:
    """Write RUN/latest.pt; the one before becomes previous.pt."""
    content = {name: part.state_dict() for name, part in state.parts().items()}
    content |= {"step": state.step, "best": state.best}
    write_checkpoint(run / "latest.pt", config, about, content, run / "previous.pt")


def save_generator(path: Path, config: TrainConfig, about: dict, state: State) -> None:
    """Write the averaged generator alone, in half precision: a small checkpoint to share.

    `generate` and `score` take it; training can't resume from it.
    """
    halves = state.average.state_dict()  # changed in place, to keep its metadata
    for name, value in halves.items():
        if value.is_floating_point():
            halves[name] = value.half()
    write_checkpoint(path, config, about, {"average": halves, "step": state.step})


def read_run(run: Path) -> dict:
    """The newest intact checkpoint of a run: if latest.pt is damaged, the one before.

    Raises ClickException if there is none.
    """
    latest, previous = run / "latest.pt", run / "previous.pt"
    try:
        return read_checkpoint(latest)
    except ClickException as error:
        if not previous.exists():
            raise
        content = read_checkpoint(previous)
        step = content["state"]["step"]
        log.warning("%s; continuing from %s, step %d", error.message, previous, step)
        return content


def begin(config: TrainConfig, state: State) -> None:
    """Load a fresh state's frozen descriptor, and the generator that it starts from.

    Raises ClickException if the weights don't fit.
    """
    if config.model == "residual" and config.features != "none":
        features.load_weights(state.generator.descriptor.features, config.features)
    try:
        if config.start:
            trained = read_checkpoint(Path(config.start))["state"]["average"]
            state.generator.load_state_dict(trained)
    except (RuntimeError, TypeError, AttributeError):
        problem = "doesn't match --features or the size of the data"
        raise BadInput(config.start, problem, "use those it was trained with") from None
    state.average.load_state_dict(state.generator.state_dict())


def restore(state: State, content: dict, run: Path) -> None:
    """Load a checkpoint's values into a freshly built state.

    Raises ClickException if they don't fit.
    """
    try:
        for name, part in state.parts().items():
            values = content["state"][name]
            if isinstance(part, torch.optim.Optimizer):  # its settings come from the code
                values = values | {"param_groups": part.state_dict()["param_groups"]}
            part.load_state_dict(values)
        for optimizer in (state.generator_optimizer, state.discriminator_optimizer):
            for parameter, moments in optimizer.state.items():
                for name in ("exp_avg", "exp_avg_sq"):  # the fused step does not check layouts
                    if moments[name].shape != parameter.shape:
                        raise ValueError(name)
                    moments[name] = torch.empty_like(parameter).copy_(moments[name])
                least = torch.stack([moments["step"].view(()), moments["exp_avg_sq"].min()])
                if not (least >= 0).all():  # or NaN
                    raise ValueError("step")
        state.step, state.best = content["state"]["step"], float(content["state"]["best"])
    except (KeyError, TypeError, ValueError, RuntimeError, AttributeError):
        problem = "the checkpoint doesn't match its settings"
        raise BadInput(run, problem, "start another run with --run") from None


# ------------------------------------------------------------------------------ the loop


def learning_rate(config: TrainConfig, step: int, pairs_trained: int) -> float:
    """The learning rate of a step; an epoch has `pairs_trained` pairs.

    To the letter of RPT-GAN: divided by 10 every 20 epochs. Otherwise, ours: linear warm-up over
    WARM_UP steps and cosine decay to zero, which sharpens more than any other schedule tried.
    """
    if config.to_the_letter:
        epoch = step * config.batch_size // pairs_trained
        return config.learning_rate * 0.1 ** (epoch // DECAY_EPOCHS)
    rise = min(1, (step + 1) / (warm_up(config) + 1))
    return config.learning_rate * rise * (1 + math.cos(math.pi * step / config.steps)) / 2


def warm_up(config: TrainConfig) -> int:
    """The number of warm-up steps."""
    return min(WARM_UP, config.steps // 10)


def train(
    config: TrainConfig, prepared: pairs.Prepared, resume: bool, report: Callable[[dict], None]
) -> tuple[Path, bool]:
    """Train a model up to `config.steps`; returns its checkpoint and whether it reached the end.

    `report` is called at every step, and every LOG_EVERY_STEPS with images/s and the mean losses
    since the last report. Raises ClickException for user errors and when a loss is not finite.
    """
    # Settings and devices.
    device = pick_device(config.device)
    torch.backends.cudnn.benchmark = True
    run = Path(config.run)
    with processes(device) as (rank, world), interruptible() as stopped, watched(config, run, rank):
        check_batch(config, world)
        # Data: what a step sees and draws depends only on (seed, step, sample).
        chosen, held = pairs.hold_out(prepared, HELD_OUT, config.seed, VALIDATED)
        batches = pairs.Batches(prepared, chosen, config.batch_size, config.seed, device)
        about = {"shape": describe(config, prepared), "data": pairs.fingerprint(prepared)}

        # Model.
        state = build(config, about["shape"], device)
        if resume:
            content = read_run(run)
            if {name: content["config"].get(name) for name in about} != about:
                remedy = "prepare it as it was, or start another run with --run"
                raise BadInput(prepared.path, f"changed since {run} began", remedy)
            restore(state, content, run)
        elif (run / "latest.pt").exists():  # another process has trained here in the meantime
            raise BadInput(run, "a run already exists", "choose another folder with --run")
        else:
            begin(config, state)
        batches.described = describe_sources(config, state, batches, device)
        if rank == 0:
            open_log(run, state.step)
        if config.compile:
            compile_networks(state)

        # Loop.
        first = state.step
        totals, since, began = {}, first, time.perf_counter()  # since the last log line
        for batch in batches.stream(first, config.steps, rank, world):
            rate = learning_rate(config, state.step, len(chosen))
            set_rates(config, state, rate)
            terms = train_step(config, state, batch)
            totals = {name: totals.get(name, 0) + loss for name, loss in terms.items()}
            state.step += 1
            last = state.step == config.steps
            saving = last or state.step % config.save_every == 0
            # Processes must stop at the same step, so they ask each other, but not at every step.
            asking = world == 1 or state.step % LOG_EVERY_STEPS == 0
            stopping = asking and any_process(bool(stopped), device)
            if not (saving or stopping or state.step % LOG_EVERY_STEPS == 0):
                if rank == 0:
                    report({"step": state.step})
                continue

            # Read the losses and log them, before anything is saved.
            figures = {"step": state.step, "learning_rate": rate}
            values = mean_of_processes(torch.stack(list(totals.values())) / (state.step - since))
            figures |= {name: round(value, 5) for name, value in zip(totals, values.tolist())}
            check_finite(figures, config)
            seconds = time.perf_counter() - began
            done = (state.step - since) * config.batch_size
            figures["images_per_second"] = round(done / seconds, 2)
            totals, since = {}, state.step
            if rank == 0:
                if saving and len(held):
                    figures["validation"] = validate(state, prepared, held)
                    keep_best(run, config, about, state, figures["validation"])
                with writing(run), open(run / "log.jsonl", "a") as file:
                    file.write(json.dumps(figures) + "\n")
                if saving or stopping:
                    save(run, config, about, state)
                    write_samples(run, state, prepared)
                    write_curves(run, config)
                report(figures)
            began = time.perf_counter()
            if stopping:
                break

        if rank == 0 and state.step > first:
            save_generator(run / "generator.pt", config, about, state)
    return run / "latest.pt", state.step >= config.steps


def check_batch(config: TrainConfig, world: int) -> None:
    """Raise ClickException if the processes can't share the batch evenly."""
    if config.batch_size % world:
        problem = f"{world} processes can't share it evenly"
        raise BadInput(f"--batch-size {config.batch_size}", problem, f"give a multiple of {world}")


@contextlib.contextmanager
def watched(config: TrainConfig, run: Path, rank: int) -> Iterator[None]:
    """Lock a run's folder, and turn external failures into one-line errors.

    Raises ClickException if another process trains there, or if memory runs out.
    """
    with writing(run):
        run.mkdir(parents=True, exist_ok=True)
        folder = os.open(run if fcntl else os.devnull, os.O_RDONLY)
    try:
        if rank == 0 and fcntl:
            fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)  # until it is closed
            for lost in run.glob(".*.pt.partial-*"):  # left by a killed process
                shutil.rmtree(lost, ignore_errors=True)
    except BlockingIOError:
        os.close(folder)
        remedy = "wait for it, or choose another folder with --run"
        raise BadInput(run, "another process is training there", remedy) from None
    except OSError as error:  # as of some network disks
        log.warning(
            "%s: can't be locked (%s); train there only once at a time", run, error.strerror
        )
    try:
        yield
    except RuntimeError as error:
        # The CPU's allocator raises a plain RuntimeError.
        if not (isinstance(error, torch.OutOfMemoryError) or "allocate memory" in str(error)):
            raise
        option, less = f"--batch-size {config.batch_size}", max(1, config.batch_size // 2)
        remedy = f"continue with --resume and --batch-size {less}, or start again with it"
        raise BadInput(option, "too large for memory", remedy) from None
    finally:
        os.close(folder)
        with contextlib.suppress(OSError):
            run.rmdir()  # if it is still empty


def compile_networks(state: State) -> None:
    """Compile the networks that a step runs, if possible."""
    device = next(state.generator.parameters()).device
    if device.type == "cpu" and not shutil.which(os.environ.get("CXX", "g++")):
        log.warning("--compile: off, since no C++ compiler is found; install g++")
        return
    mode = "reduce-overhead" if device.type == "cuda" else "default"  # CUDA graphs on GPUs
    for network in (state.generator, state.discriminator, state.features):
        if isinstance(network, models.FlowGenerator):
            network.synthesise_from = torch.compile(network.synthesise_from, mode=mode)
        elif network is not None:
            network.compile(mode=mode)


def train_step(config: TrainConfig, state: State, batch: dict) -> dict[str, Tensor]:
    """One step of both networks on a batch from `Batches`; returns the losses by name.

    Nothing is read back from an accelerator.
    """
    mixed = autocast(batch["source"].device, config.precision)
    batch = losses.complete(augment.augment(batch, config.augment), state.step)
    objective = losses.OBJECTIVES[config.model]
    early = state.step < ADVERSARY_FROM * config.steps and not config.start
    asked = None if early and state.features is not None else state.discriminator
    networks = losses.Networks(state.generator, asked, state.features)
    state.generator.train()
    state.discriminator.train()
    # Cached, so that spectral norm does its power iteration once for all pictures judged.
    with mixed, parametrize.cached():
        image, made = objective.synthesise(state.generator, batch)
        of_discriminator, terms = objective.judge(networks, batch, image, made)
    every = torch.stack(list(terms.values()))
    weights = tuple(config.loss_weights.get(name, 0) for name in terms)  # older runs may lack some
    total = every @ augment.constant(weights, every.device)
    if image.device.type == "cpu":  # reading is free, and a backward pass on NaN may crash
        values = dict(zip(terms, every.tolist())) | {"total": total.item()}
        if of_discriminator is not None:
            values["discriminator"] = of_discriminator.item()
        check_finite({"step": state.step + 1} | values, config)
    # Both use the same discriminator, so that each picture passes through it once.
    if of_discriminator is not None:
        descend(state.discriminator, state.discriminator_optimizer, of_discriminator, keep=True)
        terms["discriminator"] = of_discriminator
    descend(state.generator, state.generator_optimizer, total)
    if of_discriminator is not None:
        state.discriminator_optimizer.step()
    state.generator_optimizer.step()
    update_average(state)
    return {name: loss.detach() for name, loss in terms.items()}


def descend(
    network: nn.Module, optimizer: torch.optim.Optimizer, loss: Tensor, keep: bool = False
) -> None:
    """Compute the gradients of one network only; `keep` the graph for another loss."""
    optimizer.zero_grad(set_to_none=True)
    trained = [p for p in network.parameters() if p.requires_grad]
    loss.backward(inputs=trained, retain_graph=keep)
    average_gradients(network)


@torch.no_grad()
def update_average(state: State) -> None:
    """Move the averaged generator towards the trained one, faster in the first steps."""
    weight = 1 - min(AVERAGE_DECAY, (1 + state.step) / (10 + state.step))
    trained, averaged = list(state.generator.parameters()), list(state.average.parameters())
    torch._foreach_lerp_(averaged, trained, weight)
    buffers = list(state.average.buffers())
    if buffers:
        torch._foreach_copy_(buffers, list(state.generator.buffers()))


def set_rates(config: TrainConfig, state: State, rate: float) -> None:
    """Set the learning rates of a step.

    A pretrained generator waits until its new discriminator has warmed up: a fresh one would spoil
    it.
    """
    waits = config.start and state.step < warm_up(config)
    factor = losses.OBJECTIVES[config.model].discriminator_rate
    state.generator_optimizer.param_groups[0]["lr"] = 0 if waits else rate
    state.discriminator_optimizer.param_groups[0]["lr"] = factor * rate


def check_finite(figures: dict, config: TrainConfig) -> None:
    """Raise ClickException if a loss is not finite."""
    bad = [name for name, value in figures.items() if not math.isfinite(value)]
    if bad:
        remedy = "--resume from the last checkpoint with a lower --learning-rate than "
        remedy += f"{config.learning_rate:g}"
        raise BadInput(f"step {figures['step']}", f"the {bad[0]} loss is not finite", remedy)


def validate(state: State, prepared: pairs.Prepared, held: np.ndarray) -> dict[str, float]:
    """Mean scores of the averaged generator on pairs (P, 2) of people held out of training."""
    means = metrics.Means()
    for start in range(0, len(held), pairs.CHUNK):
        batch = pairs.gather(prepared, held[start : start + pairs.CHUNK])
        made = generate(state.average, *(batch[name] for name in GIVEN)).cpu()
        means.add(metrics.scores(made, batch["target"], batch["target_pose"], VALIDATION_SCORES))
    return {name: round(mean, 5) for name, mean in means.values().items()}


def keep_best(
    run: Path, config: TrainConfig, about: dict, state: State, scores: dict[str, float]
) -> None:
    """Write best.pt, a small checkpoint, if validation is the best so far.

    SSIM rewards blur, so it is multiplied by `detail`, up to 1.
    """
    score = scores["ssim_dscf"] * min(1, scores.get("detail", 0))  # missing if targets are flat
    if score > state.best:
        state.best = score
        save_generator(run / "best.pt", config, about, state)


@contextlib.contextmanager
def writing(run: Path) -> Iterator[None]:
    """Turn errors in writing a run into one line."""
    try:
        yield
    except OSError as error:
        remedy = "free some space, or choose another folder with --run"
        raise BadInput(run, f"can't be written ({error.strerror or error})", remedy) from None


def read_log(run: Path) -> list[dict]:
    """The lines of a run's log, without foreign ones and those cut off by a crash."""
    path, lines = run / "log.jsonl", []
    for line in path.read_text(errors="replace").splitlines() if path.is_file() else ():
        with contextlib.suppress(ValueError, RecursionError):
            figures = json.loads(line)
            ours = isinstance(figures, dict) and isinstance(figures.get("step"), int)
            if ours and isinstance(figures.get("validation", {}), dict):
                lines.append(figures)
    return lines


def open_log(run: Path, step: int) -> None:
    """Truncate a run's log after `step`, from where a resumed run continues."""
    with writing(run):
        for name in WRITTEN:
            if not (run / name).is_file():  # writing to a pipe in its place might block
                (run / name).unlink(missing_ok=True)
    kept = [json.dumps(one) + "\n" for one in read_log(run) if one["step"] <= step]
    with replaced(run / "log.jsonl", "--run") as beside:
        beside.write_text("".join(kept))


# ------------------------------------------------------------------------------ sheets


def write_samples(run: Path, state: State, prepared: pairs.Prepared) -> None:
    """Write `samples/STEP.png`: source, target pose, target and generated for a few test pairs, or
    training pairs if there are no test pairs.
    """
    known = prepared.pairs_test if len(prepared.pairs_test) else prepared.pairs_train
    chosen = np.linspace(0, len(known) - 1, SHEET_PAIRS).astype(int)
    batch = pairs.gather(prepared, known[np.unique(chosen)])
    made = generate(state.average, *(batch[name] for name in GIVEN))
    made, pose = to_pictures(made), batch["target_pose"].numpy()
    source, target = to_pictures(batch["source"]), to_pictures(batch["target"])
    quads = [poses.comparison(*four) for four in zip(source, pose, target, made)]
    rows = [list(chain(*quads[i : i + 2])) for i in range(0, len(quads), 2)]
    zoom = max(1, 128 // prepared.height)
    with writing(run):
        (run / "samples").mkdir(exist_ok=True)
        Image.fromarray(poses.sheet(rows, zoom)).save(run / "samples" / f"{state.step:06d}.png")


def write_curves(run: Path, config: TrainConfig) -> None:
    """Write `curves.png`: losses and validation scores against samples seen, from the log."""
    panels: list[dict[str, list]] = [{}, {}]
    for line in read_log(run):
        samples = line["step"] * config.batch_size
        validation = line.get("validation") or {}
        for panel, figures in zip(panels, (line, validation)):
            for name, value in figures.items():
                if isinstance(value, float) and name not in ("learning_rate", "images_per_second"):
                    panel.setdefault(name, []).append((samples, value))
    poses.write_pictures(poses.draw_curves(panels)[None], [run / "curves.png"], True, "--run")
