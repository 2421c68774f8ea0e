"""Keras `model.fit` on the loader, with validation by a second loader, resumed after a kill.

    pip install "pretexture[tensorflow]"
    python docs/examples/fit_keras.py --data shards --classes 1000

Throughput: the loader's threads make batches ahead, so `.map`, `.prefetch` and options of `tf.data`
are not needed. Two loaders share the processors: give validation few threads.

Resuming: `BackupAndRestore` saves the model at the end of each epoch, and `keras_backup` makes
the loader continue with the first batch that the saved model was not trained on. (TensorFlow
draws batches ahead, so `loader.state_dict()` alone would be wrong.) Run the same command again.
For backups in mid-epoch, see `help(pretexture.loader.tensorflow.keras_backup)`.

Workers: `fit(workers=…)` of earlier Keras is for generators in Python; the loader needs none. With
MultiWorkerMirroredStrategy make the loader with `shard=(worker, workers)`.
"""

import argparse
import os

import keras
from pretexture.loader import Loader, imagenet
from pretexture.loader.tensorflow import dataset, keras_backup


def network(size: int, classes: int) -> keras.Model:
    """A small convolutional network. In its place take what you train."""
    layers: list[keras.Layer] = [keras.Input((size, size, 3))]
    for channels in (32, 64, 128):
        layers.append(keras.layers.Conv2D(channels, 3, 2, "same", use_bias=False))
        layers.append(keras.layers.BatchNormalization())
        layers.append(keras.layers.ReLU())
    layers += [keras.layers.GlobalAveragePooling2D(), keras.layers.Dense(classes)]
    return keras.Sequential(layers)


def main() -> None:
    """Trains."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data", required=True, help="folder of shards, as prepare writes them")
    parser.add_argument("--epochs", type=int, default=90)
    parser.add_argument("--batch-size", type=int, default=256)
    parser.add_argument("--size", type=int, default=224, help="side of a view in pixels")
    parser.add_argument("--classes", type=int, default=1000)
    parser.add_argument("--backup", default="keras-backup", help="folder, deleted at the end")
    args = parser.parse_args()

    keras.utils.set_random_seed(0)
    training = Loader(
        imagenet(args.data, "trainval"),
        f"random_resized_crop({args.size})|flip|normalize",
        args.batch_size,
    )
    # training=False: the same views in every epoch, in order, with the incomplete last batch.
    # A loader runs one epoch at a time, so validation during training has its own.
    validation = Loader(
        imagenet(args.data, "test"),
        f"random_resized_crop({args.size})|flip|normalize",
        args.batch_size,
        training=False,
        threads=2,
    )
    print(f"{len(training)} batches of training, {len(validation)} of validation")

    model = network(args.size, args.classes)
    model.compile(
        keras.optimizers.SGD(0.05, momentum=0.9),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
    )
    model.fit(
        dataset(training),
        epochs=args.epochs,
        validation_data=dataset(validation),
        callbacks=[
            keras.callbacks.BackupAndRestore(args.backup),
            # Beside the folder, which BackupAndRestore deletes at the end of the training.
            keras_backup(training, args.backup.rstrip(os.sep) + "-loader.json"),
        ],
        verbose=2,
    )
    stats = training.stats
    print(f"{stats.records} images, {stats.wait_seconds:.1f} seconds waited for them")
    training.close()
    validation.close()


if __name__ == "__main__":
    main()
