"""A picture of features: each image is a point in the plane, coloured by its class."""

from typing import Any, Dict, Sequence

import numpy as np
from pretexture.loader.pyplot import pyplot

METHODS = ("tsne", "umap")
_COLOURED = 20


def library(method: str) -> Any:
    """The class that places vectors in the plane.

    Raises: ImportError if its library is missing, ValueError for an unknown method.
    """
    if method not in METHODS:
        raise ValueError(f"method must be {' or '.join(METHODS)}, not {method!r}")
    try:
        if method == "umap":
            from umap import UMAP

            return UMAP
        from sklearn.manifold import TSNE

        return TSNE
    except ImportError as error:
        raise ImportError(f"{error}: pip install 'pretexture[{method}]'") from error


def plane(vectors: np.ndarray, method: str, seed: int = 0) -> np.ndarray:
    """Places vectors in the plane so that those with a high cosine are close.

    Args:
        vectors: float32 [N, size].
        method: "tsne" (van der Maaten and Hinton, 2008) or "umap" (McInnes et al., 2018).
        seed: random seed.

    Returns: float32 [N, 2].

    Raises: ValueError for fewer than 5 vectors, and as `library`.
    """
    count = len(vectors)
    if count < 5:
        raise ValueError(f"a picture of features needs 5 images or more, not {count}")
    # The squared distance of unit vectors is 2 - 2 x cosine.
    unit = vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
    how: Dict[str, Any] = {"random_state": seed}
    if method == "umap":
        how.update(n_neighbors=min(15, count - 1), n_jobs=1)
    else:
        how.update(perplexity=min(30.0, (count - 1) / 3), init="pca", learning_rate=200.0)
    return library(method)(**how).fit_transform(unit)


def scatter(
    points: np.ndarray, labels: np.ndarray, classes: Sequence[str], path: str, title: str
) -> None:
    """Draws points in the colours of their classes, with the names of the classes.

    If there are more than 20 classes, the 20 most frequent ones have colours, and the others are
    grey.

    Args:
        points: [N, 2].
        labels: int32 [N]; -1 for an image that has none.
        classes: names of the classes in the order of their labels; may be shorter.
        path: path of the picture; its ending gives the format.
        title: text above the picture.
    """
    found, counts = np.unique(labels, return_counts=True)
    frequent = sorted(found[np.argsort(-counts, kind="stable")][:_COLOURED])
    colours = pyplot.get_cmap("tab10" if len(frequent) <= 10 else "tab20")
    figure, axes = pyplot.subplots(figsize=(8, 6.4), layout="constrained")
    others = ~np.isin(labels, frequent)
    size = max(4.0, min(30.0, 12000 / len(points)))
    how: Dict[str, Any] = {"s": size, "linewidths": 0}
    if others.any():
        axes.scatter(*points[others].T, color="0.8", label="other classes", **how)
    for number, label in enumerate(frequent):
        name = "no class" if label < 0 else f"class {label}"
        if 0 <= label < len(classes):
            name = classes[label]
        chosen = points[labels == label]
        axes.scatter(*chosen.T, color=[colours(number)], label=_short(name), **how)
    axes.set_xticks([])
    axes.set_yticks([])
    axes.set_title(title, fontsize=10)
    axes.legend(loc="center left", bbox_to_anchor=(1, 0.5), markerscale=(40 / size) ** 0.5)
    figure.savefig(path, dpi=120)
    pyplot.close(figure)


def _short(name: str, most: int = 24) -> str:
    # Matplotlib leaves out of the legend what begins with an underscore, and reads formulas.
    name = name.lstrip("_").replace("$", r"\$")
    return name if len(name) <= most else f"{name[: most - 1]}…"
