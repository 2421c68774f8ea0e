"""Rotation pretraining in plain PyTorch: the network says how each view was turned.

    pip install "pretexture[torch,demo]"
    pretexture prepare --demo demo-data
    python docs/examples/rotation_torch.py --data demo-data --size 64 --batch-size 16

Throughput: the loader decodes on its own threads (all processors that this process may use) and
keeps two batches ready. "waits" in the output is the share of the time that training waited for
data; if it is near zero, the network is the limit. `--dtype uint8` moves normalisation to the GPU
and copies a quarter of the bytes.

Resuming: the checkpoint holds the loader's state, a few integers. Run the same command again after
an interruption, and training continues with exactly the next batch.

Workers: there are no worker processes to choose a number of; the loader has threads instead. For
several GPUs see simclr_torch.py.
"""

import argparse
import os
import time

import torch
from pretexture.loader import Loader, imagenet
from pretexture.loader.torch import LoaderDataset
from torch import nn


def network() -> nn.Module:
    """A small convolutional network. In its place take what you train."""
    layers: list[nn.Module] = []
    for before, after in ((3, 32), (32, 64), (64, 128)):
        layers += [nn.Conv2d(before, after, 3, 2, 1), nn.BatchNorm2d(after), nn.ReLU()]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(128, 4))


def save(path: str, **parts: dict) -> None:
    """Writes a checkpoint under another name first, so that a killed run leaves a whole one."""
    torch.save(parts, path + ".tmp")
    os.replace(path + ".tmp", path)


def main() -> None:
    """Trains."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data", required=True, help="folder of shards, as prepare writes them")
    parser.add_argument("--steps", type=int, default=1000, help="steps to train in all")
    parser.add_argument("--batch-size", type=int, default=64, help="images; each gives four views")
    parser.add_argument("--size", type=int, default=224, help="side of a view in pixels")
    parser.add_argument("--dtype", default="float32", choices=["float32", "uint8"])
    parser.add_argument("--save-every", type=int, default=100, help="steps from save to save")
    parser.add_argument("--checkpoint", default="rotation.pt")
    args = parser.parse_args()

    torch.manual_seed(0)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    model = network().to(device)
    optimizer = torch.optim.Adam(model.parameters(), 1e-3)

    # inception(…) is a random crop, a flip and a change of colours; rotate makes the four turned
    # views and their labels. Views that are float32 come in [-1, 1].
    loader = Loader(
        imagenet(args.data, "trainval"),
        f"inception({args.size})|rotate",
        args.batch_size,
        dtype=args.dtype,
        layout="NCHW",
        label_dtype="int64",  # as cross_entropy wants it
    )
    dataset = LoaderDataset(loader)

    step = 0
    if os.path.exists(args.checkpoint):
        saved = torch.load(args.checkpoint)
        model.load_state_dict(saved["model"])
        optimizer.load_state_dict(saved["optimizer"])
        dataset.load_state_dict(saved["loader"])
        step = saved["progress"]["step"]

    begin = time.perf_counter()
    first, waited = step, loader.stats.wait_seconds
    while step < args.steps:
        for image, label, _ in dataset:  # an epoch, or after load_state_dict the rest of one
            image = image.to(device).flatten(0, 1)  # [N, 4, 3, H, W] -> [4 N, 3, H, W]
            if image.dtype == torch.uint8:
                image = image.float() / 127.5 - 1
            loss = nn.functional.cross_entropy(model(image), label.to(device).flatten())
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            step += 1
            print(f"step {step} loss {loss.item():.6f}", flush=True)
            if step % args.save_every == 0 or step == args.steps:
                # The loader's state says which batch comes next, whatever its threads have made
                # ahead.
                save(
                    args.checkpoint,
                    model=model.state_dict(),
                    optimizer=optimizer.state_dict(),
                    loader=dataset.state_dict(),
                    progress={"step": step},
                )
            if step == args.steps:
                break
    seconds = time.perf_counter() - begin
    waited = loader.stats.wait_seconds - waited
    rate = (step - first) * args.batch_size / seconds
    print(f"{rate:.0f} images a second; waits {waited / seconds:.0%} of the time")
    loader.close()


if __name__ == "__main__":
    main()
