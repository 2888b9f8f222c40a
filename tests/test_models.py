import pytest
import torch
import torch.nn.functional as F
from click import ClickException
from torchvision.models import resnet50

import models

BATCH = 2


def some_images(height: int, width: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.rand(BATCH, 3, height, width, generator=generator) * 2 - 1


def some_pose(height: int, width: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    xy = torch.rand(BATCH, 25, 2, generator=generator) * torch.tensor([width - 1.0, height - 1.0])
    return torch.cat([xy, torch.ones(BATCH, 25, 1)], dim=-1)


@pytest.mark.parametrize("size", [(64, 32), (128, 64), (256, 256), (256, 176), (112, 48), (16, 16)])
def test_every_multiple_of_16_comes_out_at_its_size(size):
    generator = models.ResidualGenerator(*size, channels=4, frozen=False).eval()
    with torch.inference_mode():
        image = generator(some_images(*size), some_pose(*size))
    assert image.shape == (BATCH, 3, *size)
    assert image.abs().max() <= 1
    real, identity = models.Discriminator(*size, identities=7, channels=4)(image.clone())
    assert real.shape == (BATCH,)
    assert identity.shape == (BATCH, 7)


def test_other_sizes_are_refused():
    with pytest.raises(ValueError, match="multiples of 16, not 100x64"):
        models.ResidualGenerator(100, 64)


def test_the_published_widths_have_nine_blocks_of_256_channels():
    generator = models.ResidualGenerator(128, 64)
    assert len(generator.blocks) == 9
    x = torch.rand(1, 256, 32, 16)
    assert generator.blocks[0](x).shape == x.shape
    assert generator.blocks[0].down(x).shape == (1, 256, 16, 8)
    assert generator.opening.channels == 64


def test_the_source_pose_changes_nothing():
    generator = models.ResidualGenerator(64, 32, channels=4, frozen=False).eval()
    source, pose = some_images(64, 32), some_pose(64, 32)
    with torch.inference_mode():
        assert torch.equal(generator(source, pose), generator(source, pose, pose.flip(0)))


def test_a_frozen_descriptor_keeps_its_weights_and_statistics():
    descriptor = models.Descriptor(rows=64, frozen=True).train()
    before = {name: value.clone() for name, value in descriptor.state_dict().items()}
    features = descriptor(some_images(64, 32))
    assert features.shape == (BATCH, 2048)
    assert not features.requires_grad
    for name, value in descriptor.state_dict().items():
        assert torch.equal(value, before[name]), name


def test_the_descriptor_is_resnet50_on_imagenet_normalised_images():
    reference = resnet50(weights=None).eval()
    descriptor = models.Descriptor(rows=64, frozen=True)
    descriptor.network.load_state_dict(
        {name: value for name, value in reference.state_dict().items() if "fc." not in name}
    )
    image = some_images(32, 16)
    mean = torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1)
    std = torch.tensor([0.229, 0.224, 0.225]).view(3, 1, 1)
    reference.fc = torch.nn.Identity()
    larger = F.interpolate(((image + 1) / 2 - mean) / std, (64, 32), mode="bilinear")
    with torch.inference_mode():
        assert torch.allclose(descriptor(image), reference(larger), atol=1e-4)


def test_weights_are_read_from_a_file_with_or_without_the_classifier(tmp_path):
    state = resnet50(weights=None).state_dict()
    for kept in (state, {name: value for name, value in state.items() if "fc." not in name}):
        torch.save(kept, tmp_path / "resnet.pth")
        descriptor = models.Descriptor(rows=64, frozen=True)
        models.load_descriptor_weights(descriptor, str(tmp_path / "resnet.pth"))
        assert torch.equal(descriptor.network.conv1.weight, state["conv1.weight"])


def test_imagenet_weights_come_from_torchvision(tmp_path, monkeypatch):
    state = resnet50(weights=None).state_dict()
    monkeypatch.setattr(
        models.ResNet50_Weights.IMAGENET1K_V1.__class__,
        "get_state_dict",
        lambda self, check_hash: state,
    )
    descriptor = models.Descriptor(rows=64, frozen=True)
    models.load_descriptor_weights(descriptor, "imagenet")
    assert torch.equal(descriptor.network.conv1.weight, state["conv1.weight"])


def test_unreachable_imagenet_weights_name_the_remedies(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    weights = models.ResNet50_Weights.IMAGENET1K_V1
    monkeypatch.setattr(
        type(weights), "url", property(lambda self: "http://127.0.0.1:9/resnet50-11ad3fa6.pth")
    )
    with pytest.raises(ClickException, match=r"can't be fetched.*--descriptor-weights none"):
        models.load_descriptor_weights(models.Descriptor(64, True), "imagenet")


def test_wrong_weights_are_refused(tmp_path):
    descriptor = models.Descriptor(rows=64, frozen=True)
    torch.save({"a": torch.zeros(1)}, tmp_path / "other.pth")
    with pytest.raises(ClickException, match=r"other.pth: holds no weights of ResNet-50"):
        models.load_descriptor_weights(descriptor, str(tmp_path / "other.pth"))
    with pytest.raises(ClickException, match=r"none.pth: no such file"):
        models.load_descriptor_weights(descriptor, str(tmp_path / "none.pth"))
    with pytest.raises(ClickException, match=r"can't be read"):
        models.read_state_dict(tmp_path)
    torch.save([1], tmp_path / "list.pth")
    with pytest.raises(ClickException, match=r"holds no weights by name"):
        models.read_state_dict(tmp_path / "list.pth")


def test_a_pose_vector_is_normalised_and_flags_missing_joints():
    pose = torch.zeros(1, 25, 3)
    pose[0, 0] = torch.tensor([-0.5, -0.5, 0.3])  # the frame's upper left corner
    pose[0, 1] = torch.tensor([63.5, 127.5, 0.9])  # its lower right one
    pose[0, 2] = torch.tensor([31.5, 63.5, 1.0])
    vector = models.pose_vector(pose, 128, 64).view(25, 3)
    assert vector[0].tolist() == [-1, -1, 1]
    assert vector[1].tolist() == [1, 1, 1]
    assert vector[2].tolist() == [0, 0, 1]
    assert not vector[3:].any()


def test_instance_norm_equals_pytorchs():
    x = torch.rand(2, 6, 5, 7, generator=torch.Generator().manual_seed(0))
    assert torch.allclose(models.instance_norm(6)(x), F.instance_norm(x), atol=1e-5)


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


def test_losses_are_cross_entropies_and_mean_squared_error():
    logits, identity = torch.zeros(2), torch.zeros(2, 10)
    label, person = torch.ones(2), torch.tensor([3, 4])
    loss = models.discriminator_loss((logits, identity), (logits, identity), person, label)
    assert loss.item() == pytest.approx(2 * torch.log(torch.tensor(20.0)).item())
    image = torch.zeros(2, 3, 4, 4)
    reconstruction, adversarial = models.generator_loss(
        image, image + 0.5, (logits, identity), person
    )
    assert reconstruction.item() == pytest.approx(0.25)
    assert adversarial.item() == pytest.approx(torch.log(torch.tensor(20.0)).item())
