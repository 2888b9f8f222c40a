import dataclasses
import json
import signal
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from click import ClickException
from conftest import average_in_one_process, config_for, fails, same, stop_at, values_of
from PIL import Image

from posegan import checkpoints, losses, metrics, models, pairs, recipes, scoring, training


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("model", models.GENERATORS)
def test_a_resumed_run_equals_an_unbroken_one_bit_for_bit(few_people, tmp_path, model, precision):
    whole = config_for(few_people, tmp_path / "whole", model=model, precision=precision)
    reports = []
    unbroken, ended = training.train(whole, few_people, False, reports.append)
    assert ended
    assert [figures["step"] for figures in reports] == [1, 2, 3, 4]
    halves = dataclasses.replace(whole, run=str(tmp_path / "halves"))
    training.train(halves, few_people, False, stop_at(2))
    resumed, _ = training.train(halves, few_people, True, lambda figures: None)
    assert same(values_of(unbroken), values_of(resumed))


def test_an_interrupted_run_stops_between_steps_and_can_be_resumed(few_people, tmp_path):
    config = config_for(few_people, tmp_path, steps=50)

    def interrupt(figures):
        if figures["step"] == 2:
            signal.raise_signal(signal.SIGINT)

    checkpoint, ended = training.train(config, few_people, False, interrupt)
    assert not ended
    assert values_of(checkpoint)["step"] == 3  # the one after the signal is still taken
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    steps = []
    five = dataclasses.replace(config, steps=5)
    training.train(five, few_people, True, lambda figures: steps.append(figures["step"]))
    assert steps == [4, 5]


def test_a_run_leaves_log_samples_and_checkpoint(few_people, tmp_path):
    config = config_for(few_people, tmp_path, save_every=3)
    training.train(config, few_people, False, lambda figures: None)
    figures = json.loads((tmp_path / "log.jsonl").read_text().splitlines()[-1])
    assert figures["step"] == 4
    assert {"reconstruction", "adversarial", "discriminator", "images_per_second"} <= set(figures)
    sheets = sorted(path.name for path in (tmp_path / "samples").iterdir())
    assert sheets == ["000003.png", "000004.png"]
    assert Image.open(tmp_path / "samples" / sheets[0]).size[1] > few_people.height
    assert {path.name for path in tmp_path.iterdir()} == {
        *("curves.png", "generator.pt", "latest.pt", "previous.pt", "log.jsonl", "samples"),
    }
    assert Image.open(tmp_path / "curves.png").size[0] > 600


def test_resuming_cuts_the_log_behind_the_checkpoint(tmp_path):
    lines = [json.dumps({"step": step}) for step in (10, 20, 30)]
    (tmp_path / "log.jsonl").write_text("\n".join(lines) + '\n{"step": 3')  # cut by a crash
    training.open_log(tmp_path, 20)
    assert (tmp_path / "log.jsonl").read_text() == "\n".join(lines[:2]) + "\n"


@pytest.mark.parametrize(("model", "channels"), [("residual", 16), ("flow", 32)])
def test_four_pairs_are_learned_until_ssim_is_above_09(
    few_people, tmp_path, monkeypatch, model, channels
):
    monkeypatch.setattr(training, "DECAY_EPOCHS", 1000)  # an epoch is a single step here
    monkeypatch.setattr(training, "HELD_OUT", 0)
    four = few_people.pairs_train[[0, 5, 23, 41]]
    prepared = dataclasses.replace(few_people, pairs_train=four)
    config = config_for(
        prepared,
        tmp_path,
        model=model,
        augment=(),
        steps=120 if model == "residual" else 200,
        batch_size=4,
        channels=channels,
        learning_rate=1e-3 if model == "residual" else 3e-3,
    )
    checkpoint, _ = training.train(config, prepared, False, lambda figures: None)
    generator = checkpoints.load_generator(checkpoint, torch.device("cpu"))
    batch = pairs.gather(prepared, four)
    inputs = batch["source"], batch["target_pose"]
    told = checkpoints.generate(generator, *inputs, batch["source_pose"])
    untold = checkpoints.generate(generator, *inputs)
    found = (metrics.scores(made, batch["target"]) for made in (told, untold))
    told, untold = (scores["ssim_dscf"].mean() for scores in found)
    assert told > 0.9
    assert untold > told - 0.05  # the price of not knowing the source pose


