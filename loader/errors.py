"""The errors of the data pipeline."""

from typing import Optional

from .console.printable import printable
from .console.redaction import redacted


class PipelineError(ValueError):
    """A pipeline that cannot be parsed or carried out; the message names the step and why.

    Attributes:
        step: number of the step in its branch, counted from 0; None if no single step is wrong.
        branch: number of the branch, counted from 0; None if the pipeline has a single one.
    """

    step: Optional[int] = None
    branch: Optional[int] = None

    @classmethod
    def of_step(cls, number: int, step: str, reason: str) -> "PipelineError":
        """The error of step `number`, counted from 0, with the step as it is written."""
        name = f"step {number + 1}, {step}" if step else f"step {number + 1}"
        error = cls(f"{name}: {reason}")
        error.step = number
        return error

    def in_branch(self, number: int) -> "PipelineError":
        """The same error in branch `number`, counted from 0, of a pipeline with several."""
        error = PipelineError(f"branch {number + 1}, {self}")
        error.step, error.branch = self.step, number
        return error


class RecordError(ValueError):
    """A record that cannot be read, parsed or decoded.

    The message reads `PATH at byte OFFSET (record NUMBER): reason`. Control characters in it are
    escaped, and the secrets of URLs are hidden.

    Attributes:
        path: path or URL of the shard, or of the image's own file.
        offset: bytes from the start of the shard to the start of the record; None if the file is
            the record.
        record: record number in the data set; None if the record has no number, because the shard
            is broken at this place.
        reason: what is wrong.
    """

    def __init__(self, path: str, offset: Optional[int], record: Optional[int], reason: str):
        place = "" if offset is None else f" at byte {offset}"
        number = "" if record is None else f" (record {record})"
        super().__init__(printable(redacted(f"{path}{place}{number}: {reason}")))
        self.path = path
        self.offset = offset
        self.record = record
        self.reason = reason

    def __reduce__(self):
        return RecordError, (self.path, self.offset, self.record, self.reason)
