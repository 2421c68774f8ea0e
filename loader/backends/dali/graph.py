"""The DALI graph: from encoded images and drawn numbers to views."""

import importlib
from typing import Any, Dict, Optional, Tuple

import numpy as np

from ...errors import PipelineError
from ...language import ops
from ..base import Config
from .batch_views import BatchViews, Planner, step_of
from .colors import apply

# Most inputs of `fn.stack`.
MAX_VIEWS = 999

_INTERPOLATION = {
    "bilinear": "INTERP_LINEAR",
    "nearest": "INTERP_NN",
    "bicubic": "INTERP_CUBIC",
    "area": "INTERP_GAUSSIAN",
}


def box(views: BatchViews) -> Tuple[np.ndarray, np.ndarray]:
    """Start and shape, [N, 2], of the box around all windows of each image."""
    start = views.start.min(1)
    return start, (views.start + views.shape).max(1) - start


class Graph:
    """Makes views from encoded images and drawn numbers.

    Each input except the encoded images is an array whose first dimension is the batch.

    Args:
        config: options of the Loader, of which it uses the plan, dtype, layout, device and dct.
        planner: planner that draws the numbers.

    Raises: PipelineError for an operation that DALI cannot carry out; ValueError for an option.
    """

    def __init__(self, config: Config, planner: Planner):
        if config.dct == "fast" and config.device != "cpu":
            raise ValueError("dct='fast' is libjpeg's, which decodes on a CPU only")
        self._config, self._planner = config, planner
        # The number and kinds of the inputs are the same in all batches, so they are taken from the
        # views of an arbitrary image.
        views = planner.draw([512], [512], [0], 0)
        self._views = len(views.turned)
        self._turned = views.turned
        self._colors = [color.kind for color in views.colors]
        self._inputs = {"encoded": np.zeros((1, 1), np.uint8), **self.inputs(views)}
        for op in config.plan.ops:
            if self._views > MAX_VIEWS and isinstance(op, (ops.Views, ops.Patches)):
                raise PipelineError(
                    f"{step_of(op)}: an image has {self._views} views, and DALI stacks at most "
                    f"{MAX_VIEWS}"
                )
            if isinstance(op, ops.Gray) and op.wrap:
                raise PipelineError(f"{step_of(op)}: DALI has no grey that wraps around")

    def inputs(self, views: BatchViews) -> Dict[str, np.ndarray]:
        """The numbers that go with a batch's encoded images, by name."""
        arrays: Dict[str, np.ndarray] = {}
        top_left, shape = box(views)
        if not self._planner.whole:
            arrays.update(box_start=top_left, box_shape=shape)
        for v in range(len(views.turned)):
            if self._planner.own_windows:
                arrays[f"start{v}"] = views.start[:, v] - top_left
                arrays[f"shape{v}"] = views.shape[:, v]
            arrays[f"roi_start{v}"] = views.roi_start[:, v]
            arrays[f"roi_end{v}"] = views.roi_end[:, v]
            if self._planner.method is None:
                arrays[f"method{v}"] = views.method[:, v].astype(np.int32)
        for number, color in enumerate(views.colors):
            if color.amount is not None:
                arrays[f"color{number}"] = color.amount[:, :, None, None, None]
        return {name: np.ascontiguousarray(array) for name, array in arrays.items()}

    def build(self, feed: Any) -> Any:
        """A DALI pipeline that calls `feed` for the inputs of each batch."""
        pipeline = self._pipeline(self._config.batch_size, self._config.prefetch)
        with pipeline:
            nodes = _fn().external_source(
                source=feed,
                num_outputs=len(self._inputs),
                dtype=[_dtype(array.dtype.name) for array in self._inputs.values()],
                ndim=[array.ndim - 1 for array in self._inputs.values()],
            )
            pipeline.set_outputs(self._define(dict(zip(self._inputs, nodes))))
        try:
            pipeline.build()
        except RuntimeError as error:
            if self._config.device == "cpu":
                raise
            raise ValueError(
                f"device {self._config.device!r} cannot be used by DALI: {_first_line(error)}"
            ) from error
        return pipeline

    def decode_alone(self, encoded: bytes, start: np.ndarray, shape: np.ndarray) -> None:
        """Decodes one image with DALI. Raises: ValueError if that fails."""
        pipeline = self._pipeline(1, 1)
        with pipeline:
            inputs = [[np.frombuffer(encoded, np.uint8)], [start], [shape]]
            nodes = _fn().external_source(source=lambda: inputs, num_outputs=3)
            pipeline.set_outputs(self._decode(*nodes))
        try:
            pipeline.run()
        except Exception as error:
            raise ValueError(f"DALI cannot decode the image: {_first_line(error)}") from error

    def _pipeline(self, batch_size: int, prefetch: int) -> Any:
        kind, _, number = self._config.device.partition(":")
        return importlib.import_module("nvidia.dali").Pipeline(
            batch_size=batch_size,
            num_threads=self._config.threads,
            device_id=None if kind == "cpu" else int(number or 0),
            prefetch_queue_depth=prefetch,
        )

    # The methods below build the graph. Views are [V, H, W, 3], at first float32 of [0, 255].

    def _define(self, nodes: Dict[str, Any]) -> Any:
        fn, config, plan = _fn(), self._config, self._config.plan
        image = self._decode(nodes["encoded"], nodes.get("box_start"), nodes.get("box_shape"))
        parts = [self._resample(image, nodes, v) for v in range(self._views)]
        shape = [len(parts), plan.height, plan.width, 3]
        views = fn.stack(*parts) if len(parts) > 1 else parts[0]
        views = fn.reshape(views, shape=shape, layout="FHWC")
        for number, kind in enumerate(self._colors):
            views = apply(views, kind, self._on_device(nodes.get(f"color{number}")))
        if config.dtype != "uint8":
            for op in plan.ops:
                if isinstance(op, ops.Normalize):
                    views = fn.crop_mirror_normalize(
                        views,
                        mean=[-bias / scale for bias, scale in zip(op.bias, op.scale)],
                        std=[1 / scale for scale in op.scale],
                        output_layout="FHWC",
                        dtype=_types().FLOAT,
                    )
                elif isinstance(op, ops.Standardize):
                    views = _standardize(views, 3 * plan.height * plan.width)
        if config.dtype == "uint8":
            views = fn.cast(views, dtype=_types().UINT8)
        if self._planner.in_turns:
            views = _turns(views)
        if config.dtype == "float16":  # only here, because `fn.flip` does not take float16
            views = fn.cast(views, dtype=_types().FLOAT16)
        views = fn.reshape(views, shape=[*plan.views, plan.height, plan.width, 3], layout="")
        if config.layout == "NCHW":
            axes = list(range(len(plan.views)))
            perm = [*axes, *(len(axes) + i for i in (2, 0, 1))]
            views = fn.transpose(views, perm=perm, transpose_layout=False)
        return views

    def _on_device(self, node: Any) -> Any:
        return node if node is None or self._config.device == "cpu" else node.gpu()

    def _decode(self, encoded: Any, start: Optional[Any], shape: Optional[Any]) -> Any:
        """The box of each image, or the whole image: uint8 [H, W, 3]."""
        options = {
            "device": "cpu" if self._config.device == "cpu" else "mixed",
            "output_type": _types().RGB,
            "adjust_orientation": False,
            "jpeg_fancy_upsampling": True,
            "use_fast_idct": self._config.dct == "fast",
        }
        if start is None:
            return _fn().decoders.image(encoded, **options)
        return _fn().decoders.image_slice(
            encoded, start=start, shape=shape, axis_names="HW", **options
        )

    def _resample(self, image: Any, nodes: Dict[str, Any], v: int) -> Any:
        """View number v, [H, W, 3]."""
        fn, planner, plan = _fn(), self._planner, self._config.plan
        if planner.own_windows:
            start, shape = nodes[f"start{v}"], nodes[f"shape{v}"]
            image = fn.slice(image, start=start, shape=shape, axis_names="HW")

        def by(method: str) -> Any:
            return fn.resize(
                image,
                size=[plan.width, plan.height] if self._turned[v] else [plan.height, plan.width],
                roi_start=nodes[f"roi_start{v}"],
                roi_end=nodes[f"roi_end{v}"],
                interp_type=getattr(_types(), _INTERPOLATION[method]),
                antialias=method == "area" or planner.antialias,
                dtype=_types().FLOAT,
            )

        if planner.method is None:
            view = fn.stack(*map(by, ops.METHODS))[nodes[f"method{v}"]]
        else:
            view = by(planner.method)
        if self._turned[v]:
            view = fn.transpose(view, perm=[1, 0, 2], transpose_layout=False)
        return view


