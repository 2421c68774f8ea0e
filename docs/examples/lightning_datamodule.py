"""A Lightning DataModule whose checkpoints continue with exactly the next batch.

    pip install "pretexture[torch]" lightning
    python docs/examples/lightning_datamodule.py --data shards --steps 1000

Workers: Lightning starts a process for each device; `shard="auto"` gives each its share, so turn
Lightning's own sampler off (`use_distributed_sampler=False`). There is no `num_workers` to choose,
because the loader has threads of its own.

Resuming: Lightning puts the `state_dict` of the training data into each checkpoint, and restores it
with `trainer.fit(…, ckpt_path=…)`, in mid-epoch too. It saves the state of rank 0, which
`elastic=True` accepts on all ranks, and with another number of devices. Run the same command again.

Throughput: views are decoded, cropped and changed in colour by compiled threads that do not hold
Python's lock; a batch reaches PyTorch without a copy.
"""

import argparse
import os
from typing import Any

import lightning
import torch
from pretexture.loader import Loader, imagenet
from pretexture.loader.torch import LoaderDataset
from torch import nn


class Views(lightning.LightningDataModule):
    """Rotated views for training.

    Args:
        data: folder of shards.
        batch_size: images per batch and device; each gives four views.
        size: side of a view in pixels.
    """

    def __init__(self, data: str, batch_size: int, size: int):
        super().__init__()
        self.data, self.batch_size, self.size = data, batch_size, size
        self.loader: Any = None

    def setup(self, stage: str) -> None:
        """Makes the loader, in the process of each device."""
        self.loader = Loader(
            imagenet(self.data, "trainval"),
            f"inception({self.size})|rotate",
            self.batch_size,
            shard="auto",
            layout="NCHW",
            label_dtype="int64",
        )

    def train_dataloader(self) -> LoaderDataset:
        """Whole batches, without a DataLoader around them."""
        return LoaderDataset(self.loader, elastic=True)

    def teardown(self, stage: str) -> None:
        """Ends the loader's threads."""
        self.loader.close()


class Rotation(lightning.LightningModule):
    """A small network that says how a view was turned. In its place take what you train."""

    def __init__(self) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for before, after in ((3, 32), (32, 64), (64, 128)):
            layers += [nn.Conv2d(before, after, 3, 2, 1), nn.BatchNorm2d(after), nn.ReLU()]
        pool = [nn.AdaptiveAvgPool2d(1), nn.Flatten()]
        self.network = nn.Sequential(*layers, *pool, nn.Linear(128, 4))

    def training_step(self, batch: Any, number: int) -> torch.Tensor:
        """The cross-entropy of a batch; [N, 4, 3, H, W] are 4 N views."""
        scores = self.network(batch.image.flatten(0, 1))
        loss = nn.functional.cross_entropy(scores, batch.label.flatten())
        print(f"step {self.global_step + 1} loss {loss.item():.6f}", flush=True)
        return loss

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Adam."""
        return torch.optim.Adam(self.parameters(), 1e-3)


def main() -> None:
    """Trains."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data", required=True, help="folder of shards, as prepare writes them")
    parser.add_argument("--steps", type=int, default=1000, help="steps to train in all")
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--size", type=int, default=224, help="side of a view in pixels")
    parser.add_argument("--save-every", type=int, default=100, help="steps from save to save")
    parser.add_argument("--checkpoints", default="checkpoints", help="folder")
    args = parser.parse_args()

    lightning.seed_everything(0)
    save = lightning.pytorch.callbacks.ModelCheckpoint(
        args.checkpoints, "last", every_n_train_steps=args.save_every, enable_version_counter=False
    )
    trainer = lightning.Trainer(
        max_steps=args.steps, callbacks=[save], use_distributed_sampler=False, logger=False
    )
    last = os.path.join(args.checkpoints, "last.ckpt")
    views = Views(args.data, args.batch_size, args.size)
    trainer.fit(Rotation(), views, ckpt_path=last if os.path.exists(last) else None)


if __name__ == "__main__":
    main()
