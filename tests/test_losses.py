import pytest
import torch
import torch.nn.functional as F
from conftest import some_images, some_pose

from posegan import augment, losses, metrics, models


def test_similarity_is_one_minus_ssim():
    a, b = some_images(32, 48), some_images(32, 48).flip(0)
    expected = 1 - metrics.scores(a, b)["ssim_wang"].mean().item()
    assert losses.similarity_loss(a, b).mean().item() == pytest.approx(expected, abs=1e-5)
    assert losses.similarity_loss(a, a).tolist() == [0] * len(a)


def test_similarity_has_the_gradients_of_finite_differences():
    a, b = (some_images(13, 12).double().requires_grad_() for _ in range(2))
    wang = metrics.RECIPES["wang"]

    def ssim(x, y):
        return metrics.similarity(x.permute(2, 0, 1, 3), y.permute(2, 0, 1, 3) / 2, wang, 2.0)

    assert torch.autograd.gradcheck(ssim, (a + 1, b + 1))


def test_the_person_is_judged_alone_on_black():
    image, other = some_images(64, 32), some_images(64, 32).flip(3)
    person = torch.zeros(len(image), 1, 64, 32, dtype=torch.bool)
    person[..., 4:12] = True
    beside = image.where(person, other)
    whole, alone = losses.similarity_losses(beside, image, person)
    assert whole.item() == pytest.approx(losses.similarity_loss(beside, image).mean().item())
    assert alone.item() == 0
    alone = losses.similarity_losses(other, image, person)[1].item()
    x, y = ((one + 1) * person - 1 for one in (other, image))
    assert alone == pytest.approx(losses.similarity_loss(x, y).mean().item(), abs=1e-6)
    assert alone > 0.01
    assert losses.similarity_losses(other, image, ~person & person)[1].item() == 0


def test_similarity_reads_no_value_back_and_builds_nothing_twice():
    """On the meta device, where there are no values, and in training after scoring."""
    images = torch.empty(2, 3, 32, 48, device="meta", requires_grad=True)
    losses.similarity_loss(images, images.detach()).mean().backward()
    assert images.grad.shape == images.shape
    metrics._bands.cache_clear()
    a = some_images(32, 48).requires_grad_()
    with torch.inference_mode():
        losses.similarity_loss(some_images(32, 48), some_images(32, 48))
    for _ in range(2):
        losses.similarity_loss(a, some_images(32, 48).flip(0)).mean().backward()
    assert a.grad.abs().sum() > 0
    found = metrics._bands.cache_info()
    assert (found.misses, found.hits) == (4, 2)  # two sizes: whole for gradients, in blocks without


def test_fog_costs_its_missing_gradients_and_an_edge_may_lie_a_little_off():
    H, W = 64, 32
    stripes = torch.arange(W).remainder(4).div(2, rounding_mode="floor").mul(0.5)
    image = stripes.expand(1, 3, H, W)
    fog = torch.full_like(image, image.mean()).requires_grad_()
    # Every other column differs by 0.5 from the next: 0.25 in the mean of a window of 8.
    assert losses.gradient_loss(fog, image).item() == pytest.approx(0.25, abs=1e-6)
    assert losses.gradient_loss(image, image).item() == 0
    assert losses.gradient_loss(image.roll(2, 3), image).item() == pytest.approx(0, abs=1e-6)
    loss = losses.gradient_loss(fog + 0.1 * image, image)
    assert loss.item() == pytest.approx(0.225, abs=1e-6)


def test_a_pale_background_costs_its_missing_contrast_whatever_its_colours():
    image = torch.tensor([-0.5, 0.5]).repeat(1, 3, 64, 16)  # a standard deviation of 0.5
    nobody = torch.zeros(1, 1, 64, 32, dtype=torch.bool)
    pale, darker = 0.4 * image + 0.2, image.roll(1, 3) - 0.1
    assert losses.contrast_loss(pale, image, nobody).item() == pytest.approx(0.3, abs=1e-5)
    assert losses.contrast_loss(darker, image, nobody).item() == pytest.approx(0, abs=1e-5)
    assert losses.contrast_loss(pale, image, ~nobody).item() == 0
    small = [x[:, :, :16, :16] for x in (pale, image, nobody)]
    assert losses.contrast_loss(*small).item() == pytest.approx(0.3, abs=1e-5)
    flat = torch.zeros_like(image).requires_grad_()
    losses.contrast_loss(flat, image, nobody).backward()
    assert flat.grad.isfinite().all()


def test_losses_are_computed_in_float32_whatever_the_networks_compute_in():
    a, b = some_images(32, 48), some_images(32, 48).flip(0)
    expected = losses.similarity_loss(a, b)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(losses.similarity_loss(a, b), expected)
        made = models.FlowGenerator(64, 32, channels=8).synthesise(
            some_images(64, 32), some_pose(64, 32)
        )
    assert all(flow.dtype == torch.float32 for flow in made.found.flows)


