"""Small generated scenes in which the answers of every pretext task are visible."""

import numpy as np
import trained
from pretexture.loader.shards.writer import TFRecordWriter, example

CLASSES = 4


def scene(random: np.random.RandomState, label: int) -> np.ndarray:
    """A scene, uint8 [72, 72, 3]: brighter towards the middle, redder above, bluer below.

    The colour of a disc shows the class; the hue of the whole differs from image to image.
    """
    rows, columns = np.mgrid[-1:1:72j, -1:1:72j]
    pixels = np.zeros((72, 72, 3)) + random.uniform(120, 200, 3)
    pixels -= 80 * np.hypot(rows, columns)[..., np.newaxis]
    pixels += 40 * rows[..., np.newaxis] * [-1, 0, 1]
    y, x = random.uniform(-0.4, 0.4, 2)
    colour = [(230, 30, 30), (30, 220, 30), (30, 30, 240), (240, 240, 30)][label]
    pixels[(rows - y) ** 2 + (columns - x) ** 2 < 0.1] = colour
    pixels += random.uniform(-15, 15, pixels.shape)
    return pixels.clip(0, 255).astype(np.uint8)


def write(folder) -> str:
    """Writes a shard of 64 scenes for training and one for evaluation; returns the folder."""
    random = np.random.RandomState(0)
    for shard in range(2):
        with TFRecordWriter(folder / f"train-{shard:05}-of-00002") as writer:
            for number in range(64):
                label = number % CLASSES
                encoded = trained.jpeg(scene(random, label), quality=90)
                writer.write(example({"image/encoded": encoded, "image/class/label": label + 1}))
    return str(folder)
