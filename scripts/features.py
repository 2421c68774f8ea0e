"""Writes the features of a split's images to a file: the end points of a frozen network.

The ending of --out gives the format. A .npz file of NumPy has an array for each end point of the
export --module, and the arrays record (numbers of the records in the split), label (classes counted
from 0, -1 if a record has none) and, if they are known, classes (their names). A .parquet file has
the same as columns. With --plot, draws a picture in which similar images are close, coloured by
class.
"""

import argparse
import sys
from typing import List, Optional

from pretexture.loader.shards.record_options import RecordOptions
from pretexture.scripts import flags, run_flags
from pretexture.trainers.recipes import KNN


def main(arguments: Optional[List[str]] = None) -> int:
    """Runs the command; returns its exit status."""
    parser = _parser()
    args = parser.parse_args(arguments)
    for name in ("plot_method", "plot_end_point", "plot_images"):
        if getattr(args, name) is not None and args.plot is None:
            parser.error(f"argument --{name.replace('_', '-')}: only with argument --plot")
    with flags.short_errors(args.traceback, args.on_error):
        run_flags.import_tensorflow()
        from pretexture.trainers.transfer.feature_files import Picture, write_features
        from pretexture.trainers.transfer.representation import Representation

        storage = flags.storage(args)
        network = Representation(args.module, storage)
        recipe = run_flags.chosen_recipe(
            args, KNN.replace(pipeline=network.pipeline), run_flags.FEATURE_FIELDS
        )
        about = {
            "method": args.plot_method,
            "end_point": args.plot_end_point,
            "images": args.plot_images,
        }
        about = {name: value for name, value in about.items() if value is not None}
        write_features(
            recipe,
            args.data,
            args.split,
            network,
            args.out,
            end_points=args.end_points,
            picture=Picture(args.plot, **about) if args.plot else None,
            device=args.device,
            threads=args.threads,
            npu=run_flags.npu_options(args),
            storage=storage,
            records=RecordOptions(**flags.record_options(args)),
        )
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = flags.parser(__doc__)
    run_flags.add_module_flags(parser, "written")
    parser.add_argument(
        "--data", required=True, type=flags.place, metavar="DIR|URL", help=flags.DATA
    )
    parser.add_argument(
        "--out",
        required=True,
        type=flags.local,
        metavar="FILE",
        help="file to write, which ends in .npz or .parquet",
    )
    parser.add_argument(
        "--split",
        **flags.SPLIT,
        default="trainval",
        help="split whose images are shown to the network (default: trainval)",
    )
    parser.add_argument(
        "--plot", type=flags.local, metavar="FILE", help="picture to draw, such as features.png"
    )
    parser.add_argument(
        "--plot-method",
        choices=("tsne", "umap"),
        help="t-SNE of scikit-learn (default), or UMAP of umap-learn",
    )
    parser.add_argument(
        "--plot-end-point",
        metavar="NAME",
        help="end point of the picture (default: pre_logits, or else the last one)",
    )
    parser.add_argument(
        "--plot-images",
        type=flags.whole,
        metavar="N",
        help="number of images in the picture, drawn at random (default: 2000)",
    )
    run_flags.add_feature_flags(parser)
    return parser


if __name__ == "__main__":
    sys.exit(main())
