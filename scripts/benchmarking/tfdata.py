"""tf.data: the published pipeline on current TensorFlow, and the same steps written for speed.

`Published` follows the code that came with the paper (google/revisiting-self-supervised:
datasets.py, preprocess.py) and TF-Slim's Inception preprocessing in its fast mode: the JPEG is
decoded whole, converted to float, cropped, resized. `Fused` is what a careful user makes of it:
only the crop is decoded where one crop is taken, nothing is converted before it is small, patches
are standardised together.
"""

from typing import Any, Callable, Iterator, List, Tuple

import tensorflow as tf

from .jobs import Job, Source

# Records in the shuffle buffer; the published code keeps 10,000, which only takes more memory.
SHUFFLE = 1024
ASPECT, AREA = (3 / 4, 4 / 3), (0.05, 1.0)
GRAY = 0.66
VIEWS = 8


def open(job: Job) -> Source:
    """The dataset of a job. Raises: ImportError if TensorFlow is older than 2.7."""
    if not hasattr(tf.data.Options, "deterministic"):
        raise ImportError(f"tf.data is measured on TensorFlow 2.7 or later, not {tf.__version__}")
    tf.config.set_visible_devices([], "GPU")
    tf.config.threading.set_inter_op_parallelism_threads(job.threads)
    tf.config.threading.set_intra_op_parallelism_threads(job.threads)
    steps = Fused() if job.contender == "tfdata-fused" else Published()
    return _Dataset(batches(job, getattr(steps, job.task)))


class _Dataset(Source):
    def __init__(self, dataset: tf.data.Dataset):
        self._dataset = dataset

    def __iter__(self) -> Iterator[Tuple[Any, Any]]:
        return iter(self._dataset)


def batches(job: Job, views: Callable[[tf.Tensor], tf.Tensor]) -> tf.data.Dataset:
    """Endless batches of views and labels.

    Args:
        job: the shards, the batch size, the threads, the seed and the task.
        views: makes the views of an encoded image.
    """
    features = {
        "image/encoded": tf.io.FixedLenFeature([], tf.string),
        "image/class/label": tf.io.FixedLenFeature([], tf.int64),
    }

    def parse(value: tf.Tensor) -> Tuple[tf.Tensor, tf.Tensor]:
        example = tf.io.parse_single_example(value, features)
        label = tf.cast(example["image/class/label"], tf.int32) - 1
        if job.task == "rotation":
            label = tf.constant([0, 1, 2, 3])
        return views(example["image/encoded"]), label

    def shard(path: tf.Tensor) -> tf.data.Dataset:
        return tf.data.TFRecordDataset(path, buffer_size=8 << 20)

    paths = tf.data.Dataset.from_tensor_slices(list(job.paths))
    dataset = paths.shuffle(len(job.paths), seed=job.seed).repeat()
    dataset = dataset.interleave(
        shard, cycle_length=min(64, len(job.paths)), num_parallel_calls=job.threads
    )
    dataset = dataset.shuffle(SHUFFLE, seed=job.seed)
    dataset = dataset.map(parse, num_parallel_calls=job.threads)
    dataset = dataset.batch(job.batch_size, drop_remainder=True).prefetch(2)
    options = tf.data.Options()
    options.deterministic = False
    options.threading.private_threadpool_size = job.threads
    options.threading.max_intra_op_parallelism = 1
    options.autotune.cpu_budget = job.threads
    return dataset.with_options(options)


def _distort(image: tf.Tensor) -> tf.Tensor:
    """TF-Slim's `distort_color` in its fast mode, on values of [0, 1]."""

    def brightness(x: tf.Tensor) -> tf.Tensor:
        return tf.image.random_brightness(x, 32 / 255)

    def saturation(x: tf.Tensor) -> tf.Tensor:
        return tf.image.random_saturation(x, 0.5, 1.5)

    image = tf.cond(
        tf.random.uniform([]) < 0.25,
        lambda: saturation(brightness(image)),
        lambda: brightness(saturation(image)),
    )
    return tf.clip_by_value(image, 0.0, 1.0)


