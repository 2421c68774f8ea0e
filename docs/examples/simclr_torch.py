"""SimCLR in plain PyTorch, in several processes; resumes with exactly the next batch.

    pip install "pretexture[torch]"
    torchrun --nproc-per-node 2 docs/examples/simclr_torch.py --data shards

Workers: each process makes a loader with `shard="auto"`, which asks torch.distributed for its rank.
Together the processes read every image once an epoch. Each has threads of its own, so divide the
machine's processors: `--threads`.

Resuming: run the same command again. The checkpoint has the loader's state of rank 0, which is good
for all ranks, because all are at the same batch. `elastic=True` also accepts it with another
`--nproc-per-node`, and continues after the last image that was read. `--batch-size` counts the
images of all processes together, so the batches then hold the same images.

Throughput: an image is decoded once for both views, and only the pixels that a view keeps are
computed.
"""

import argparse
import os

import torch
from pretexture.loader import Loader, imagenet
from pretexture.loader.torch import LoaderDataset
from torch import distributed, nn
from torch.nn import functional
from torch.nn.parallel import DistributedDataParallel

# The preset pretexture.loader.presets.SIMCLR, with another size.
PIPELINE = (
    "2*(random_resized_crop({size})|flip|color_jitter(0.8, 0.8, 0.8, 0.2, p=0.8)"
    "|gray(0.2, weights='luma')|blur(p=0.5)|range(0, 1))"
)


def network() -> nn.Module:
    """A small encoder with its projection head. In its place take what you train."""
    layers: list[nn.Module] = []
    for before, after in ((3, 32), (32, 64), (64, 128)):
        layers += [nn.Conv2d(before, after, 3, 2, 1), nn.GroupNorm(8, after), nn.ReLU()]
    head = [nn.Linear(128, 128), nn.ReLU(), nn.Linear(128, 64)]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), *head)


def nt_xent(first: torch.Tensor, second: torch.Tensor, temperature: float = 0.5) -> torch.Tensor:
    """The loss of Chen et al., 2020, equation 1, of two views [N, D], over all processes."""
    views = []
    for mine in (first, second):
        parts = [torch.empty_like(mine) for _ in range(distributed.get_world_size())]
        distributed.all_gather(parts, mine.detach())
        parts[distributed.get_rank()] = mine  # gradients flow to this process's images alone
        views.append(torch.cat(parts))
    embeddings = functional.normalize(torch.cat(views), dim=1)
    similarity = embeddings @ embeddings.T / temperature
    similarity.fill_diagonal_(-torch.inf)
    partner = torch.arange(len(similarity), device=first.device).roll(len(similarity) // 2)
    return functional.cross_entropy(similarity, partner)


def main() -> None:
    """Trains."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data", required=True, help="folder of shards, as prepare writes them")
    parser.add_argument("--steps", type=int, default=1000, help="steps to train in all")
    parser.add_argument("--batch-size", type=int, default=256, help="images of all processes")
    parser.add_argument("--size", type=int, default=224, help="side of a view in pixels")
    parser.add_argument("--threads", type=int, help="threads of each process's loader")
    parser.add_argument("--save-every", type=int, default=100, help="steps from save to save")
    parser.add_argument("--checkpoint", default="simclr.pt")
    args = parser.parse_args()

    cuda = torch.cuda.is_available()
    distributed.init_process_group("nccl" if cuda else "gloo")
    device = torch.device("cuda", int(os.environ["LOCAL_RANK"])) if cuda else torch.device("cpu")
    torch.manual_seed(0)
    model = DistributedDataParallel(network().to(device))
    optimizer = torch.optim.Adam(model.parameters(), 1e-3)

    loader = Loader(
        imagenet(args.data, "trainval"),
        PIPELINE.format(size=args.size),
        args.batch_size // distributed.get_world_size(),
        shard="auto",
        layout="NCHW",
        threads=args.threads,
    )
    step = 0
    if os.path.exists(args.checkpoint):
        saved = torch.load(args.checkpoint, map_location=device)
        model.module.load_state_dict(saved["model"])
        optimizer.load_state_dict(saved["optimizer"])
        loader.load_state_dict(saved["loader"], elastic=True)
        step = saved["step"]

    while step < args.steps:
        for image, _, _ in LoaderDataset(loader):  # the rest of the epoch, or the next one
            image = image.to(device)  # [N, 2, 3, H, W]
            first, second = model(image.flatten(0, 1)).unflatten(0, (-1, 2)).unbind(1)
            loss = nt_xent(first, second)
            optimizer.zero_grad()
            # Each process has the gradient of its own images. DDP averages, but a sum is needed.
            (loss * distributed.get_world_size()).backward()
            optimizer.step()
            step += 1
            if distributed.get_rank() == 0:
                print(f"step {step} loss {loss.item():.6f}", flush=True)
                if step % args.save_every == 0 or step == args.steps:
                    parts = {"model": model.module, "optimizer": optimizer, "loader": loader}
                    saved = {name: part.state_dict() for name, part in parts.items()}
                    torch.save({**saved, "step": step}, args.checkpoint + ".tmp")
                    os.replace(args.checkpoint + ".tmp", args.checkpoint)  # whole, or not at all
            if step == args.steps:
                break
    loader.close()
    distributed.destroy_process_group()


if __name__ == "__main__":
    main()
