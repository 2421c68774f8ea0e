"""Writes a trained network as a SavedModel, ONNX, PyTorch, frozen graph or offline model.

The network comes from a run (--workdir), or from a checkpoint or hub module of the published code,
github.com/google/revisiting-self-supervised (--published, with the flags that describe it).

The SavedModel has the signatures serving_default (image -> logits) and representation (image -> all
end points); pretexture.json beside it describes the network. An ONNX file has all end points as its
outputs. A file for PyTorch has the weights of a ResNet, which the module in torch_resnet.py takes.
All three take images of any size and any number of them. A frozen graph, and an offline model for
Ascend NPUs, take one size of image and one size of batch.
"""

import argparse
import sys
from typing import Any, List, Optional, Tuple

from pretexture.scripts import flags, run_flags


def main(arguments: Optional[List[str]] = None) -> int:
    """Runs the command; returns its exit status."""
    parser = _parser()
    args = parser.parse_args(arguments)
    _check(parser, args)
    with flags.short_errors(args.traceback):
        run_flags.import_tensorflow()
        from pretexture.trainers.exports import frozen
        from pretexture.trainers.exports import saved_model as export
        from pretexture.trainers.networks import layers

        # What is missing is an error before the first file is written.
        if args.onnx:
            from pretexture.trainers.exports import onnx_file
        if args.torch:
            from pretexture.trainers.exports import torch_file, torch_resnet
        source = _source(args)
        warning = layers.too_few_steps(source.description.step)
        if warning:
            print(warning, file=sys.stderr)
        if args.torch:
            torch_file.check(source)
        if args.out:
            print(f"wrote {export.write_saved_model(source, args.out)}")
        if args.onnx:
            end_points = onnx_file.write_onnx(source, args.onnx)
            print(f"wrote {args.onnx}: image [N, H, W, 3] -> {', '.join(end_points)}")
        if args.torch:
            torch_file.write_torch(source, args.torch)
            module = torch_resnet.__file__
            print(f"wrote {args.torch}: read it with load() of {module}, which needs only PyTorch")
        graph = args.frozen or (args.om and args.om[: -len(".om")] + ".pb")
        if graph:
            shape = (args.batch_size, *args.size, 3)
            end_points = frozen.write_frozen(source, graph, shape)
            print(f"wrote {graph}: image {list(shape)} -> {', '.join(end_points)}")
        if args.om:
            frozen.compile_offline(graph, args.om, args.soc_version, shape, end_points)
            print(f"wrote {args.om}")
    return 0


def _source(args: argparse.Namespace) -> Any:
    from pretexture.trainers.exports import published
    from pretexture.trainers.exports import saved_model as export
    from pretexture.trainers.recipes import Network
    from pretexture.trainers.runs.mirror import fetched

    if args.workdir:
        workdir = fetched(args.workdir, flags.storage(args), "export")
        return export.run_source(workdir, args.step)
    return published.source(
        published.Published(
            path=args.published,
            network=Network(
                architecture=args.architecture,
                mode=args.mode,
                filters_factor=args.filters_factor,
                last_relu=args.last_relu,
                patch_strides=args.patch_strides,
            ),
            num_classes=args.num_classes,
            pipeline=args.pipeline,
        )
    )


def _check(parser: argparse.ArgumentParser, args: argparse.Namespace) -> None:
    """Ends the process if flags contradict one another."""
    if not any(getattr(args, name) for name in _WRITTEN):
        parser.error(f"give at least one of {', '.join(f'--{name}' for name in _WRITTEN)}")
    for flag, names in _NEEDED.items():
        for name in names:
            if getattr(args, flag) and not getattr(args, name):
                parser.error(f"argument --{flag}: needs --{name.replace('_', '-')}")
    if args.om and not args.om.endswith(".om"):
        parser.error(f"argument --om: must end in .om, not {args.om!r}")
    if args.published and args.step:
        parser.error("argument --step: not allowed with argument --published")
    if args.size and not (args.frozen or args.om):
        parser.error("argument --size: only with --frozen or --om")
    for name, flag in _DESCRIBING.items():
        if args.workdir and getattr(args, name) != parser.get_default(name):
            parser.error(f"argument {flag}: only with --published, a run knows its network")


