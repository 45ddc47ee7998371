"""Image classification data sets: held in memory, or streamed from their files.

Training batches are a function of the step alone, so that a resumed run sees the
batches it would have seen.
"""

from rigl_keras.data.in_memory import (
    ImageData,
    batches,
    evaluation_batches,
    fixed_batch,
)
from rigl_keras.data.loading import MAX_BYTES, load
from rigl_keras.data.streamed import StreamedImages

__all__ = [
    "MAX_BYTES",
    "ImageData",
    "StreamedImages",
    "batches",
    "evaluation_batches",
    "fixed_batch",
    "load",
]
