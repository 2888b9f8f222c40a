import socket

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import torchvision
from click import ClickException
from conftest import BATCH, fails, picture, some_images, some_pose, write
from torchvision.models import resnet50

from posegan import augment, checkpoints, features, models, poses, recipes

SIZES = [(64, 32), (128, 64), (256, 256), (256, 176), (112, 48), (16, 16)]


@pytest.mark.parametrize("descriptor", recipes.DESCRIPTORS)
@pytest.mark.parametrize("size", SIZES)
def test_every_multiple_of_16_comes_out_at_its_size(size, descriptor):
    generator = models.ResidualGenerator(*size, 4, descriptor, frozen=False).eval()
    with torch.inference_mode():
        image = generator(some_images(*size), some_pose(*size))
    assert image.shape == (BATCH, 3, *size)
    assert image.abs().max() <= 1
    real, identity = models.Discriminator(*size, identities=7, channels=4)(image.clone())
    assert real.shape == (BATCH,)
    assert identity.shape == (BATCH, 7)


@pytest.mark.parametrize("model", models.GENERATORS)
def test_other_sizes_are_refused(model):
    with pytest.raises(ValueError, match="multiples of 16, not 100x64"):
        models.GENERATORS[model](100, 64)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("model", ["unet", "flow"])
def test_unet_and_flow_come_out_at_every_size_with_and_without_source_pose(model, size):
    generator = models.GENERATORS[model](*size, channels=8).train()
    source, pose = some_images(*size), some_pose(*size)
    for source_pose in (pose.flip(0), None):
        image = generator(source, pose, source_pose)
        assert image.shape == (BATCH, 3, *size)
        assert image.abs().max() <= 1
    discriminator = models.PatchDiscriminator(channels=8)
    maps = augment.pose_maps(pose, *size, 4).repeat(1, 2, 1, 1)
    real, features = discriminator(image, source, maps)
    assert real.shape == (BATCH, 1, size[0] // 8, size[1] // 8)
    assert len(features) == 4


@pytest.mark.parametrize("size", [(128, 64), (256, 176)])
def test_the_flow_generator_says_what_it_made_at_every_scale(size):
    H, W = size
    generator = models.FlowGenerator(H, W, channels=8).eval()
    with torch.inference_mode():
        made = generator.synthesise(some_images(H, W), some_pose(H, W))
        coarse = generator.garment_net.draw(made.garment)
    assert coarse.shape == (BATCH, 3, H // 4, W // 4)
    assert made.warped.shape == made.image.shape
    assert made.layout.shape == (BATCH, models.PARTS, H // 8, W // 8)
    for scale, flow in zip((8, 4, 2, 1), made.found.flows, strict=True):
        assert flow.shape == (BATCH, 2, H // scale, W // scale)
    for scale, visibility in zip((8, 4, 2), made.found.visibilities, strict=True):
        assert visibility.shape == (BATCH, 1, H // scale, W // scale)
        assert visibility.min() >= 0
        assert visibility.max() <= 1
    places = H // 8 * (W // 8)
    assert made.found.attention.shape == (BATCH, places, places)


@pytest.mark.parametrize("model", models.GENERATORS)
@pytest.mark.parametrize("told", [True, False])
def test_one_source_serves_many_poses_as_its_copies_do(model, told):
    options = {"frozen": False} if model == "residual" else {}
    torch.manual_seed(0)
    generator = models.GENERATORS[model](64, 32, 8, **options).eval()
    source = torch.randint(0, 256, (1, 3, 64, 32), dtype=torch.uint8)
    pose = some_pose(64, 32)
    own = pose[1:2] if told else None
    made = checkpoints.synthesise(generator, source, pose, own)
    copies = [one.expand(BATCH, *one.shape[1:]) for one in (source, pose[1:2])]
    copied = checkpoints.synthesise(generator, copies[0], pose, copies[1] if told else None)
    assert torch.allclose(made.image, copied.image, atol=1e-5)
    assert (made.image[0] - made.image[1]).abs().max() > 1e-4


def test_the_flow_generator_has_at_most_20_million_parameters():
    generator = models.FlowGenerator(256, 256)
    assert sum(p.numel() for p in generator.parameters()) <= 20e6


@pytest.mark.parametrize("model", [*models.GENERATORS, "vector"])
def test_folded_batch_norms_change_no_picture(model):
    options = {"frozen": False} if model == "residual" else {}
    if model == "vector":
        model, options = "residual", {"frozen": False, "descriptor": "vector"}
    generator = models.GENERATORS[model](64, 32, channels=8, **options).train()
    source, pose = some_images(64, 32), some_pose(64, 32)
    generator(source, pose)  # batch norms have seen something
    for module in generator.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            torch.nn.init.uniform_(module.weight, 0.5, 1.5)
            torch.nn.init.normal_(module.bias, std=0.1)
    with torch.inference_mode():
        before = generator.eval()(source, pose)
        after = features.fused(generator)(source, pose)
    assert not any(isinstance(module, torch.nn.BatchNorm2d) for module in generator.modules())
    assert before.std() > 0.01
    assert torch.allclose(before, after, atol=1e-4)


def test_heat_maps_peak_at_the_joints_and_are_empty_for_missing_ones():
    pose = torch.zeros(1, 25, 3)
    pose[0, 4] = torch.tensor([20.0, 50.0, 0.5])
    maps = augment.heatmaps(pose, 128, 64)
    assert maps.shape == (1, 25, 128, 64)
    assert maps[0, 4, 50, 20] == 1
    assert maps.sum() == maps[0, 4].sum()
    assert maps[0, 4, 54, 20].item() == pytest.approx(0.6065, abs=1e-4)  # one deviation, 4 pixels
    pose[0, 4, :2] = torch.tensor([9.5, 5.5])  # between pixels; in the middle of one at 1/4
    assert augment.pose_maps(pose, 128, 64, 4)[0, 4, 1, 2].item() == pytest.approx(1, abs=1e-6)


def test_limb_maps_follow_the_limb():
    pose = torch.zeros(1, 25, 3)
    pose[0, 3], pose[0, 4] = torch.tensor([10.0, 20, 1]), torch.tensor([10.0, 60, 1])
    maps = augment.pose_maps(pose, 128, 64)[:, len(poses.JOINTS) :]
    limb = poses.LIMBS.index((3, 4))
    assert torch.equal(maps[0, limb, 20:61, 10], torch.ones(41))
    assert maps[0, limb, 40, 16].item() == pytest.approx(0.6065, abs=1e-4)  # one deviation, 6
    assert maps.sum() == maps[0, limb].sum()


def test_the_published_widths_have_nine_blocks_of_256_channels():
    generator = models.ResidualGenerator(128, 64, descriptor="vector")
    assert len(generator.blocks) == 9
    x = torch.rand(1, 256, 32, 16)
    assert generator.blocks[0](x).shape == x.shape
    assert generator.blocks[0].down(x).shape == (1, 256, 16, 8)
    assert generator.joined.opening[-1].out_channels == 64


def test_the_source_pose_changes_nothing():
    generator = models.ResidualGenerator(64, 32, channels=4, frozen=False).eval()
    source, pose = some_images(64, 32), some_pose(64, 32)
    with torch.inference_mode():
        assert torch.equal(generator(source, pose), generator(source, pose, pose.flip(0)))


def test_a_frozen_descriptor_keeps_its_weights_and_statistics():
    descriptor = models.Descriptor("resnet50", frozen=True, pooled=True).train()
    before = {name: value.clone() for name, value in descriptor.state_dict().items()}
    vector = descriptor(some_images(64, 32))
    assert vector.shape == (BATCH, 2048)
    assert not vector.requires_grad
    for name, value in descriptor.state_dict().items():
        assert torch.equal(value, before[name]), name


def test_the_descriptor_is_resnet50_on_imagenet_normalised_images():
    reference = resnet50(weights=None).eval()
    descriptor = models.Descriptor("resnet50", frozen=True)
    descriptor.features.network.load_state_dict(
        {name: value for name, value in reference.state_dict().items() if "fc." not in name}
    )
    image = some_images(32, 16)
    mean = torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1)
    std = torch.tensor([0.229, 0.224, 0.225]).view(3, 1, 1)
    reference.fc = torch.nn.Identity()
    larger = F.interpolate(((image + 1) / 2 - mean) / std, (256, 128), mode="bilinear")
    with torch.inference_mode():
        vector = descriptor(image)[-1].mean((2, 3))
        assert torch.allclose(vector, reference(larger), atol=1e-4)


def test_a_pooled_descriptor_sees_a_narrow_image_padded_to_a_black_square():
    descriptor = models.Descriptor("resnet50", frozen=True, pooled=True)
    seen = []
    descriptor.features.register_forward_pre_hook(lambda module, given: seen.append(given[0]))
    image = some_images(128, 64)
    descriptor(image)
    assert seen[0].shape == (BATCH, 3, 256, 256)
    assert (seen[0][..., :64] == -1).all() and (seen[0][..., -64:] == -1).all()
    wanted = F.interpolate(image, (256, 128), mode="bilinear")
    assert torch.equal(seen[0][..., 64:192], wanted)
    assert not models.ResidualGenerator(16, 16, 4, "map").descriptor.pooled
    assert models.ResidualGenerator(16, 16, 4, "vector").descriptor.pooled


def test_weights_are_read_from_a_file_with_or_without_the_classifier(tmp_path):
    state = resnet50(weights=None).state_dict()
    for kept in (state, {name: value for name, value in state.items() if "fc." not in name}):
        torch.save(kept, tmp_path / "resnet.pth")
        found = features.ResNetFeatures()
        features.load_weights(found, str(tmp_path / "resnet.pth"))
        assert torch.equal(found.network.conv1.weight, state["conv1.weight"])


def test_imagenet_weights_come_from_torchvision(tmp_path, monkeypatch):
    state = resnet50(weights=None).state_dict()
    monkeypatch.setattr(
        torchvision.models.ResNet50_Weights.IMAGENET1K_V1.__class__,
        "get_state_dict",
        lambda self, check_hash: state,
    )
    found = features.ResNetFeatures()
    features.load_weights(found, "resnet50")
    assert torch.equal(found.network.conv1.weight, state["conv1.weight"])


def test_unreachable_imagenet_weights_name_the_remedies(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    weights = torchvision.models.ResNet50_Weights.IMAGENET1K_V1
    monkeypatch.setattr(
        type(weights), "url", property(lambda self: "http://127.0.0.1:9/resnet50-11ad3fa6.pth")
    )
    with pytest.raises(ClickException, match=r"can't be fetched.*--features none"):
        features.load_weights(features.ResNetFeatures(), "resnet50")


def test_a_server_that_never_answers_is_given_up(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr(features, "FETCH_SECONDS", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as server:  # it listens, and that is all
        url = f"http://127.0.0.1:{server.getsockname()[1]}/resnet50-11ad3fa6.pth"
        weights = torchvision.models.ResNet50_Weights.IMAGENET1K_V1
        monkeypatch.setattr(type(weights), "url", property(lambda self: url))
        with pytest.raises(ClickException, match=r"can't be fetched .*timed out"):
            features.load_weights(features.ResNetFeatures(), "resnet50")
    assert socket.getdefaulttimeout() is None


def test_wrong_weights_are_refused(tmp_path):
    found = features.ResNetFeatures()
    torch.save({"a": torch.zeros(1)}, tmp_path / "other.pth")
    with pytest.raises(ClickException, match=r"other.pth: does not hold ResNet-50's weights"):
        features.load_weights(found, str(tmp_path / "other.pth"))
    with pytest.raises(ClickException, match=r"none.pth: no such file"):
        features.load_weights(found, str(tmp_path / "none.pth"))
    with pytest.raises(ClickException, match=r"not a file; check the path"):
        features.read_state_dict(tmp_path)
    torch.save([1], tmp_path / "list.pth")
    with pytest.raises(ClickException, match=r"not a state dict"):
        features.read_state_dict(tmp_path / "list.pth")


def test_a_pose_vector_is_normalised_and_flags_missing_joints():
    pose = torch.zeros(1, 25, 3)
    pose[0, 0] = torch.tensor([-0.5, -0.5, 0.3])  # the frame's upper left corner
    pose[0, 1] = torch.tensor([63.5, 127.5, 0.9])  # its lower right one
    pose[0, 2] = torch.tensor([31.5, 63.5, 1.0])
    vector = augment.pose_vector(pose, 128, 64).view(25, 3)
    assert vector[0].tolist() == [-1, -1, 1]
    assert vector[1].tolist() == [1, 1, 1]
    assert vector[2].tolist() == [0, 0, 1]
    assert not vector[3:].any()


def test_a_place_sees_the_pose_vector_from_where_it_is():
    pose = torch.zeros(1, 25, 3)
    pose[0, 0] = torch.tensor([31.5, 63.5, 1.0])
    seen = augment.pose_from_places(pose, 128, 64, 4).unflatten(1, (3, 25))[0, :, 0]  # (3, h, w)
    assert seen.shape == (3, 32, 16)
    near = torch.tensor(0.5 * augment.POSE_NEAR / 32).tanh()  # half a place away
    assert torch.allclose(seen[0, :, 7], near) and torch.allclose(seen[0, :, 8], -near)
    assert torch.allclose(seen[1, 15], near) and torch.allclose(seen[1, 16], -near)
    assert (seen[2] == 1).all()
    assert not augment.pose_from_places(pose, 128, 64, 4).unflatten(1, (3, 25))[0, :, 1:].any()


@pytest.mark.parametrize("corner", [(0, 0), (0, 1), (1, 0), (1, 1)])
def test_maps_carry_a_corner_of_the_source_to_that_corner(corner):
    torch.manual_seed(0)
    generator = models.ResidualGenerator(128, 64, 8, frozen=False).eval()
    source = torch.zeros(1, 3, 128, 64)
    changed = source.clone()
    rows, columns = (slice(0, 32) if one == 0 else slice(-32, None) for one in corner)
    changed[..., rows, columns] = 1
    with torch.inference_mode():
        a, b = (generator(image, some_pose(128, 64)[:1]) for image in (source, changed))
    difference = (a - b).abs()
    there = difference[..., rows, columns].mean()
    other = difference[..., rows, slice(-32, None) if corner[1] == 0 else slice(0, 32)].mean()
    away = slice(-32, None) if corner[0] == 0 else slice(0, 32)
    assert there > 2 * difference[..., away, columns].mean()
    assert there > other


def test_the_discriminator_has_instance_norm():
    modules = models.Discriminator(64, 32, 2, channels=6).modules()
    norms = [module for module in modules if isinstance(module, models.InstanceNorm)]
    x = torch.rand(2, 12, 5, 7, generator=torch.Generator().manual_seed(0))
    assert len(norms) == 4
    assert torch.allclose(norms[0](x), F.instance_norm(x), atol=1e-5)


def test_images_are_judged_by_the_whole_first_convolution():
    draws = torch.Generator().manual_seed(0)
    sizes = [(24, 8, 4), (40, 4, 2), (112, 2, 1), (320, 1, 1)]
    discriminator = models.ProjectedDiscriminator([size[0] for size in sizes], 8).eval()
    found = [[torch.randn(2, *size, generator=draws) for size in sizes] for _ in range(3)]
    source, *images = map(discriminator.mix, found)
    maps = torch.rand(2, 2 * augment.POSE_MAPS, 8, 4, generator=draws)
    judged = discriminator(images, source, maps)
    for image, logits in zip(images, judged):
        for head, x, beside, found in zip(discriminator.heads, image, source, logits):
            poses_there = F.adaptive_avg_pool2d(maps, x.shape[-2:])
            wanted = head(torch.cat([x, beside, poses_there], 1))
            torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("stride", (1, 2))
@pytest.mark.parametrize("kernel", (3, 5))
@pytest.mark.parametrize("size", ((16, 8), (15, 8), (16, 7), (11, 9)))
def test_padding_is_tensorflows(size, kernel, stride):
    theirs = pytest.importorskip("efficientnet_lite_pytorch.utils").Conv2dDynamicSamePadding
    layer = theirs(6, 6, kernel, stride=stride, groups=6)
    maps = torch.randn(2, 6, *size, generator=torch.Generator().manual_seed(0))
    wanted = layer(maps)
    layer.__class__ = features.SamePadding
    torch.testing.assert_close(layer(maps), wanted)


def test_joining_weighs_descriptor_and_pose_as_said():
    join = models.Join(2048, 75).train()
    generator = torch.Generator().manual_seed(0)
    descriptor = torch.randn(64, 2048, generator=generator) + 5
    joined = join(descriptor, torch.randn(64, 75, generator=generator) * 100)
    assert joined.shape == (64, 2123)
    energy = joined.square().sum(0)
    assert energy[:2048].sum().item() == pytest.approx(
        energy[2048:].sum().item() / models.POSE_GAIN**2, rel=1e-2
    )
    assert joined[:, :2048].mean().abs() < 1e-3


# ------------------------------------------------------------------------------ finding poses


def test_unreachable_pose_weights_name_the_remedies(monkeypatch, tmp_path):
    asked = []

    def fetch(url, *_, **__):
        asked.append(url)
        raise OSError("no route to host")

    monkeypatch.setattr(torch.hub, "download_url_to_file", fetch)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    with fails("can't be fetched .*; give the poses, or .* --pose-weights FILE"):
        features.find_poses([picture()])
    assert "keypointrcnn_resnet50_fpn_coco" in asked[0]


def test_a_file_with_other_weights_is_refused(tmp_path):
    with fails("damaged"):
        features.find_poses([picture()], str(write(tmp_path / "bad.pt", b"no weights")))
    torch.save({"weight": torch.ones(1)}, tmp_path / "other.pt")
    with fails(r"other\.pt: not the weights of Keypoint R-CNN; give"):
        features.find_poses([picture()], str(tmp_path / "other.pt"))


def test_the_surest_person_becomes_body25_with_confidences(monkeypatch):
    points = torch.arange(34.0).view(17, 2) + 10
    scores = torch.full((17,), 6.0)
    scores[9] = -3.0  # the left wrist
    found = {
        "scores": torch.tensor([0.9, 0.8]),
        "keypoints": torch.stack([torch.cat([points, torch.ones(17, 1)], 1)] * 2),
        "keypoints_scores": torch.stack([scores, -scores]),
    }
    network = torch.nn.Module()
    network.forward = lambda images: [found]
    monkeypatch.setattr(features, "_keypoint_network", lambda weights: network)
    pose = features.find_poses([picture()])[0]
    assert np.allclose(pose[0, :2], (9.5, 10.5))
    assert not pose[7].any() and 0.5 < pose[5, 2] < 1 and pose[1, 2] > 0
    found["scores"] = torch.tensor([0.2, 0.1])
    assert not features.find_poses([picture()]).any()