def test_generated_pictures_do_not_depend_on_the_batch(few_people, tmp_path):
    config = config_for(few_people, tmp_path, steps=1)
    checkpoint, _ = training.train(config, few_people, False, lambda figures: None)
    generator = checkpoints.load_generator(checkpoint, torch.device("cpu"))
    batch = pairs.gather(few_people, few_people.pairs_test[:3])
    together = checkpoints.generate(generator, batch["source"], batch["target_pose"])
    alone = checkpoints.generate(generator, batch["source"][1:2], batch["target_pose"][1:2])
    assert together.dtype == torch.uint8
    assert (together[1].int() - alone[0].int()).abs().max() <= 1


@pytest.mark.parametrize("model", models.GENERATORS)
def test_a_checkpoint_of_half_size_makes_the_same_pictures(few_people, tmp_path, model):
    config = config_for(few_people, tmp_path, model=model)
    checkpoint, _ = training.train(config, few_people, False, lambda figures: None)
    small = tmp_path / "generator.pt"
    assert small.stat().st_size < checkpoint.stat().st_size / 4
    batch = pairs.gather(few_people, few_people.pairs_test[:4])
    inputs = pairs.normalise(batch["source"]), batch["target_pose"], batch["source_pose"]
    with torch.inference_mode():
        whole, half = (
            checkpoints.load_generator(path, torch.device("cpu"))(*inputs)
            for path in (checkpoint, small)
        )
    assert (whole - half).abs().max() < 1e-2


def test_pictures_of_nan_are_refused(few_people):
    generator = models.FlowGenerator(64, 32, channels=8).eval()
    with torch.no_grad():
        generator.synthesis_net.picture.bias.fill_(float("nan"))
    batch = pairs.gather(few_people, few_people.pairs_test[:1])
    with pytest.raises(ClickException, match=r"outputs NaN.*--checkpoint"):
        checkpoints.generate(generator, batch["source"], batch["target_pose"])


def test_the_learning_rate_falls_by_10_every_20_epochs(few_people, tmp_path):
    config = config_for(few_people, tmp_path, learning_rate=2e-4)
    # 400 pairs are 100 steps of 4.
    rates = [training.learning_rate(config, step, 400) for step in (0, 1999, 2000, 4000)]
    assert rates == pytest.approx([2e-4, 2e-4, 2e-5, 2e-6])


def test_the_average_follows_the_generator(few_people, tmp_path):
    config = config_for(few_people, tmp_path)
    shape = {
        "model": "residual",
        "height": 64,
        "width": 32,
        "identities": 2,
        "options": {"channels": 4, "frozen": False},
    }
    state = training.build(config, shape, torch.device("cpu"))
    with torch.no_grad():
        for a, p in zip(state.average.parameters(), state.generator.parameters()):
            a.zero_()
            p.fill_(1)
    state.step = 89  # weight 1 - 90 / 99
    training.update_average(state)
    assert next(state.average.parameters()).flatten()[0].item() == pytest.approx(1 / 11)


def test_a_run_without_test_pairs_shows_training_pairs(few_people, tmp_path):
    alone = dataclasses.replace(few_people, pairs_test=few_people.pairs_test[:0])
    config = config_for(alone, tmp_path, model="flow", channels=8, steps=1)
    training.train(config, alone, False, lambda figures: None)
    assert (tmp_path / "samples" / "000001.png").exists()


def test_resuming_on_other_data_is_refused(few_people, tmp_path):
    config = config_for(few_people, tmp_path, model="flow", channels=8, steps=1)
    training.train(config, few_people, False, lambda figures: None)
    other = dataclasses.replace(few_people, identities=3)
    with pytest.raises(ClickException, match=r"changed since .* began"):
        training.train(dataclasses.replace(config, steps=2), other, True, lambda figures: None)


