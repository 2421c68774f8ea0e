"""Shows what pipelines do to your images, on a local web page, while you type them.

A pipeline, or a preset, and its views of consecutive records: change a number and see the change,
draw again with another seed, switch between training and evaluation, compare two pipelines side by
side, and copy the sentence or the Python. A record that cannot be used is shown with its error.

The page is for this machine alone: its address, which is printed, has a random token. No file is
written but the index of the shards in the cache folder, and nothing comes from the network. If the
data are at a URL, the images come from a few shards only. Ctrl-C ends it.

    pretexture explore --data shards/
    pretexture explore --data 'shards/train-*' --pipeline 'resize(96)|patches(3)|jigsaw'
"""

import argparse
import os
import secrets
import sys
import threading
import warnings
import webbrowser
from typing import Any, Dict, List, Optional

from pretexture.loader import presets
from pretexture.loader.console.printable import printable
from pretexture.loader.console.redaction import redacted
from pretexture.loader.shards.imagenet import is_folder
from pretexture.scripts import flags


def main(arguments: Optional[List[str]] = None) -> int:
    """Runs the command; returns its exit status."""
    args = _parser().parse_args(arguments)
    with flags.short_errors(args.traceback):
        from pretexture.loader.explore import code, explorer, server
        from pretexture.loader.samples import open_sample

        presets.find(args.pipeline)
        # Python's grammar warns of what may be a mistake, and pipelines are parsed half typed.
        warnings.simplefilter("ignore", SyntaxWarning)
        storage, features = flags.storage(args), flags.features(args)
        records, classes = open_sample(args.data, args.split, storage=storage, features=features)
        shown = explorer.Explorer(records, classes)
        options: Dict[str, Any] = {**_given(storage), **features}
        title = printable(redacted(args.data))
        if is_folder(args.data):
            title += f" ({args.split})"
        token = secrets.token_urlsafe(24)
        app = server.make_app(
            shown, code.Code(records, args.data, args.split, options), title, args.pipeline, token
        )
        listening = server.listen(args.port)
        url = f"http://{server.HOST}:{listening.getsockname()[1]}/{token}/"
        print(f"{title}: {len(shown):,} records\n{url}\nCtrl-C ends it", flush=True)
        if not args.no_browser:
            open_browser(url)
        server.serve(app, listening)
    return 0


def _given(storage: Any) -> Dict[str, Any]:
    """The arguments about storage that are not the defaults."""
    return {name: value for name, value in vars(storage).items() if value is not None}


def open_browser(url: str) -> Optional[threading.Thread]:
    """Opens the page, if there is a screen. Without one it would be a browser in this terminal."""
    screen = sys.platform == "darwin" or os.name == "nt"
    if not screen and not any(map(os.environ.get, ("DISPLAY", "WAYLAND_DISPLAY", "BROWSER"))):
        return None
    # Some browsers let the caller wait, and the server must answer meanwhile.
    opening = threading.Thread(target=webbrowser.open, args=(url,), daemon=True)
    opening.start()
    return opening


def _port(text: str) -> int:
    value = int(text)
    if not 0 <= value < 65536:
        raise argparse.ArgumentTypeError(f"must be from 0 to 65535, not {value}")
    return value


def _parser() -> argparse.ArgumentParser:
    parser = flags.parser(__doc__)
    parser.add_argument(
        "--data",
        required=True,
        metavar="DIR|PATTERN|URL",
        help=f"{flags.DATA}, or a pattern that matches shards",
    )
    parser.add_argument(
        "--pipeline",
        default="ROTATION",
        metavar="NAME|TEXT",
        help="pipeline to begin with: a preset, or step(args)|step(args)|… (default: %(default)s)",
    )
    parser.add_argument(
        "--split",
        **flags.SPLIT,
        default="train",
        help="split of a folder (default: train)",
    )
    parser.add_argument(
        "--port",
        type=_port,
        default=0,
        metavar="N",
        help="port on this machine; 0 takes a free one (default: 0)",
    )
    parser.add_argument(
        "--no-browser",
        action="store_true",
        help="print the address only, and open no browser",
    )
    flags.add_storage_flags(parser)
    flags.add_feature_flags(parser)
    flags.add_traceback_flag(parser)
    return parser


if __name__ == "__main__":
    sys.exit(main())
