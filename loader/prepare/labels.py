"""Lists of labels for images that do not lie in class folders."""

import csv
import os
import re
from typing import Dict, List, NamedTuple, Optional, Sequence, Tuple

# The file that Tiny ImageNet has beside its validation images.
ANNOTATIONS = "val_annotations.txt"

# Names of columns, in lower case.
_FILE_COLUMNS = (
    *("imageid", "image_id", "image", "image_name", "img", "file", "filename", "file_name"),
    *("id", "name", "path"),
)
_LABEL_COLUMNS = (
    *("predictionstring", "label", "class", "class_name", "synset", "wnid", "category"),
    *("target", "breed"),
)
_IMAGE_NAME = re.compile(r"\S+\.(?:jpe?g|png)", re.IGNORECASE)
_WORDNET_ID = re.compile(r"n[0-9]{8}")


class LabelError(ValueError):
    """A list of labels that cannot be used; the message names it."""


class Labels(NamedTuple):
    """A list of labels.

    Attributes:
        path: path of the list.
        in_order: a label for each image, in the order of their names; empty if `by_name` is not.
        by_name: labels by the name of the image, with or without folders and suffix.
    """

    path: str
    in_order: List[str]
    by_name: Dict[str, str]

    def find(self, names: Sequence[str]) -> Optional[str]:
        """The label of the image that has all these names; None if the list has none of them."""
        for name in names:
            if name in self.by_name:
                return self.by_name[name]
        return None


def read_labels(path: str) -> Labels:
    """Reads a list of labels.

    The file is one of these:

    - a label on each line, for the images in the order of their names;
    - a table with columns for the image and its label, separated by commas or tabs. The first line
      may name the columns. Of `PredictionString`, as Kaggle's LOC_val_solution.csv has it, the
      first word is the label;
    - on each line the name of an image, a space and its label.

    Raises: LabelError; OSError if the file cannot be read.
    """
    with open(path, encoding="utf-8-sig", errors="surrogateescape", newline="") as file:
        text = file.read()
    lines = [line.strip() for line in text.splitlines()]
    lines = [line for line in lines if line]
    if not lines:
        raise LabelError(f"{path} has no labels")
    separator = next((sign for sign in "\t," if sign in lines[0]), None)
    if separator is not None:
        return Labels(path, [], _table(path, list(csv.reader(lines, delimiter=separator))))
    pairs = [line.rsplit(None, 1) for line in lines]
    if all(len(pair) == 2 and _IMAGE_NAME.fullmatch(pair[0]) for pair in pairs):
        return Labels(path, [], _table(path, pairs))
    return Labels(path, lines, {})


def _table(path: str, rows: List[List[str]]) -> Dict[str, str]:
    """The labels in a table, by the name of the image. Raises: LabelError."""
    file, label, first = _columns(path, [cell.strip().lower() for cell in rows[0]])
    several = first and rows[0][label].strip().lower() == "predictionstring"
    found: Dict[str, str] = {}
    for number, row in enumerate(rows[first:], 1 + first):
        if len(row) <= max(file, label) or not row[file].strip() or not row[label].strip():
            raise LabelError(f"{path}: row {number} has no image or no label")
        name = os.path.normpath(row[file].strip()).replace(os.sep, "/")
        text = row[label].strip()
        if several:
            text = text.split()[0]
        if found.setdefault(name, text) != text:
            raise LabelError(f"{path}: {name} has the labels {found[name]} and {text}")
    if not found:
        raise LabelError(f"{path} has no labels")
    return found


def _columns(path: str, names: Sequence[str]) -> Tuple[int, int, int]:
    """The columns of the image and of the label, and the number of lines that name columns."""
    if len(names) < 2:
        raise LabelError(f"{path} needs a column for images and one for labels")
    files = [names.index(name) for name in _FILE_COLUMNS if name in names]
    labels = [names.index(name) for name in _LABEL_COLUMNS if name in names]
    if not files and (not labels or _IMAGE_NAME.fullmatch(names[0])):
        return 0, 1, 0
    if len(names) == 2:
        files = files or [1 - labels[0]]
        labels = labels or [1 - files[0]]
    if not files or not labels:
        raise LabelError(
            f"{path} has the columns {', '.join(names)}; call that of the images file and that of "
            "the labels label"
        )
    return files[0], labels[0], 1


def class_names(texts: Sequence[str], classes: Sequence[str], path: str) -> List[str]:
    """The classes that labels mean, if the classes are known from folders.

    A label is the name of a class, or its number in the order of names, from 0.

    Args:
        texts: the labels, as the list has them.
        classes: names of the classes, sorted.
        path: path of the list, for errors.

    Raises: LabelError.
    """
    if set(texts) <= set(classes):
        return list(texts)
    if not all(re.fullmatch(r"[0-9]{1,9}", text) for text in texts):
        unknown = next(text for text in texts if text not in classes)
        raise LabelError(f"{path} has the label {unknown!r}, but there is no such class folder")
    numbers = [int(text) for text in texts]
    if min(numbers) == 0 and max(numbers) < len(classes):
        return [classes[number] for number in numbers]
    if min(numbers) > 0 and all(map(_WORDNET_ID.fullmatch, classes)):
        raise LabelError(
            f"{path} has numbers that do not count from 0. If they are those of ILSVRC's "
            "development kit, they are not in the order of the synsets' names: give a list with a "
            "synset, such as n01440764, for each image"
        )
    raise LabelError(
        f"{path} has numbers from {min(numbers)} to {max(numbers)} for {len(classes)} class "
        "folders; give names of classes, or numbers that count from 0"
    )


def in_order(names: Sequence[str]) -> List[str]:
    """The names of classes in the order of their labels: numbers by value, others by name."""
    if all(re.fullmatch(r"[0-9]{1,9}", name) for name in names):
        return sorted(names, key=lambda name: (int(name), name))
    return sorted(names)
