"""A Loader as a PyTorch dataset."""

import numpy as np
import pytest
from pretexture.loader import Loader, TFRecords

torch = pytest.importorskip("torch")

from pretexture.loader.torch import LoaderDataset  # noqa: E402


def test_tensors_share_the_batches_memory_and_values(shards):
    options = {"seed": 4, "layout": "NCHW"}
    with Loader(TFRecords(shards), "inception(32)", 8, **options) as expected, Loader(
        TFRecords(shards), "inception(32)", 8, **options
    ) as loader:
        data = torch.utils.data.DataLoader(LoaderDataset(loader), batch_size=None)
        assert len(data) == 4
        count = 0
        for (image, label, index), want in zip(data, expected):
            assert image.shape == (8, 3, 32, 32)
            assert image.data_ptr() % 64 == 0
            assert np.array_equal(image.numpy(), want.image)
            assert np.array_equal(label.numpy(), want.label)
            assert np.array_equal(index.numpy(), want.index)
            count += 1
        assert count == 4
