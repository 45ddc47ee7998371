"""From an encoded image to the network's input.

A preprocessing has two readings of one image: `train`, augmented by random draws that
it is given the seeds of, and `test`, the same always.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable

import numpy as np
import tensorflow as tf

from rigl_keras.common.seeding import ALGORITHM

# Multiplied, not divided: the same rounding in NumPy and in every graph optimiser.
PIXEL_SCALE = np.float32(1 / 255)

# Mean and standard deviation of the training images' channels, of pixels in [0, 1].
# Those of ImageNet are the usual ones for any other set of photographs.
_IMAGENET_STATISTICS = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
_STATISTICS = {
    "cifar10": ((0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)),
    "cifar100": ((0.5071, 0.4865, 0.4409), (0.2673, 0.2564, 0.2762)),
}
# What sets are read by where nothing else is asked for, beside `default_name`'s rule.
_DEFAULTS = {
    "cifar10": "pad_and_crop",
    "cifar100": "pad_and_crop",
    "imagenet2012": "inception",
}

# Of draw i for one image: an int64 tensor [2], for stateless random operations.
Seeds = Callable[[int], tf.Tensor]
# (height, width, channels), None for a size that varies.
Shape = tuple[int | None, int | None, int | None]
Statistics = tuple[np.ndarray, np.ndarray]


class Preprocessing(ABC):
    """One way to read images.

    Args:
      image_shape: (height, width, channels) of the images, None for sizes that vary.
      input_shape: (height, width, channels) of what it returns.
    """

    def __init__(self, image_shape: Shape, input_shape: tuple[int, int, int]):
        self._image_shape = image_shape
        self.input_shape = input_shape

    @abstractmethod
    def train(self, encoded: tf.Tensor, seeds: Seeds) -> tf.Tensor:
        """Reads a training image.

        Args:
          encoded: string scalar, a JPEG, PNG or BMP.
          seeds: function from 0, 1, ... to the seed of that random draw.

        Returns:
          float32 tensor of shape `input_shape`.
        """

    @abstractmethod
    def test(self, encoded: tf.Tensor) -> tf.Tensor:
        """Reads an image without augmentation; see `train`."""

    def _decode(self, encoded):
        """Decodes a whole image: uint8 [height, width, channels]."""
        channels = self._image_shape[2]
        image = tf.io.decode_image(encoded, channels, expand_animations=False)
        return tf.ensure_shape(image, self._image_shape)

    def _decode_resized(self, encoded):
        """Decodes a whole image: uint8 of shape `input_shape`."""
        return resize(self._decode(encoded), self.input_shape[:2])


class Plain(Preprocessing):
    """Images as they are, or resized, in [0, 1]: as sets in memory are read."""

    def train(self, encoded: tf.Tensor, seeds: Seeds) -> tf.Tensor:
        """Reads as `test` does."""
        return self.test(encoded)

    def test(self, encoded: tf.Tensor) -> tf.Tensor:
        """Resizes with antialiasing, rounds as bytes, and divides by 255."""
        return tf.cast(self._decode_resized(encoded), tf.float32) * PIXEL_SCALE


class PadAndCrop(Preprocessing):
    """CIFAR's augmentation: shifts by up to 4 pixels and mirror images.

    A training image is padded by 4 pixels on each side with its own reflection, the
    border pixel included, cropped to its size at a random place, and mirrored half of
    the time. Reflection, not zeros, is what Wide ResNets (Zagoruyko & Komodakis 2016)
    and the RigL paper's CIFAR code pad with. Channels are normalised.

    Args:
      image_shape: see `Preprocessing`.
      input_shape: see `Preprocessing`; images are resized to it first.
      statistics: see `normalize`.
    """

    _PAD = 4

    def __init__(
        self,
        image_shape: Shape,
        input_shape: tuple[int, int, int],
        statistics: Statistics,
    ):
        super().__init__(image_shape, input_shape)
        if min(input_shape[:2]) < self._PAD:
            raise ValueError(
                f"data.preprocessing='pad_and_crop' reflects {self._PAD} pixels of "
                f"each side, and the images have shape {input_shape}: set "
                "data.image_size to larger ones, or data.preprocessing='none'."
            )
        self._statistics = statistics

    def train(self, encoded: tf.Tensor, seeds: Seeds) -> tf.Tensor:
        """Pads, crops, mirrors and normalises."""
        pad = self._PAD
        pixels = self._decode_resized(encoded)
        padded = tf.pad(pixels, [[pad, pad], [pad, pad], [0, 0]], "SYMMETRIC")
        corner = tf.random.stateless_uniform(
            [2], seeds(0), 0, 2 * pad + 1, tf.int32, alg=ALGORITHM
        )
        cropped = tf.slice(padded, tf.concat([corner, [0]], 0), self.input_shape)
        return normalize(_mirror_half(cropped, seeds(1)), self._statistics)

    def test(self, encoded: tf.Tensor) -> tf.Tensor:
        """Normalises the image as it is."""
        return normalize(self._decode_resized(encoded), self._statistics)


class Inception(Preprocessing):
    """ImageNet's augmentation (Szegedy et al. 2015), as for ResNets and RigL.

    A training image is a random crop of 8 to 100 % of the area, 3/4 to 4/3 as wide as
    high, resized and mirrored half of the time; where 10 draws fit no such crop, the
    test crop. The test crop is central and 224/256 of the shorter side: what is
    left when the shorter side is resized to 256 and the centre of 224 cut out. Both are
    resized bicubic, without antialiasing, as the ResNets that RigL was measured on.
    Only the crop is decoded of a JPEG. Channels are normalised.

    Args:
      image_shape: see `Preprocessing`.
      input_shape: see `Preprocessing`. Where it is not square, the crops are as much
        wider as it is.
      statistics: see `normalize`.
    """

    _AREA = (0.08, 1.0)
    _ASPECT_RATIO = (3 / 4, 4 / 3)
    _ATTEMPTS = 10
    _TEST_SHARE = 224 / 256

    def __init__(
        self,
        image_shape: Shape,
        input_shape: tuple[int, int, int],
        statistics: Statistics,
    ):
        super().__init__(image_shape, input_shape)
        self._statistics = statistics

    def train(self, encoded: tf.Tensor, seeds: Seeds) -> tf.Tensor:
        """Crops at random, resizes, mirrors and normalises."""
        crop = self._decode_crop(encoded, lambda size: self._random_box(size, seeds(0)))
        # While they are bytes, and mostly fewer.
        return self._finish(_mirror_half(crop, seeds(1)))

    def test(self, encoded: tf.Tensor) -> tf.Tensor:
        """Crops the centre, resizes and normalises."""
        return self._finish(self._decode_crop(encoded, self._central_box))

    def _finish(self, crop):
        bicubic = tf.image.ResizeMethod.BICUBIC
        pixels = tf.image.resize(crop, self.input_shape[:2], bicubic)
        return normalize(tf.ensure_shape(pixels, self.input_shape), self._statistics)

    def _decode_crop(self, encoded, choose_box):
        """Decodes the part of an image in `choose_box([height, width])`."""
        channels = self.input_shape[2]

        def jpeg():
            box = choose_box(tf.io.extract_jpeg_shape(encoded)[:2])
            return tf.io.decode_and_crop_jpeg(encoded, box, channels=channels)

        def other():
            image = self._decode(encoded)
            top, left, height, width = tf.unstack(choose_box(tf.shape(image)[:2]))
            return image[top : top + height, left : left + width]

        return tf.cond(tf.io.is_jpeg(encoded), jpeg, other)

    def _random_box(self, size, seed):
        """Draws (top, left, height, width) of a crop."""
        stretch = self.input_shape[1] / self.input_shape[0]
        begin, extent, _ = tf.image.stateless_sample_distorted_bounding_box(
            tf.concat([size, [self.input_shape[2]]], 0),
            # The object is anywhere.
            bounding_boxes=tf.constant([[[0.0, 0.0, 1.0, 1.0]]]),
            seed=seed,
            min_object_covered=0.0,
            aspect_ratio_range=[ratio * stretch for ratio in self._ASPECT_RATIO],
            area_range=self._AREA,
            max_attempts=self._ATTEMPTS,
        )
        box = tf.concat([begin[:2], extent[:2]], 0)
        # The whole image is what comes when no draw fits.
        failed = tf.reduce_all(tf.equal(extent[:2], size))
        return tf.where(failed, self._central_box(size), box)

    def _central_box(self, size):
        """The largest box of the input's shape in the image, less a border."""
        target = tf.constant(self.input_shape[:2], tf.float32)
        scale = tf.reduce_min(tf.cast(size, tf.float32) / target)
        extent = tf.cast(tf.round(self._TEST_SHARE * scale * target), tf.int32)
        extent = tf.maximum(extent, 1)
        return tf.concat([(size - extent) // 2, extent], 0)


NAMES = ("none", "pad_and_crop", "inception")


def default_name(name: str, image_shape: Shape) -> str:
    """Chooses how a set is read where nothing else is asked for.

    Args:
      name: of the set.
      image_shape: (height, width, channels), None for sizes that vary.

    Returns:
      One of `NAMES`: CIFAR's and ImageNet's own, "inception" for images of varying
      size, and "none" for others.
    """
    return _DEFAULTS.get(name, "inception" if None in image_shape else "none")


def make(
    preprocessing: str,
    name: str,
    image_shape: Shape,
    *,
    image_size: tuple[int, int] | None,
) -> Preprocessing:
    """Makes the preprocessing of a set.

    Args:
      preprocessing: one of `NAMES`.
      name: of the set, by which channels are normalised.
      image_shape: (height, width, channels) of its images, None for sizes that vary.
      image_size: (height, width) to read them at; None means as they are, or 224x224
        for "inception".

    Raises:
      ValueError: for an unknown name, or images that it cannot read.
    """
    if preprocessing not in NAMES:
        raise ValueError(
            f"data.preprocessing must be None or one of {NAMES}, got {preprocessing!r}."
        )
    size = image_size or ((224, 224) if preprocessing == "inception" else None)
    shape = input_shape(name, image_shape, size)
    if preprocessing == "none":
        return Plain(image_shape, shape)
    kind = Inception if preprocessing == "inception" else PadAndCrop
    return kind(image_shape, shape, statistics(name, shape[2]))


def input_shape(name, image_shape, image_size):
    """Finds the (height, width, channels) that the images will have.

    Args:
      name: of the set.
      image_shape: (height, width, channels) of its images, None for sizes that vary.
      image_size: (height, width) to resize to, or None.

    Raises:
      ValueError: if it would not be one shape.
    """
    shape = (*(image_size or image_shape[:2]), image_shape[2])
    if None in shape:
        raise ValueError(
            f"The images of {name!r} have no one shape {shape}: set data.image_size "
            "to (height, width) to resize them; the number of channels must be fixed."
        )
    return shape


def statistics(name: str, channels: int) -> Statistics:
    """Finds what to normalise a set's channels by.

    Args:
      name: of the set.
      channels: number of channels.

    Returns:
      (means, standard deviations) of pixels in [0, 1], float arrays [channels]: the
      set's own for CIFAR, those of ImageNet for others, and the average of these for
      each channel where there are not 3.
    """
    mean, deviation = map(np.array, _STATISTICS.get(name, _IMAGENET_STATISTICS))
    if len(mean) != channels:
        return np.full(channels, mean.mean()), np.full(channels, deviation.mean())
    return mean, deviation


def normalize(pixels: tf.Tensor, statistics: Statistics) -> tf.Tensor:
    """Subtracts the means and divides by the standard deviations.

    Args:
      pixels: tensor [height, width, channels] of 0 ... 255, of static shape.
      statistics: of pixels in [0, 1], see the function `statistics`.

    Returns:
      float32 tensor of the same shape.
    """
    _, width, channels = shape = pixels.shape
    mean, deviation = statistics
    # Along whole rows: a product along 3 channels takes several times as long.
    scale = np.tile(1 / (255 * deviation), width).astype(np.float32)
    offset = np.tile(-mean / deviation, width).astype(np.float32)
    rows = tf.reshape(tf.cast(pixels, tf.float32), [-1, width * channels])
    return tf.reshape(rows * scale + offset, shape)


def resize(images: tf.Tensor, image_size: tuple[int, int]) -> tf.Tensor:
    """Resizes images [..., height, width, channels] of 0 ... 255 to uint8, bilinear."""
    # Antialiasing changes nothing when images grow.
    resized = tf.image.resize(images, image_size, antialias=True)
    return tf.cast(tf.clip_by_value(tf.round(resized), 0, 255), tf.uint8)


def _mirror_half(image, seed):
    """Reverses the columns of an image half of the time."""
    mirrored = tf.random.stateless_uniform([], seed, alg=ALGORITHM) < 0.5
    return tf.cond(mirrored, lambda: tf.reverse(image, [1]), lambda: image)
