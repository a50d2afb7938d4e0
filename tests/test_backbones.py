import pickle
import re
from pathlib import Path

import pytest
import safetensors.torch
import torch
import torchvision
from torch import nn
from torchvision.models.resnet import ResNet

from fgbench import backbones
from fgbench.backbones import ARCHITECTURES, IMAGENET_MEAN, IMAGENET_STD, Backbone, save_weights
from fgbench.pretrained import SHIPPED, WeightsError, read_weights, weight_tag

SMALL = ["resnet18", "vgg16", "mobilenet_v2", "squeezenet1_1", "resnet_tiny", "resnet_nano"]


def randomise(net):
    """Weights whose norms have moments too, so that nothing is left at its neutral value."""
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.uniform_(module.running_mean, -0.1, 0.1)
            nn.init.uniform_(module.running_var, 0.5, 1.5)
    return net.eval()


def save(net, path, metadata=None, half=False):
    state = {name: (t.half() if half and t.is_floating_point() else t) for name, t in net.state_dict().items()}
    safetensors.torch.save_file(state, str(path), metadata)
    return str(path)


def assert_same(found, expected):
    """Equal up to rounding; the values of networks with random weights are of any size."""
    torch.testing.assert_close(found / expected.abs().max(), expected / expected.abs().max(), rtol=0, atol=1e-5)


@pytest.fixture
def nano(tmp_path):
    """A weights file of resnet_nano, and the network that it is of."""
    net = randomise(ARCHITECTURES["resnet_nano"].build())
    return net, save(net, tmp_path / "nano.safetensors")


@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_maps_have_the_channels_and_strides_that_are_told(arch):
    backbone = Backbone(arch).eval()
    x = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        for stage, channels, stride in zip(backbone.stages, backbone.channels, backbone.strides, strict=True):
            x = stage(x)
            padding_missing = arch == "squeezenet1_1"
            assert x.shape[1] == channels
            assert x.shape[2] == pytest.approx(64 / stride, abs=1 if padding_missing else 0)


@pytest.mark.parametrize(
    ("arch", "features"),
    [
        ("resnet18", lambda net: nn.Sequential(*list(net.children())[:-2])),
        ("resnet50", lambda net: nn.Sequential(*list(net.children())[:-2])),
        ("vgg16", lambda net: net.features[:-1]),  # without the last pool
        ("mobilenet_v2", lambda net: net.features),
        ("squeezenet1_1", lambda net: net.features),
    ],
)
def test_stages_are_torchvisions_network(arch, features, tmp_path):
    if arch == "vgg16":  # its classifier has 120 M parameters
        net = nn.Module()
        net.features = torchvision.models.vgg.make_layers(torchvision.models.vgg.cfgs["D"])
    else:
        net = getattr(torchvision.models, arch)()
    randomise(net)
    backbone = Backbone(arch, save(net, tmp_path / "net.safetensors")).eval()
    image = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        assert_same(backbone(image), features(net)(image))


def test_a_stride_limit_cuts_a_resnet_before_layer4():
    backbone = Backbone("resnet50", stride=16)
    assert backbone.strides == (4, 4, 8, 16)
    assert backbone.out_channels == 1024
    assert backbone(torch.randn(1, 3, 64, 64)).shape == (1, 1024, 4, 4)
    assert Backbone("vgg16", stride=16).out_channels == 512
    assert Backbone("mobilenet_v2", stride=16).out_channels == 96


def test_stages_beyond_the_stride_limit_are_torchvisions_dilated_ones(tmp_path):
    net = randomise(torchvision.models.resnet50(replace_stride_with_dilation=[False, False, True]))
    backbone = Backbone("resnet50", save(net, tmp_path / "net.safetensors"), stages=5, stride=16).eval()
    assert backbone.strides == (4, 4, 8, 16, 16)
    image = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        expected = nn.Sequential(*list(net.children())[:-2])(image)
        assert_same(backbone(image), expected)


