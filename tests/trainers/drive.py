"""`scripts/pretrain.py` with the recipes of `tiny`, for tests that kill it."""

import importlib.util
import os
import sys

import tiny

if __name__ == "__main__":
    tiny.register(lambda mapping, key, value: mapping.update({key: value}))
    root = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..")
    path = os.path.join(root, "scripts", "pretrain.py")
    spec = importlib.util.spec_from_file_location("pretrain", path)
    pretrain = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(pretrain)
    sys.exit(pretrain.main())
