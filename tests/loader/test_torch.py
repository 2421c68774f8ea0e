"""A Loader as a PyTorch iterable dataset."""

import importlib
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


def test_a_data_loader_that_would_collate_batches_is_refused(torch, make):
    for size in (1, 32):
        with pytest.raises(RuntimeError, match="batch_size=None"):
            next(iter(torch.utils.data.DataLoader(make(), batch_size=size)))


def test_the_state_is_the_loaders(make):
    dataset = make()
    expected = [index.tolist() for _ in range(2) for *_, index in dataset]
    dataset = make()
    for _ in zip(range(3), dataset):
        pass
    state = dataset.state_dict()
    resumed = make()
    resumed.load_state_dict(state)
    rest = [index.tolist() for _ in range(2) for *_, index in resumed]
    assert rest[: len(expected) - state["batch"]] == expected[state["batch"] :]


def test_an_elastic_dataset_takes_the_state_of_another_rank(torch, shards):
    from pretexture.loader.torch import LoaderDataset

    loaders = [Loader(TFRecords(shards), "resize(8)", 5, shard=(rank, 2)) for rank in range(2)]
    with loaders[0], loaders[1]:
        expected = [index.tolist() for *_, index in LoaderDataset(loaders[1])]
        next(iter(loaders[0]))
        state = loaders[0].state_dict()
        with pytest.raises(ValueError, match="shard="):
            LoaderDataset(loaders[1]).load_state_dict(state)
        dataset = LoaderDataset(loaders[1], elastic=True)
        dataset.load_state_dict(state)
        assert [index.tolist() for *_, index in dataset] == expected[1:]


@pytest.mark.parametrize("taken", [0, 3, 7, 10])
def test_a_stateful_data_loader_continues_with_the_next_batch(make, taken):
    stateful = pytest.importorskip("torchdata.stateful_dataloader").StatefulDataLoader
    data = stateful(make(), batch_size=None)
    seen = [index.tolist() for _ in range(3) for *_, index in data]
    data = stateful(make(), batch_size=None)
    first = []
    while len(first) < taken:
        for *_, index in data:
            first.append(index.tolist())
            if len(first) == taken:
                state = data.state_dict()
                break
    if taken == 0:
        state = data.state_dict()
    resumed = stateful(make(), batch_size=None)
    resumed.load_state_dict(state)
    rest = [index.tolist() for _ in range(3) for *_, index in resumed]
    assert first == seen[:taken]
    assert rest[: len(seen) - taken] == seen[taken:]


RANKS = r"""
import sys, warnings
import torch.distributed as distributed
from pretexture.loader import Loader, TFRecords
from pretexture.loader.torch import LoaderDataset
rank, workers, store = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
distributed.init_process_group("gloo", init_method="file://" + store, rank=rank, world_size=2)
shard = (rank, 2) if workers == 2 else (0, 1)
with Loader(TFRecords(sys.argv[4:]), "resize(8)", 5, shard=shard, threads=1) as loader:
    dataset = LoaderDataset(loader)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for _ in range(2):
            list(dataset)
    print(*[warning.message for warning in caught if "shard" in str(warning.message)], sep="\n")
"""


@pytest.mark.parametrize("workers", [1, 2])
def test_ranks_that_read_the_same_records_are_warned(torch, workers, shards, tmp_path):
    command = [sys.executable, "-c", RANKS]
    runs = [
        subprocess.Popen(
            [*command, str(rank), str(workers), str(tmp_path / "store"), *shards],
            stdout=subprocess.PIPE,
            universal_newlines=True,
        )
        for rank in range(2)
    ]
    for rank, run in enumerate(runs):
        said, _ = run.communicate(timeout=100)
        assert run.returncode == 0
        lines = said.split("\n")[:-1]
        if workers == 2:
            assert lines == [""]
        else:
            assert len(lines) == 1
            assert f"this process is number {rank} of 2" in lines[0]
            assert f"shard='auto' or ({rank}, 2)" in lines[0]


def test_workers_of_a_data_loader_are_refused(torch, make):
    data = torch.utils.data.DataLoader(
        make(), batch_size=None, num_workers=1, multiprocessing_context="fork"
    )
    with pytest.raises(RuntimeError, match="num_workers=0"):
        next(iter(data))
    data = torch.utils.data.DataLoader(
        make(), batch_size=None, num_workers=1, multiprocessing_context="spawn"
    )
    with pytest.raises(RuntimeError, match="num_workers=0"):
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