def test_two_dilated_stages_are_torchvisions(tmp_path):
    net = randomise(torchvision.models.resnet50(replace_stride_with_dilation=[False, True, True]))
    backbone = Backbone("resnet50", save(net, tmp_path / "net.safetensors"), stages=5, stride=8).eval()
    image = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        expected = nn.Sequential(*list(net.children())[:-2])(image)
        assert_same(backbone(image), expected)


def test_mobilenet_dilated_keeps_its_channels_at_stride_16():
    backbone = Backbone("mobilenet_v2", stages=5, stride=16)
    assert backbone(torch.randn(1, 3, 64, 64)).shape == (1, 1280, 4, 4)


def test_unknown_names_and_stages_list_what_there_is():
    with pytest.raises(ValueError, match=r"resnet19.*resnet18.*squeezenet1_1"):
        Backbone("resnet19")
    with pytest.raises(ValueError, match="stages 1 to 5"):
        Backbone("resnet18", stages=6)


def test_images_are_normalised_like_torchvision_does_it():
    image = torch.randint(256, (2, 3, 5, 7), dtype=torch.uint8)
    mean, std = (0.1, 0.2, 0.3), (0.4, 0.5, 0.6)
    expected = torchvision.transforms.functional.normalize(image / 255, mean, std)
    torch.testing.assert_close(Backbone("resnet_nano", mean=mean, std=std).normalise(image), expected)


def test_normalisation_is_imagenets_unless_the_file_or_the_caller_says_else(tmp_path, nano):
    net, path = nano
    assert (Backbone("resnet_nano").mean, Backbone("resnet_nano", path).std) == (IMAGENET_MEAN, IMAGENET_STD)
    told = save(net, tmp_path / "told.safetensors", {"mean": "0.5,0.25,0.5", "std": "0.5, 0.5, 0.125"})
    assert Backbone("resnet_nano", told).mean == (0.5, 0.25, 0.5)
    assert Backbone("resnet_nano", told).std == (0.5, 0.5, 0.125)
    assert Backbone("resnet_nano", told, mean=(0.0, 0.0, 0.0)).mean == (0.0, 0.0, 0.0)
    bad = save(net, tmp_path / "bad.safetensors", {"mean": "zero"})
    with pytest.raises(WeightsError, match=r"bad.safetensors.*mean='zero'"):
        Backbone("resnet_nano", bad)


@pytest.mark.parametrize("suffix", [".pth", ".pt", ".safetensors"])
@pytest.mark.parametrize("half", [False, True])
def test_files_of_every_kind_load_as_float32(tmp_path, suffix, half):
    net = randomise(ARCHITECTURES["resnet_nano"].build())
    path = tmp_path / f"weights{suffix}"
    if suffix == ".safetensors":
        save(net, path, half=half)
    else:
        state = {name: (t.half() if half and t.is_floating_point() else t) for name, t in net.state_dict().items()}
        torch.save({"epoch": 3, "state_dict": {f"module.{name}": t for name, t in state.items()}}, path)
    backbone = Backbone("resnet_nano", str(path))
    assert {parameter.dtype for parameter in backbone.parameters()} == {torch.float32}
    expected = net.conv1.weight.half().float() if half else net.conv1.weight
    assert torch.equal(backbone.stages[0][0].weight, expected)


def test_a_file_with_a_classifier_loads_and_one_of_features_alone_too(tmp_path):
    net = randomise(torchvision.models.squeezenet1_1())
    whole = Backbone("squeezenet1_1", save(net, tmp_path / "whole.safetensors"))
    alone = Backbone("squeezenet1_1", save(net.features, tmp_path / "alone.safetensors"))
    for first, second in zip(whole.parameters(), alone.parameters(), strict=True):
        assert torch.equal(first, second)


