"""A Loader as a PyTorch iterable dataset."""

import importlib
import os
import subprocess
import sys
import textwrap

import numpy as np
import pytest
from pretexture.loader import Loader, TFRecords

pytestmark = pytest.mark.usefixtures("no_hang")


@pytest.fixture(scope="module")
def torch():
    return pytest.importorskip("torch")


@pytest.fixture
def make(torch, shards):
    from pretexture.loader.torch import LoaderDataset

    loaders = []

    def made(**kwargs):
        loaders.append(Loader(TFRecords(shards), "inception(24)|rotate", 5, threads=2, **kwargs))
        return LoaderDataset(loaders[-1])

    yield made
    for loader in loaders:
        loader.close()


def test_elements_are_the_loaders_batches(torch, make):
    loader = make().loader
    expected = [batch for _ in range(2) for batch in loader]
    dataset = make()
    elements = [element for _ in range(2) for element in dataset]
    assert len(dataset) == 7
    assert len(elements) == len(expected) == 14
    for element, batch in zip(elements, expected):
        assert [tensor.dtype for tensor in element] == [torch.float32, torch.int32, torch.int64]
        for tensor, array in zip(element, batch):
            np.testing.assert_array_equal(tensor.numpy(), array)


def test_tensors_share_the_loaders_memory_and_keep_it(make):
    dataset = make(dtype="uint8")
    kept = [image for _ in range(3) for image, _, _ in dataset]
    copies = [image.clone() for image in kept]
    for _ in dataset:
        pass
    assert len({image.data_ptr() for image in kept}) == len(kept)
    assert all(image.data_ptr() % 64 == 0 for image in kept)
    for image, copy in zip(kept, copies):
        assert (image == copy).all()


def test_dlpack_reaches_torch_without_a_copy(torch, make):
    (batch, *_) = make().loader
    tensor = torch.from_dlpack(batch.image)
    assert tensor.data_ptr() == batch.image.__array_interface__["data"][0]


def test_a_data_loader_takes_whole_batches(torch, make):
    expected = [batch.index for batch in make().loader]
    data = torch.utils.data.DataLoader(make(), batch_size=None)
    assert len(data) == 7
    for (_, _, index), other in zip(data, expected):
        np.testing.assert_array_equal(index.numpy(), other)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_used_loader_in_a_forked_worker_says_what_to_do(torch, make):
    dataset = make()
    next(iter(dataset))
    data = torch.utils.data.DataLoader(
        dataset, batch_size=None, num_workers=1, multiprocessing_context="fork"
    )
    with pytest.raises(RuntimeError, match="make it in the process that uses it"):
        next(iter(data))


def test_without_torch_one_line_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    monkeypatch.delitem(sys.modules, "pretexture.loader.torch", raising=False)
    with pytest.raises(ImportError, match=r"pip install .pretexture\[torch\]."):
        importlib.import_module("pretexture.loader.torch")


def test_the_loader_alone_imports_neither_torch_nor_tensorflow():
    script = """
        import sys
        import pretexture.loader
        assert not {"torch", "tensorflow", "cv2", "google.protobuf"} & set(sys.modules)
    """
    subprocess.run([sys.executable, "-c", textwrap.dedent(script)], check=True)
