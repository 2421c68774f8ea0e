"""Steps against NVIDIA DALI's own operators, for what DALI has with the same meaning."""

import functools

import numpy as np
import pytest

pytest.importorskip("cv2", reason="OpenCV, which makes the JPEGs, is not installed")
dali = pytest.importorskip("nvidia.dali", reason="NVIDIA DALI is not installed")

import nvidia.dali.fn as fn
import nvidia.dali.types as types
from jpegs import jpeg
from pretexture.loader import Loader, TFRecords
from pretexture.loader.epoch.draws import Draws, random_resized_crop
from pretexture.loader.language.pipeline import Pipeline

HEIGHT, WIDTH = 160, 216


@pytest.fixture(scope="module")
def records(write_shards, tmp_path_factory):
    images = [jpeg(HEIGHT, WIDTH, seed=seed) for seed in range(3)]
    return TFRecords(write_shards(tmp_path_factory.mktemp("photographs"), images))


def views(records, text):
    """The native views, float32 [3, H, W, 3] of [0, 255]."""
    with Loader(records, text, 3, shuffle=False, seed=4) as loader:
        return next(iter(loader)).image.copy()


def by_dali(images, operator):
    """What an operator of DALI makes of the images."""

    @dali.pipeline_def(batch_size=1, num_threads=1, device_id=None)
    def graph(image):
        return operator(types.Constant(image, layout="HWC"))

    made = []
    for image in images:
        pipeline = graph(image)
        pipeline.build()
        made.append(np.asarray(pipeline.run()[0].as_tensor())[0])
    return np.stack(made).astype(np.float32)


@pytest.mark.parametrize("sigma, size", [(0.4, 5), (1.5, 15), (2.0, 23)])
def test_a_blur_is_dali_s_gaussian_blur(records, sigma, size):
    whole = views(records, f"crop({HEIGHT}, {WIDTH})")
    blurred = views(records, f"crop({HEIGHT}, {WIDTH})|blur({sigma}, kernel_size={size})")
    expected = by_dali(whole, lambda x: fn.gaussian_blur(x, sigma=sigma, window_size=size))
    assert np.abs(whole - expected).mean() > 0.1  # DALI has blurred
    np.testing.assert_allclose(blurred, expected, atol=0.02)


@pytest.mark.parametrize("factor", [0.3, 1.6])
def test_brightness_is_dali_s(records, factor):
    whole = views(records, f"crop({HEIGHT}, {WIDTH})")
    changed = views(
        records, f"crop({HEIGHT}, {WIDTH})|color_jitter(brightness=({factor}, {factor}))"
    )
    expected = by_dali(whole, lambda x: fn.brightness(x, brightness=factor)).clip(0, 255)
    np.testing.assert_allclose(changed, expected, atol=0.01)


@pytest.mark.parametrize("factor", [0.3, 1.6])
def test_contrast_is_dali_s_around_the_mean_of_the_luma(records, factor):
    whole = views(records, f"crop({HEIGHT}, {WIDTH})")
    changed = views(records, f"crop({HEIGHT}, {WIDTH})|color_jitter(contrast=({factor}, {factor}))")
    for image, found in zip(whole, changed):
        centre = float((image @ np.float32([0.2989, 0.587, 0.114])).mean())
        around = functools.partial(fn.contrast, contrast=factor, contrast_center=centre)
        np.testing.assert_allclose(found, by_dali([image], around)[0].clip(0, 255), atol=0.01)


def test_luma_is_dali_s_grey(records):
    whole = views(records, f"crop({HEIGHT}, {WIDTH})")
    gray = views(records, f"crop({HEIGHT}, {WIDTH})|gray(weights='luma')")
    expected = by_dali(
        whole.astype(np.uint8),
        lambda x: fn.color_space_conversion(x, image_type=types.RGB, output_type=types.GRAY),
    )
    np.testing.assert_allclose(gray, np.repeat(expected, 3, -1), atol=0.6)  # DALI's is in bytes


@pytest.mark.parametrize("method", ["bilinear", "bicubic"])
def test_a_random_resized_crop_is_dali_s_antialiased_resize_of_the_same_window(records, method):
    text = f"random_resized_crop(48, area=(0.5, 1), method='{method}')"
    (op,) = Pipeline(text).compile(True).only.ops
    whole, crops = views(records, f"crop({HEIGHT}, {WIDTH})"), views(records, text)
    kind = {"bilinear": types.INTERP_LINEAR, "bicubic": types.INTERP_CUBIC}[method]
    for record, found in enumerate(crops):
        draws = Draws(4, 0, record)
        top, left, height, width = random_resized_crop(
            draws, op.stream, 0, HEIGHT, WIDTH, op.area, op.aspect, op.log_aspect
        )
        window = whole[record, top : top + height, left : left + width]
        expected = by_dali(
            [window],
            lambda x: fn.resize(x, size=(48, 48), interp_type=kind, antialias=True),
        )
        # At the edges DALI repeats the outermost pixels, and here they are left out.
        inside = np.s_[3:-3, 3:-3]
        np.testing.assert_allclose(found[inside], expected[0].clip(0, 255)[inside], atol=0.05)