def test_a_file_of_another_network_is_refused_and_told_apart(tmp_path, nano):
    net, path = nano
    with pytest.raises(WeightsError, match=r"nano.safetensors.*not the weights of resnet18.*missing.*layer1"):
        Backbone("resnet18", path)
    told = save(net, tmp_path / "told.safetensors", {"arch": "torchvision resnet_nano"})
    with pytest.raises(WeightsError, match=r"'torchvision resnet_nano'.*'resnet_tiny'"):
        Backbone("resnet_tiny", told)
    state = net.state_dict()
    del state["conv1.weight"]
    state["extra.weight"] = torch.zeros(1)
    state["layer1.conv1.weight"] = torch.zeros(1)
    torch.save(state, tmp_path / "cut.pth")
    with pytest.raises(
        WeightsError, match=r"1 missing \(conv1.weight\); 1 unexpected \(extra.weight\); 1 of another shape"
    ):
        Backbone("resnet_nano", str(tmp_path / "cut.pth"))


def test_files_without_counters_of_batches_load(tmp_path):
    state = {n: t for n, t in ARCHITECTURES["resnet_nano"].build().state_dict().items() if "num_batches" not in n}
    torch.save(state, tmp_path / "old.pth")
    Backbone("resnet_nano", str(tmp_path / "old.pth"))


@pytest.mark.parametrize("name", ["garbage.pth", "garbage.safetensors", "empty.pt", "garbage.zip"])
def test_garbage_is_one_error_that_names_the_file(tmp_path, name):
    (tmp_path / name).write_bytes(b"" if "empty" in name else b"not weights at all" * 10)
    with pytest.raises(WeightsError, match=name):
        Backbone("resnet_nano", str(tmp_path / name))


class Code:
    ran = False

    def __reduce__(self):
        return setattr, (Code, "ran", True)


def test_code_in_a_weights_file_is_not_run(tmp_path):
    (tmp_path / "code.pth").write_bytes(pickle.dumps(Code(), protocol=2))
    torch.save({"conv1.weight": Code()}, tmp_path / "zipped.pth")
    for name in ("code.pth", "zipped.pth"):
        with pytest.raises(WeightsError, match=name):
            Backbone("resnet_nano", str(tmp_path / name))
    assert not Code.ran


def test_a_file_without_tensors_and_no_file_are_refused(tmp_path):
    torch.save([1, 2], tmp_path / "list.pth")
    with pytest.raises(WeightsError, match="no tensors by name"):
        Backbone("resnet_nano", str(tmp_path / "list.pth"))
    with pytest.raises(WeightsError, match="no such file"):
        Backbone("resnet_nano", str(tmp_path / "absent.pth"))
    with pytest.raises(WeightsError, match="no such file"):
        weight_tag("imagenet1k_v7")


def test_imagenet_weights_are_torchvisions_first_version(monkeypatch):
    net, asked = randomise(torchvision.models.resnet18()), []

    def get_state_dict(self, **kwargs):
        asked.append((str(self), kwargs))
        return net.state_dict()

    monkeypatch.setattr(torchvision.models.ResNet18_Weights, "get_state_dict", get_state_dict)
    backbone = Backbone("resnet18", "imagenet1k_v1")
    assert asked[0][0] == "ResNet18_Weights.IMAGENET1K_V1"
    assert asked[0][1]["check_hash"]
    assert torch.equal(backbone.stages[0][0].weight, net.conv1.weight)
    assert backbone.weight_tag == "torchvision/imagenet1k_v1"
    with pytest.raises(WeightsError, match="no weights for resnet_tiny"):
        Backbone("resnet_tiny", "imagenet1k_v1")


@pytest.mark.parametrize("arch", [name for name, spec in ARCHITECTURES.items() if spec.pretrained])
def test_every_pretrained_network_has_first_version_weights_in_torchvision(arch):
    weights = getattr(torchvision.models, ARCHITECTURES[arch].pretrained).IMAGENET1K_V1
    assert tuple(weights.transforms().mean) == IMAGENET_MEAN
    assert tuple(weights.transforms().std) == IMAGENET_STD


def test_tag_of_a_file_is_its_name_and_content(tmp_path, nano):
    _, path = nano
    (tmp_path / "elsewhere").mkdir()
    copy = tmp_path / "elsewhere" / "nano.safetensors"
    copy.write_bytes(Path(path).read_bytes())
    assert weight_tag(str(copy)) == weight_tag(path)
    assert weight_tag(path).startswith("file:nano.safetensors@")
    other = save(randomise(ARCHITECTURES["resnet_nano"].build()), copy)
    assert weight_tag(other) != weight_tag(path)
    assert weight_tag(None) == Backbone("resnet_nano").weight_tag == "none"