def test_a_loss_that_is_not_finite_stops_the_run(few_people, tmp_path):
    config = config_for(few_people, tmp_path)
    figures = {"step": 7, "reconstruction": 0.1, "adversarial": float("nan")}
    with pytest.raises(ClickException, match=r"step 7: the adversarial loss.*--learning-rate"):
        training.check_finite(figures, config)


def test_files_of_another_kind_are_no_checkpoints(tmp_path):
    path = tmp_path / "latest.pt"
    torch.save({"weights": torch.zeros(2)}, path)
    with pytest.raises(ClickException, match=r"not a posegan checkpoint.*posegan train"):
        checkpoints.read_checkpoint(path)
    torch.save({"format": 99, "config": {}, "state": {}}, path)
    with pytest.raises(ClickException, match=r"checkpoint format 99"):
        checkpoints.read_checkpoint(path)
    torch.save({"format": checkpoints.FORMAT, "config": {"shape": {}}, "state": {}}, path)
    with pytest.raises(ClickException, match=r"missing or impossible values"):
        checkpoints.read_checkpoint(path)
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(ClickException, match=r"damaged"):
        checkpoints.read_checkpoint(path)


class Hostile:
    def __reduce__(self):
        return (Path.touch, (Path("harmed"),))


def test_a_hostile_checkpoint_runs_no_code(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.save({"format": 1, "config": Hostile(), "state": {}}, "evil.pt")
    with pytest.raises(ClickException, match=r"evil.pt: damaged, or not a PyTorch file"):
        checkpoints.read_checkpoint(Path("evil.pt"))
    assert not Path("harmed").exists()


def test_an_unwritable_place_is_one_clear_line(few_people, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ClickException, match=r"can't be written.*--run"):
        training.open_log(tmp_path / "file" / "run", 0)
    config = config_for(few_people, tmp_path)
    with pytest.raises(ClickException, match=r"latest.pt: can't be written.*--run"):
        checkpoints.write_checkpoint(tmp_path / "file" / "latest.pt", config, {}, {})
    config = dataclasses.replace(config, run=str(tmp_path / "file" / "run"))
    with pytest.raises(ClickException, match=r"can't be written.*--run"):
        training.train(config, few_people, False, lambda figures: None)


def test_cuda_that_is_not_there_is_refused():
    if torch.cuda.is_available():
        pytest.skip("there is a CUDA device here")
    with pytest.raises(ClickException, match=r"--device cuda.*use --device cpu"):
        checkpoints.pick_device("cuda")
    assert checkpoints.pick_device("auto").type == "cpu"


def test_gradients_are_averaged_over_processes(tmp_path):
    torch.multiprocessing.spawn(average_in_one_process, (str(tmp_path / "meet"),), nprocs=2)


def test_every_model_has_its_name_its_objective_and_its_weights():
    assert list(models.GENERATORS) == list(losses.OBJECTIVES) == list(recipes.MODELS)
    assert {*metrics.PIXEL_SCORES, *metrics.NEEDS} == {*scoring.SCORES}
    assert list(recipes.LOSS_WEIGHTS) == ["paper", *recipes.MODELS]


def test_a_trained_generator_waits_for_its_new_discriminator(few_people, tmp_path):
    """And what a run begins with must fit it."""
    settings = {"model": "flow", "channels": 8, "steps": 40}
    first = config_for(few_people, tmp_path / "first", **settings)
    training.train(first, few_people, False, stop_at(1))
    start = tmp_path / "first" / "generator.pt"
    config = config_for(few_people, tmp_path / "second", start=str(start), **settings)
    training.train(config, few_people, False, stop_at(1))
    known, values = values_of(start)["average"], values_of(tmp_path / "second" / "latest.pt")
    weights = [name for name in known if "running" not in name]
    assert all(torch.equal(values["generator"][name], known[name].float()) for name in weights)
    fresh = training.build(config, training.describe(config, few_people), torch.device("cpu"))
    assert not same(values["discriminator"], fresh.discriminator.state_dict())
    training.train(config, few_people, True, stop_at(4))
    values = values_of(tmp_path / "second" / "latest.pt")
    assert not all(torch.equal(values["generator"][name], known[name].float()) for name in weights)
    other = config_for(few_people, tmp_path / "third", start=str(start), model="unet", channels=8)
    with fails("generator.pt: doesn't match --features or the size of the data"):
        training.train(other, few_people, False, lambda figures: None)


@pytest.mark.parametrize(
    ("given", "channels", "steps", "features"),
    [
        ({}, 64, 5000, "lite0"),
        ({"model": "residual"}, 32, 2400, "lite0"),
        ({"model": "residual", "descriptor": "vector"}, 64, None, "resnet50"),
        ({"model": "residual", "data": "demo"}, 64, 200, "none"),
        ({"model": "residual", "channels": 8}, 8, 2400, "lite0"),
    ],
)
def test_each_reading_has_its_defaults(given, channels, steps, features):
    settings = recipes.complete({"data": "market1501"} | given)
    names = ("channels", "steps", "features")
    assert tuple(settings[name] for name in names) == (channels, steps, features)


class Described(torch.nn.Module):
    """A descriptor that is quick: the mean colour of each third of the picture, a hundred times."""

    widths, frozen, pooled = (900,), True, True

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return F.adaptive_avg_pool2d(image, (3, 1)).flatten(1).repeat(1, 100)


def vector_run(prepared, run: Path, monkeypatch, **changes) -> list[dict]:
    """The log of a run of `residual` with a frozen descriptor that is pooled to a vector."""
    monkeypatch.setattr(models, "Descriptor", lambda network, frozen, pooled: Described())
    monkeypatch.setattr(training, "begin", lambda config, state: None)
    monkeypatch.setattr(training, "LOG_EVERY_STEPS", 1)
    settings = {"descriptor": "vector", "features": "frozen", "augment": (), "steps": 3}
    config = config_for(prepared, run, **settings | changes)
    training.train(config, prepared, False, lambda figures: None)
    return training.read_log(run)


def test_cached_descriptors_give_the_losses_of_computed_ones(few_people, tmp_path, monkeypatch):
    cached = vector_run(few_people, tmp_path / "cached", monkeypatch)
    assert all("reconstruction" in line for line in cached)
    monkeypatch.setattr(training, "describe_sources", lambda *given: None)
    computed = vector_run(few_people, tmp_path / "computed", monkeypatch)
    timed = "images_per_second"
    assert [{**line, timed: 0} for line in cached] == [{**line, timed: 0} for line in computed]
    runs = (values_of(tmp_path / name / "latest.pt") for name in ("cached", "computed"))
    assert same(*(values["generator"] for values in runs))


def test_a_cached_descriptor_is_not_asked_again(few_people):
    settings = {"descriptor": "vector", "features": "none", "augment": ()}
    config = config_for(few_people, Path("run"), **settings)
    state = training.build(config, training.describe(config, few_people), torch.device("cpu"))
    described = state.generator.descriptor(torch.zeros(2, 3, 64, 32))
    state.generator.descriptor = None
    batch = {"described": described, "target_pose": torch.from_numpy(few_people.poses[:2])}
    image, _ = losses.synthesise_image(state.generator, batch)
    assert image.shape == (2, 3, 64, 32)


@pytest.mark.parametrize("changes", [{"augment": ("flip",)}, {"descriptor": "map"}])
def test_descriptors_that_may_change_are_not_cached(few_people, changes):
    settings = {"descriptor": "vector", "features": "none", "augment": ()} | changes
    config = config_for(few_people, Path("run"), **settings)
    state = training.build(config, training.describe(config, few_people), torch.device("cpu"))
    assert training.describe_sources(config, state, None, torch.device("cpu")) is None