def test_visibility_falls_where_the_source_has_no_match():
    H, W = 64, 32
    places = augment.pixel_grid(H, W, torch.device("cpu"))
    source = torch.stack([torch.sin(places[0]), torch.cos(places[1] / 2), places[1] / H])[None]
    target = source.clone()
    target[:, :, 40:] = -target[:, :, 40:] + 0.7  # nothing in the source looks like this
    flows = [torch.zeros(1, 2, H // s, W // s) for s in (8, 4, 2)]
    logits = [torch.zeros(1, 1, H // s, W // s, requires_grad=True) for s in (8, 4, 2)]
    optimizer = torch.optim.Adam(logits, 0.2)
    for _ in range(40):
        found = models.Correspondence(None, flows, [logit.sigmoid() for logit in logits])
        loss = losses.photometric_loss(source, target, found)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    visibility = logits[2].sigmoid()[0, 0]
    assert visibility[:20].min() > 0.95
    assert visibility[20:].mean() < 0.2


def test_the_estimator_learns_what_the_source_does_not_show():
    """Upper half as in the source, lower half like nothing there: visible, and not."""
    H, W = 64, 32
    torch.manual_seed(0)
    generator = models.FlowGenerator(H, W, channels=16)
    source = F.interpolate(some_images(H // 8, W // 8), (H, W), mode="bicubic").clamp(-1, 0)
    target = source.clone()
    target[:, :, 32:] = 1.0
    maps = generator.maps(some_pose(H, W))
    optimizer = torch.optim.Adam(generator.parameters(), 3e-3)
    for _ in range(60):
        found = generator.correspondence(source, maps, maps)[2]
        loss = losses.photometric_loss(source, target, found)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    for visibility in found.visibilities:
        upper, lower = visibility.chunk(2, dim=2)
        assert upper.mean() > 0.8
        assert lower.mean() < 0.2


def test_a_known_deformation_is_learned_to_less_than_a_pixel():
    H, W = 64, 32
    torch.manual_seed(0)
    generator = models.FlowGenerator(H, W, channels=16)
    pose = some_pose(H, W)
    source = some_images(H // 8, W // 8)
    source = F.interpolate(source, (H, W), mode="bicubic")
    batch = losses.complete({"source": source, "source_pose": pose, "target_pose": pose}, 0)
    batch |= augment.draw(1, 0, torch.arange(len(source)), (H, W))
    optimizer = torch.optim.Adam(generator.parameters(), 3e-3)
    errors = []
    for _ in range(80):
        error = losses.deformation_error(generator, batch)
        optimizer.zero_grad()
        error.backward()
        optimizer.step()
        errors.append(error.item())
    assert errors[0] > 2
    assert errors[-1] < 1


def test_every_tenth_step_deforms_and_counts_ten_times():
    torch.manual_seed(0)
    generator = models.FlowGenerator(64, 32, channels=4).eval()
    batch = {name: some_images(64, 32) for name in ("source", "target")}
    batch |= {name: some_pose(64, 32) for name in ("source_pose", "target_pose")}
    batch |= augment.draw(1, 0, torch.arange(len(batch["source"])), (64, 32))
    networks = losses.Networks(generator, models.PatchDiscriminator(4), None)
    for step, times in ((0, 10), (1, None), (9, None), (20, 10)):
        asked = losses.complete(batch, step)
        image, made = losses.synthesise_all(generator, asked)
        terms = losses.judge_flow(networks, asked, image, made)[1]
        assert ("deformation" in terms) == bool(times)
        if times:
            error = losses.deformation_error(generator, asked)
            assert torch.allclose(terms["deformation"], times * error)


def test_losses_are_cross_entropies_and_mean_squared_error():
    networks = losses.Networks(None, lambda image: (torch.zeros(2), torch.zeros(2, 10)), None)
    image = torch.zeros(2, 3, 4, 4)
    batch = {"target": image + 0.5, "identity": torch.tensor([3, 4]), "draws": torch.ones(2, 30)}
    loss, terms = losses.judge_identity(networks, batch, image, None)
    assert loss.item() == pytest.approx(2 * torch.log(torch.tensor(20.0)).item())
    assert terms["reconstruction"].item() == pytest.approx(0.25)
    assert terms["adversarial"].item() == pytest.approx(torch.log(torch.tensor(20.0)).item())


def test_the_layout_loss_is_a_cross_entropy_that_knows_what_it_does_not_know():
    parsing = torch.full((1, 16, 8), 255, dtype=torch.uint8)
    parsing[0, 4, 4] = 2  # the middle of the upper place
    logits = torch.zeros(1, models.PARTS, 2, 1)
    loss = losses.layout_loss(logits, parsing)
    assert loss.item() == pytest.approx(torch.log(torch.tensor(float(models.PARTS))).item())
    logits[0, 2, 0] = 50
    assert losses.layout_loss(logits, parsing).item() == pytest.approx(0, abs=1e-6)
    assert losses.layout_loss(logits, torch.full_like(parsing, 255)).item() == 0