def test_a_pool_cannot_be_dilated():
    with pytest.raises(ValueError, match="ask for fewer stages"):
        backbones.dilate(nn.Sequential(nn.MaxPool2d(2)), 1, 2)


def test_torchvisions_resnet_is_what_is_cut():
    assert isinstance(ARCHITECTURES["resnet18"].build(), ResNet)


def test_the_suites_own_weights_fit_their_network_and_say_where_they_are_from():
    state = Backbone("resnet_tiny", "toybirds_v1").state_dict()
    assert all(value.isfinite().all() for value in state.values() if value.is_floating_point())
    _, metadata = read_weights(str(SHIPPED["toybirds_v1"]))
    assert re.fullmatch(r"fgbench toybirds_others/baseline\.[0-9a-f]{8}\.s0 at commit [0-9a-f]{12}", metadata["source"])
    assert re.fullmatch("fgbench/toybirds_v1@[0-9a-f]{12}", weight_tag("toybirds_v1"))


def test_saved_weights_are_read_back_with_their_normalisation(tmp_path):
    backbone = Backbone("resnet_nano", mean=(0.25, 0.5, 0.75), std=(0.5, 0.5, 0.125))
    randomise(backbone)
    save_weights(backbone, tmp_path / "nano.safetensors", "a test")
    again = Backbone("resnet_nano", str(tmp_path / "nano.safetensors"))
    assert (again.mean, again.std) == ((0.25, 0.5, 0.75), (0.5, 0.5, 0.125))
    for name, value in backbone.state_dict().items():
        assert torch.equal(again.state_dict()[name], value), name
    assert [path.name for path in tmp_path.iterdir()] == ["nano.safetensors"]
    with pytest.raises(WeightsError, match="uses the whole network"):
        save_weights(Backbone("resnet_nano", stages=2), tmp_path / "part.safetensors", "a test")


# ---- strides removed


@pytest.mark.parametrize("arch", ["resnet18", "vgg16", "mobilenet_v2", "squeezenet1_1", "resnet_nano"])
def test_a_stage_without_its_stride_keeps_the_map_and_the_weights(arch):
    torch.manual_seed(0)
    plain = Backbone(arch)
    torch.manual_seed(0)
    fine = Backbone(arch, unstrided=(-1,))
    assert list(plain.state_dict()) == list(fine.state_dict())
    assert all(torch.equal(a, b) for a, b in zip(plain.parameters(), fine.parameters(), strict=True))
    assert fine.strides == (*plain.strides[:-1], plain.strides[-2])
    image = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        before = nn.Sequential(*list(fine.eval().stages)[:-1])(image)
        assert fine(image).shape[2:] == before.shape[2:]


def test_without_strides_every_second_cell_is_the_strided_map():
    """One 3 x 3 convolution of stride 1 holds all values of that of stride 2."""
    stage = nn.Sequential(nn.Conv2d(3, 4, 3, 2, 1), nn.ReLU())
    x = torch.randn(1, 3, 16, 16)
    expected = stage(x)
    backbones.unstride(stage)
    torch.testing.assert_close(stage(x)[..., ::2, ::2], expected)


def test_stages_that_cannot_lose_their_stride_are_refused():
    with pytest.raises(ValueError, match="stem"):
        Backbone("resnet18", unstrided=(0,))
    with pytest.raises(ValueError, match="exclude"):
        Backbone("resnet18", stride=16, unstrided=(2,))
    with pytest.raises(ValueError, match="among 1 to 4"):
        Backbone("resnet18", unstrided=(5,))


def test_pictures_get_back_the_bytes_that_were_normalised():
    backbone, image = Backbone("resnet_nano"), torch.randint(256, (2, 3, 5, 7), dtype=torch.uint8)
    assert torch.equal(backbone.to_bytes(backbone.normalise(image)), image)
