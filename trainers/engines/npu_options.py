"""Options of an Ascend NPU; needs no TensorFlow."""

import dataclasses
from typing import Optional

# How an NPU converts float32 operations; the third does not convert them.
PRECISION_MODES = (
    "allow_fp32_to_fp16",
    "allow_mix_precision",
    "must_keep_origin_dtype",
    "force_fp16",
)
DUMP_MODES = ("output", "input", "all")


@dataclasses.dataclass(frozen=True)
class NpuOptions:
    """How an Ascend NPU runs a graph; other devices ignore it.

    Attributes:
        precision_mode: one of `PRECISION_MODES`.
        iterations_per_loop: number of steps that the device makes before the host sees a result.
        profiling_dir: folder for a profile of the run; None for no profile.
        dump_dir: folder for the inputs and outputs of operations; None for no dump.
        dump_steps: steps that are dumped, such as "0|5|10"; None for all.
        dump_mode: one of `DUMP_MODES`: which tensors are dumped.

    Raises: ValueError.
    """

    precision_mode: str = PRECISION_MODES[0]
    iterations_per_loop: int = 1
    profiling_dir: Optional[str] = None
    dump_dir: Optional[str] = None
    dump_steps: Optional[str] = None
    dump_mode: str = DUMP_MODES[0]

    def __post_init__(self):
        for name, choices in (("precision_mode", PRECISION_MODES), ("dump_mode", DUMP_MODES)):
            if getattr(self, name) not in choices:
                raise ValueError(
                    f"{name} must be {' or '.join(choices)}, not {getattr(self, name)}"
                )
        if self.iterations_per_loop < 1:
            raise ValueError(
                f"iterations_per_loop must be 1 or more, not {self.iterations_per_loop}"
            )
        if self.dump_dir is None and (self.dump_steps or self.dump_mode != DUMP_MODES[0]):
            raise ValueError("dump_steps and dump_mode say what goes to dump_dir: give that, too")

    @property
    def sixteen_bits(self) -> bool:
        """Whether gradients may have 16 bits, so that the loss needs a scale."""
        return self.precision_mode != "must_keep_origin_dtype"


DEFAULTS = NpuOptions()