def _standardize(views: Any, values: int) -> Any:
    reductions, over = _fn().reductions, {"axes": [1, 2, 3], "keep_dims": True}
    mean = reductions.mean(views, **over)
    std = reductions.std_dev(views, mean, **over)
    math = importlib.import_module("nvidia.dali.math")
    return (views - mean) / math.max(std, float(1 / np.sqrt(values)))


def _turns(views: Any) -> Any:
    """The views turned by 0, 90, 180 and 270 degrees: [V, S, S, 3] -> [V, 4, S, S, 3]."""
    fn = _fn()
    across = fn.transpose(views, perm=[0, 2, 1, 3], transpose_layout=False)
    return fn.stack(
        views,
        fn.flip(across, horizontal=0, vertical=1),
        fn.flip(views, horizontal=1, vertical=1),
        fn.flip(across, horizontal=1, vertical=0),
        axis=1,
    )


# DALI's modules. They are typed as Any, because DALI's own types are too wide for checks.


def _fn() -> Any:
    return importlib.import_module("nvidia.dali.fn")


def _types() -> Any:
    return importlib.import_module("nvidia.dali.types")


def _dtype(name: str) -> Any:
    return getattr(_types(), name.upper() if name != "float32" else "FLOAT")


def _first_line(error: BaseException) -> str:
    return next(iter(str(error).splitlines()), type(error).__name__)
