"""A JAX input pipeline: global arrays, sharded over the devices of all processes.

    pip install pretexture jax
    python docs/examples/input_jax.py --data shards

Workers: run the same command in each process, on Slurm, Open MPI or TPU hosts, where
`jax.distributed.initialize()` finds the others by itself; elsewhere use `--coordinator`,
`--processes` and `--process`. `shard="auto"` asks jax.distributed, so each process reads other
records, and `jax.make_array_from_process_local_data` makes one global array of all their batches.

Throughput: the loader's threads make batches ahead, and JAX dispatches steps asynchronously, so the
next batch is copied to the devices while they compute. uint8 is a quarter of the bytes of float32;
normalise in the step, as here.

Resuming: `get_state` and `set_state` of the loader's iterator are those of grain's DataLoader, so
Orbax can save it with grain's checkpoint handler. Here, `loader.state_dict()` goes into a file.
"""

import argparse
import json
import os
from functools import partial
from typing import Iterator

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from pretexture.loader import Loader, imagenet


def batches(loader: Loader, sharding: NamedSharding) -> Iterator[tuple]:
    """One epoch of global arrays (image, label), sharded along the batch."""
    for batch in loader:
        yield tuple(
            jax.make_array_from_process_local_data(sharding, array)
            for array in (batch.image, batch.label)
        )


def loss_of(params: dict, image: jax.Array, label: jax.Array) -> jax.Array:
    """A linear classifier on small pictures. In its place take what you train."""
    image = image.astype(jnp.float32) / 127.5 - 1
    pooled = jax.image.resize(image, (len(image), 16, 16, 3), "linear").reshape(len(image), -1)
    scores = jax.nn.log_softmax(pooled @ params["weights"] + params["biases"])
    return -jnp.mean(jnp.take_along_axis(scores, label[:, None], axis=1))


@partial(jax.jit, donate_argnums=0)
def train_step(params: dict, image: jax.Array, label: jax.Array) -> tuple:
    """One step of SGD; JAX adds the gradients of all devices, because the batch is sharded."""
    loss, gradients = jax.value_and_grad(loss_of)(params, image, label)
    return jax.tree.map(lambda p, g: p - 0.01 * g, params, gradients), loss


def main() -> None:
    """Trains."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data", required=True, help="folder of shards, as prepare writes them")
    parser.add_argument("--steps", type=int, default=1000, help="steps to train in all")
    parser.add_argument("--batch-size", type=int, default=256, help="images of all processes")
    parser.add_argument("--size", type=int, default=224, help="side of a view in pixels")
    parser.add_argument("--checkpoint", default="jax-checkpoint", help="folder")
    parser.add_argument("--coordinator", help="address of process 0, as 10.0.0.1:1234")
    parser.add_argument("--processes", type=int)
    parser.add_argument("--process", type=int, help="number of this process, from 0")
    args = parser.parse_args()
    if args.coordinator or any(name in os.environ for name in ("SLURM_JOB_ID", "TPU_WORKER_ID")):
        jax.distributed.initialize(args.coordinator, args.processes, args.process)

    mesh = Mesh(np.array(jax.devices()), ("data",))
    over_batch = NamedSharding(mesh, PartitionSpec("data"))
    loader = Loader(
        imagenet(args.data, "trainval"),
        f"random_resized_crop({args.size})|flip",
        args.batch_size // jax.process_count(),
        shard="auto",
        dtype="uint8",
    )
    params = {"weights": np.zeros((16 * 16 * 3, 1000), np.float32), "biases": np.zeros(1000)}
    step = 0
    if os.path.exists(os.path.join(args.checkpoint, "state.json")):
        with open(os.path.join(args.checkpoint, "state.json"), encoding="utf-8") as file:
            saved = json.load(file)
        # elastic: this may be another process, or another number of processes.
        loader.load_state_dict(saved["loader"], elastic=True)
        step, params = saved["step"], dict(np.load(os.path.join(args.checkpoint, saved["params"])))
    params = jax.device_put(params, NamedSharding(mesh, PartitionSpec()))

    while step < args.steps:
        for image, label in batches(loader, over_batch):
            params, loss = train_step(params, image, label)
            step += 1
            if jax.process_index() == 0:
                print(f"step {step} loss {loss:.6f} batch {image.shape}", flush=True)
            if step == args.steps:
                break
    if jax.process_index() == 0:
        os.makedirs(args.checkpoint, exist_ok=True)
        np.savez(os.path.join(args.checkpoint, f"{step}.npz"), **params)
        state = {"step": step, "params": f"{step}.npz", "loader": loader.state_dict()}
        with open(os.path.join(args.checkpoint, "state.json"), "w", encoding="utf-8") as file:
            json.dump(state, file)
    loader.close()


if __name__ == "__main__":
    main()