_WRITTEN = ("out", "onnx", "torch", "frozen", "om")
_NEEDED = {
    "frozen": ("size",),
    "om": ("size", "soc_version"),
    "published": ("architecture", "filters_factor", "num_classes"),
}
_DESCRIBING = {
    "architecture": "--architecture",
    "mode": "--mode",
    "filters_factor": "--filters-factor",
    "num_classes": "--num-classes",
    "patch_strides": "--patch-strides",
    "last_relu": "--no-last-relu",
    "pipeline": "--pipeline",
}


def _parser() -> argparse.ArgumentParser:
    parser = flags.parser(__doc__)
    which = parser.add_mutually_exclusive_group(required=True)
    which.add_argument("--workdir", type=flags.place, metavar="DIR|URL", help="a run's folder")
    which.add_argument(
        "--published",
        type=flags.place,
        metavar="PATH",
        help="a checkpoint, such as model.ckpt-25000, or the folder of a run or hub module",
    )
    parser.add_argument(
        "--out",
        type=flags.local,
        metavar="DIR",
        help="folder for the SavedModel; an export that is in it is replaced",
    )
    parser.add_argument(
        "--onnx", type=flags.local, metavar="FILE.onnx", help="file for an ONNX model"
    )
    parser.add_argument(
        "--torch",
        type=flags.local,
        metavar="FILE.pt",
        help="file for the weights of a ResNet, for PyTorch",
    )
    parser.add_argument(
        "--step",
        type=flags.whole,
        metavar="N",
        help="step of the run's checkpoint (default: the newest)",
    )
    flags.add_storage_flags(parser, data=False)
    flags.add_traceback_flag(parser)

    described = parser.add_argument_group("the network of a published checkpoint")
    described.add_argument(
        "--architecture", choices=("resnet50", "revnet50", "vgg19"), help="(no default)"
    )
    described.add_argument("--mode", choices=("v1", "v2"), default="v2", help="(default: v2)")
    described.add_argument("--filters-factor", type=float, metavar="X", help="widening factor")
    described.add_argument(
        "--num-classes",
        type=flags.whole,
        metavar="N",
        help="number of logits: classes, 4 rotations, or the length of an embedding",
    )
    described.add_argument(
        "--patch-strides", action="store_true", help="the network has the strides for patches"
    )
    described.add_argument(
        "--no-last-relu",
        dest="last_relu",
        action="store_false",
        help="the network does not end in a ReLU",
    )
    described.add_argument(
        "--pipeline",
        metavar="TEXT",
        help="pipeline that makes the network's input, a preset's name or step(args)|… "
        "(default: EVAL, or EVAL_PATCHES with --patch-strides)",
    )

    fixed = parser.add_argument_group("files for one size of image and batch")
    fixed.add_argument(
        "--frozen", type=flags.local, metavar="FILE.pb", help="writes a frozen graph"
    )
    fixed.add_argument(
        "--om",
        type=flags.local,
        metavar="FILE.om",
        help="writes an offline model with Huawei's compiler atc",
    )
    fixed.add_argument("--soc-version", metavar="NAME", help="type of the NPU, such as Ascend310")
    fixed.add_argument("--size", type=_size, metavar="H[,W]", help="size of an image, pixels")
    fixed.add_argument(
        "--batch-size",
        type=flags.whole,
        default=1,
        metavar="N",
        help="number of images at a time (default: 1)",
    )
    return parser


def _size(text: str) -> Tuple[int, int]:
    sides = [flags.whole(part) for part in text.split(",")]
    if len(sides) > 2:
        raise argparse.ArgumentTypeError(f"must be H or H,W, not {text!r}")
    return sides[0], sides[-1]


if __name__ == "__main__":
    sys.exit(main())