def _window(shape: tf.Tensor) -> Tuple[tf.Tensor, tf.Tensor]:
    """Begin and size of an Inception crop."""
    begin, size, _ = tf.image.sample_distorted_bounding_box(
        shape,
        tf.zeros([1, 0, 4]),
        min_object_covered=0.1,
        aspect_ratio_range=ASPECT,
        area_range=AREA,
        max_attempts=100,
        use_image_if_no_bounding_boxes=True,
    )
    return begin, size


def _gray(image: tf.Tensor) -> tf.Tensor:
    mean = tf.reduce_mean(tf.cast(image, tf.float32), axis=-1, keepdims=True)
    return tf.cast(tf.repeat(mean, 3, axis=-1), image.dtype)


def _maybe_gray(image: tf.Tensor) -> tf.Tensor:
    return tf.cond(tf.random.uniform([]) < GRAY, lambda: _gray(image), lambda: image)


def _turns(image: tf.Tensor) -> tf.Tensor:
    """The published code's four rotations."""
    return tf.stack(
        [
            image,
            tf.transpose(tf.reverse(image, [1]), [1, 0, 2]),
            tf.reverse(image, [0, 1]),
            tf.reverse(tf.transpose(image, [1, 0, 2]), [1]),
        ]
    )


def _cells(image: tf.Tensor, jitter: int) -> List[tf.Tensor]:
    """The 3 x 3 patches of an image, each at a random place in its cell."""
    cell = image.shape[0] // 3
    patches = []
    for row in range(3):
        for column in range(3):
            patch = tf.image.crop_to_bounding_box(image, row * cell, column * cell, cell, cell)
            if jitter:
                patch = tf.image.random_crop(patch, [cell - jitter, cell - jitter, 3])
            patches.append(patch)
    return patches


def _sides(shape: tf.Tensor, smaller: int) -> tf.Tensor:
    """Height and width after scaling the smaller side to `smaller`."""
    sides = tf.cast(shape[:2], tf.float32)
    return tf.cast(tf.round(sides * smaller / tf.reduce_min(sides)), tf.int32)


def _centre(image: tf.Tensor, side: int) -> tf.Tensor:
    top, left = (tf.shape(image)[0] - side) // 2, (tf.shape(image)[1] - side) // 2
    return tf.image.crop_to_bounding_box(image, top, left, side, side)


class Published:
    """The published steps, one method a task: from an encoded image to its views."""

    def supervised(self, encoded: tf.Tensor) -> tf.Tensor:
        """Inception preprocessing."""
        return self._inception(tf.image.decode_jpeg(encoded, channels=3))

    def small(self, encoded: tf.Tensor) -> tf.Tensor:
        """The same for views of 32 x 32 pixels."""
        return self._inception(tf.image.decode_jpeg(encoded, channels=3), 32)

    def rotation(self, encoded: tf.Tensor) -> tf.Tensor:
        """The same, four times turned."""
        return _turns(self.supervised(encoded))

    def exemplar(self, encoded: tf.Tensor) -> tf.Tensor:
        """Greyscale, then eight Inception preprocessings of the whole image, standardised."""
        image = _maybe_gray(tf.image.decode_jpeg(encoded, channels=3))
        views = tf.stack([self._inception(image) for _ in range(VIEWS)])
        return tf.map_fn(tf.image.per_image_standardization, views)

    def jigsaw(self, encoded: tf.Tensor) -> tf.Tensor:
        """Resize, greyscale, crop, patches, each standardised."""
        image = tf.image.resize(tf.image.decode_jpeg(encoded, channels=3), [292, 292])
        image = tf.image.random_crop(_maybe_gray(image), [255, 255, 3])
        return tf.map_fn(tf.image.per_image_standardization, tf.stack(_cells(image, 21)))

    def eval(self, encoded: tf.Tensor) -> tf.Tensor:
        """Area resize of the smaller side to 256, the central 224 x 224."""
        image = _centre(self._resize_small(encoded, 256), 224)
        return -1.0 + image / 255.0 * 2.0

    def eval_patches(self, encoded: tf.Tensor) -> tf.Tensor:
        """Area resize of the smaller side to 224, the central 192 x 192 in patches."""
        image = _centre(self._resize_small(encoded, 224), 192)
        image.set_shape([192, 192, 3])
        return tf.map_fn(tf.image.per_image_standardization, tf.stack(_cells(image, 0)))

    @staticmethod
    def _inception(image: tf.Tensor, side: int = 224) -> tf.Tensor:
        image = tf.image.convert_image_dtype(image, tf.float32)
        begin, size = _window(tf.shape(image))
        image = tf.image.resize(tf.slice(image, begin, size), [side, side])
        image.set_shape([side, side, 3])
        image = _distort(tf.image.random_flip_left_right(image))
        return (image - 0.5) * 2.0

    @staticmethod
    def _resize_small(encoded: tf.Tensor, smaller: int) -> tf.Tensor:
        image = tf.image.decode_jpeg(encoded, channels=3)
        return tf.image.resize(image, _sides(tf.shape(image), smaller), "area")


