"""Pipelines by name: those of the paper by pretext task, and those of methods that compare views.

The second group follows published code in every number. Its steps are those of torchvision, which
that code uses, or whose results equal the ones that it uses.
"""

from typing import Dict

from .language.pipeline import Pipeline

SUPERVISED = Pipeline("inception(224)")
ROTATION = Pipeline("inception(224)|rotate")
EXEMPLAR = Pipeline("gray(0.66)|inception(224, views=8)|standardize")
PATCHES = Pipeline("resize(292)|gray(0.66)|crop(255)|patches(3, jitter=21)|standardize")
EVAL = Pipeline("resize_small(256)|crop(224)|range(-1, 1)").named("EVAL")
EVAL_PATCHES = Pipeline("resize_small(224)|crop(192)|patches(3)|standardize").named("EVAL_PATCHES")

SIMCLR = Pipeline(
    "2*(random_resized_crop(224)|flip|color_jitter(0.8, 0.8, 0.8, 0.2, p=0.8)"
    "|gray(0.2, weights='luma')|blur(p=0.5)|range(0, 1))"
)
"""Two views as in Chen et al., "A Simple Framework for Contrastive Learning of Visual
Representations", 2020, appendix A: strength 1, and a blur of a tenth of the view."""

MOCO_V2 = Pipeline(
    "2*(random_resized_crop(224, area=(0.2, 1))|color_jitter(0.4, 0.4, 0.4, 0.1, p=0.8)"
    "|gray(0.2, weights='luma')|blur(p=0.5)|flip|normalize)"
)
"""Two views as in `main_moco.py --aug-plus` of facebookresearch/moco (Chen et al., "Improved
Baselines with Momentum Contrastive Learning", 2020)."""

_BYOL = (
    "random_resized_crop(224, method='bicubic')|flip|color_jitter(0.4, 0.4, 0.2, 0.1, p=0.8)"
    "|gray(0.2, weights='luma')"
)
BYOL = Pipeline(f"({_BYOL}|blur|normalize) + ({_BYOL}|blur(p=0.1)|solarize(p=0.2)|normalize)")
"""Two views that differ, as in Grill et al., "Bootstrap Your Own Latent", 2020, table 6."""

_SWAV = "|flip|color_jitter(0.8, 0.8, 0.8, 0.2, p=0.8)|gray(0.2, weights='luma')|blur(p=0.5)"
_SWAV += "|normalize((0.485, 0.456, 0.406), (0.228, 0.224, 0.225))"
SWAV = Pipeline(
    f"2*(random_resized_crop(224, area=(0.14, 1)){_SWAV})"
    f" + 6*(random_resized_crop(96, area=(0.05, 0.14)){_SWAV})"
)
"""Two large and six small views as in `src/multicropdataset.py` and the 2x224 + 6x96 scripts of
facebookresearch/swav (Caron et al., "Unsupervised Learning of Visual Features by Contrasting
Cluster Assignments", 2020)."""

_DINO = "|flip|color_jitter(0.4, 0.4, 0.2, 0.1, p=0.8)|gray(0.2, weights='luma')"
_DINO_LARGE = f"random_resized_crop(224, area=(0.4, 1), method='bicubic'){_DINO}"
DINO = Pipeline(
    f"({_DINO_LARGE}|blur|normalize)"
    f" + ({_DINO_LARGE}|blur(p=0.1)|solarize(p=0.2)|normalize)"
    f" + 8*(random_resized_crop(96, area=(0.05, 0.4), method='bicubic'){_DINO}"
    "|blur(p=0.5)|normalize)"
)
"""Two large views that differ and eight small ones, as in `DataAugmentationDINO` of
facebookresearch/dino with its default arguments (Caron et al., "Emerging Properties in
Self-Supervised Vision Transformers", 2021)."""

MAE = Pipeline("random_resized_crop(224, area=(0.2, 1), method='bicubic')|flip|normalize")
"""One view as in `main_pretrain.py` of facebookresearch/mae (He et al., "Masked Autoencoders Are
Scalable Vision Learners", 2021)."""

TORCHVISION = Pipeline("random_resized_crop(224)|flip|normalize")
"""One view as in torchvision's `references/classification`; in evaluation as in its preset
`ImageClassification`: the smaller side to 256 pixels, and the central 224 x 224."""

PAPER: Dict[str, Pipeline] = {
    "SUPERVISED": SUPERVISED,
    "ROTATION": ROTATION,
    "EXEMPLAR": EXEMPLAR,
    "PATCHES": PATCHES,
    "EVAL": EVAL,
    "EVAL_PATCHES": EVAL_PATCHES,
}
ALL: Dict[str, Pipeline] = {
    **PAPER,
    "SIMCLR": SIMCLR,
    "MOCO_V2": MOCO_V2,
    "BYOL": BYOL,
    "SWAV": SWAV,
    "DINO": DINO,
    "MAE": MAE,
    "TORCHVISION": TORCHVISION,
}


def find(text: str) -> Pipeline:
    """The preset of that name, in upper or lower case; otherwise the text as a pipeline.

    Raises: PipelineError.
    """
    return ALL.get(text.upper()) or Pipeline(text)
