import dataclasses
import shutil
import subprocess
import sys

import numpy as np
import pytest

pytest.importorskip("tensorflow")
torch = pytest.importorskip("torch")

import trained
from pretexture.trainers.exports import saved_model as export
from pretexture.trainers.exports import torch_resnet
from pretexture.trainers.exports.description import ExportError
from pretexture.trainers.exports.torch_file import write_torch
from pretexture.trainers.recipes import RECIPES
from pretexture.trainers.runs.checkpoints import CheckpointError

V2 = trained.VGG.replace(architecture="resnet50", filters_factor=0.25)
V1 = V2.replace(mode="v1")
PATCHES = RECIPES["jigsaw"].replace(filters_factor=0.25, embed_dim=6)
NETWORKS = {
    "v1": V1,
    "v1 with small root": V1.replace(small_root=True),
    "v1 of patches": PATCHES.replace(mode="v1"),
    "v2": V2,
    "v2 without last ReLU": V2.replace(last_relu=False),
    "v2 with small root": V2.replace(small_root=True, filters_factor=0.5),
    "v2 of patches": PATCHES,
}


def use(model, image):
    """The end points of a module of PyTorch, in TensorFlow's layout, by name."""
    with torch.no_grad():
        points = model(torch.from_numpy(image.transpose(0, 3, 1, 2)))
    return {
        name: (point.permute(0, 2, 3, 1) if point.ndim == 4 else point).numpy()
        for name, point in points.items()
    }


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run of a narrow ResNet, which tests must not change."""
    folder = tmp_path_factory.mktemp("run")
    trained.run(folder, V2)
    return str(folder)


@pytest.mark.parametrize("name", NETWORKS)
def test_torch_gives_the_networks_end_points_for_images_of_any_size(name, tmp_path):
    recipe = NETWORKS[name]
    values = trained.run(tmp_path / "run", recipe)
    path = tmp_path / "made" / "model.pt"
    write_torch(export.run_source(str(tmp_path / "run")), str(path))
    model = torch_resnet.load(str(path))
    images = [trained.images(1, 65, 96, 3), trained.images(3, 70, 67, 3)]
    for image, points in zip(images, trained.end_points(recipe, values, *images)):
        found = use(model, image)
        assert list(found) == list(points)
        trained.assert_agree(found, points)
    assert [file.name for file in path.parent.iterdir()] == ["model.pt"]


def test_a_torch_file_has_plain_values_that_say_what_it_is(run, tmp_path):
    path = str(tmp_path / "model.pt")
    source = export.run_source(run)
    write_torch(source, path)
    saved = torch.load(path, weights_only=True)
    assert saved["network"] == {
        "outputs": 4,
        "mode": "v2",
        "filters_factor": 0.25,
        "last_relu": True,
        "small_root": False,
        "patch_strides": False,
    }
    described = dataclasses.asdict(source.description)
    del described["end_points"]
    assert saved["description"] == described
    assert set(saved) == {"network", "state_dict", "description"}
    assert all(value.is_contiguous() for value in saved["state_dict"].values())


def test_torchs_module_is_one_file_that_needs_torch_alone(run, tmp_path):
    write_torch(export.run_source(run), str(tmp_path / "model.pt"))
    shutil.copy(torch_resnet.__file__, str(tmp_path / "torch_resnet.py"))
    script = """
import sys, torch, torch_resnet
model = torch_resnet.load("model.pt")
assert not model.training
print([(name, list(point.shape)) for name, point in model(torch.zeros(2, 3, 32, 64)).items()])
assert not {"pretexture", "tensorflow"} & set(sys.modules)
"""
    command = [sys.executable, "-c", script]
    said = subprocess.run(command, cwd=str(tmp_path), stdout=subprocess.PIPE, check=True).stdout
    # Strides 2 and, of the pooling, 2; then 1, 2, 2 and 2. Widths of a quarter of 16, times 4.
    assert said.decode().strip() == str(
        [
            ("after_root", [2, 4, 8, 16]),
            ("block1", [2, 16, 8, 16]),
            ("block2", [2, 32, 4, 8]),
            ("block3", [2, 64, 2, 4]),
            ("block4", [2, 128, 1, 2]),
            ("pre_logits", [2, 128]),
            ("logits", [2, 4]),
        ]
    )


def test_torchs_module_in_the_package_needs_no_tensorflow():
    script = """
import sys
sys.modules["tensorflow"] = None
from pretexture.trainers.exports import torch_resnet
"""
    subprocess.run([sys.executable, "-c", script], check=True)


def test_training_in_torch_averages_statistics_as_the_trainers_do(run, tmp_path):
    path = str(tmp_path / "model.pt")
    write_torch(export.run_source(run), path)
    model = torch_resnet.load(path)
    norm = model.blocks[0][0].norm1  # its input is the root's output
    before = norm.running_mean.numpy().copy()
    image = trained.images(4, 32, 32, 3)
    mean = use(model, image)["after_root"].mean((0, 1, 2))
    model.train()
    use(model, image)
    expected = 0.99 * before + 0.01 * mean
    np.testing.assert_allclose(norm.running_mean.numpy(), expected, atol=1e-6)


@pytest.mark.parametrize("architecture", ["revnet50", "vgg19"])
def test_torch_refuses_other_networks_and_names_the_formats_for_them(architecture, tmp_path):
    trained.run(tmp_path / "run", V2.replace(architecture=architecture))
    source = export.run_source(str(tmp_path / "run"))
    message = f"--torch takes resnet50 only, and this network is a {architecture}: .* --onnx"
    with pytest.raises(ExportError, match=message):
        write_torch(source, str(tmp_path / "made" / "model.pt"))
    assert not (tmp_path / "made").exists()


def test_an_existing_torch_file_is_replaced_only_by_a_complete_one(run, tmp_path):
    path = tmp_path / "model.pt"
    path.write_text("previous")
    source = export.run_source(run)
    wider = dataclasses.replace(source.description.network, filters_factor=0.5)
    description = dataclasses.replace(source.description, network=wider)
    with pytest.raises(CheckpointError, match=r"model\.ckpt-7000: .* variables do not fit"):
        write_torch(dataclasses.replace(source, description=description), str(path))
    broken = tmp_path / "broken"
    trained.run(broken, V2)
    (broken / "model.ckpt-7000.data-00000-of-00001").write_bytes(b"\0")
    with pytest.raises(CheckpointError, match=r"model\.ckpt-7000 is damaged"):
        write_torch(export.run_source(str(broken)), str(path))
    assert path.read_text() == "previous"
    write_torch(source, str(path))
    torch_resnet.load(str(path))
    assert sorted(file.name for file in tmp_path.iterdir()) == ["broken", "model.pt"]


def test_a_torch_module_refuses_what_the_trainers_refuse():
    with pytest.raises(ValueError, match="mode must be v1 or v2, not 'v3'"):
        torch_resnet.ResNet(4, mode="v3")
    with pytest.raises(ValueError, match="mode v1 always ends in a ReLU"):
        torch_resnet.ResNet(4, mode="v1", last_relu=False)