class Fused:
    """The same views by less work."""

    def supervised(self, encoded: tf.Tensor) -> tf.Tensor:
        """Decodes the crop alone."""
        return self._crop(encoded, 224)

    def small(self, encoded: tf.Tensor) -> tf.Tensor:
        """The same for views of 32 x 32 pixels."""
        return self._crop(encoded, 32)

    def _crop(self, encoded: tf.Tensor, side: int) -> tf.Tensor:
        begin, size = _window(tf.image.extract_jpeg_shape(encoded))
        window = tf.concat([begin[:2], size[:2]], 0)
        return self._finish(tf.image.decode_and_crop_jpeg(encoded, window, channels=3), side)

    def rotation(self, encoded: tf.Tensor) -> tf.Tensor:
        """The same, four times turned."""
        return _turns(self.supervised(encoded))

    def exemplar(self, encoded: tf.Tensor) -> tf.Tensor:
        """One decode; crops of uint8, grey once they are small."""
        image = tf.image.decode_jpeg(encoded, channels=3)
        gray = tf.random.uniform([]) < GRAY
        views = []
        for _ in range(VIEWS):
            begin, size = _window(tf.shape(image))
            views.append(self._finish(tf.slice(image, begin, size), 224, gray))
        return tf.image.per_image_standardization(tf.stack(views))

    def jigsaw(self, encoded: tf.Tensor) -> tf.Tensor:
        """Decodes what the crop of 255 x 255 out of 292 x 292 needs."""
        shape = tf.image.extract_jpeg_shape(encoded)[:2]
        offset = tf.random.uniform([2], 0, 292 - 255 + 1, tf.int32)
        image = tf.image.decode_and_crop_jpeg(
            encoded, tf.concat([offset * shape // 292, 255 * shape // 292], 0), channels=3
        )
        image = _maybe_gray(tf.image.resize(image, [255, 255]))
        return tf.image.per_image_standardization(tf.stack(_cells(image, 21)))

    def eval(self, encoded: tf.Tensor) -> tf.Tensor:
        """Decodes and resizes the central square alone."""
        return self._central(encoded, 224, 256) * (2.0 / 255.0) - 1.0

    def eval_patches(self, encoded: tf.Tensor) -> tf.Tensor:
        """The same, in patches."""
        image = self._central(encoded, 192, 224)
        return tf.image.per_image_standardization(tf.stack(_cells(image, 0)))

    @staticmethod
    def _finish(image: tf.Tensor, side: int, gray: Any = None) -> tf.Tensor:
        image = tf.image.resize(image, [side, side]) / 255.0
        image.set_shape([side, side, 3])
        if gray is not None:
            image = tf.cond(gray, lambda: _gray(image), lambda: image)
        return _distort(tf.image.random_flip_left_right(image)) * 2.0 - 1.0

    @staticmethod
    def _central(encoded: tf.Tensor, side: int, smaller: int) -> tf.Tensor:
        shape = tf.image.extract_jpeg_shape(encoded)[:2]
        square = tf.reduce_min(shape) * side // smaller
        window = tf.concat([(shape - square) // 2, [square, square]], 0)
        image = tf.image.decode_and_crop_jpeg(encoded, window, channels=3)
        image = tf.image.resize(image, [side, side], "area")
        image.set_shape([side, side, 3])
        return image
