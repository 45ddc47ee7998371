"""Each preprocessing against NumPy's arithmetic and Pillow's decoding."""

import io

import numpy as np
import pytest
import tensorflow as tf
from imagenet_archives import encode
from PIL import Image

from rigl_keras.common.seeding import stateless_seed
from rigl_keras.data import preprocessing

pytestmark = pytest.mark.one_keras

MEAN = np.array([0.485, 0.456, 0.406])
DEVIATION = np.array([0.229, 0.224, 0.225])


def photo(height, width, channels=3):
    """A smooth image, of which JPEG loses little, with some noise."""
    generator = np.random.default_rng(height * width)
    coarse = generator.integers(0, 256, (5, 7, channels), np.uint8).squeeze()
    smooth = Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)
    noise = generator.normal(0, 4, (height, width, channels)).squeeze()
    return np.clip(np.asarray(smooth) + noise, 0, 255).astype(np.uint8)


def seeds(number):
    return lambda draw: stateless_seed("augmentation", 0, draw, step=number)


def make(name, image_shape, image_size=None, set_name="any"):
    return preprocessing.make(name, set_name, image_shape, image_size=image_size)


def pixels_of(normalized, mean=MEAN, deviation=DEVIATION):
    """Undoes the normalisation, to 0 ... 255."""
    return (np.asarray(normalized, np.float64) * deviation + mean) * 255


def bicubic(image, size):
    """Resizes by Keys's cubic, a = -1/2, over four pixels, none beyond the border."""

    def weights(old, new):
        distance = (np.arange(new)[:, None] + 0.5) * old / new - 0.5 - np.arange(old)
        x = np.abs(distance)
        near = 1.5 * x**3 - 2.5 * x**2 + 1
        far = -0.5 * x**3 + 2.5 * x**2 - 4 * x + 2
        taps = np.where(x <= 1, near, np.where(x < 2, far, 0))
        return taps / taps.sum(1, keepdims=True)

    rows = weights(image.shape[0], size[0])
    columns = weights(image.shape[1], size[1])
    return np.stack([rows @ image[..., c] @ columns.T for c in range(3)], axis=-1)


def central(image, height, width):
    top, left = (image.shape[0] - height) // 2, (image.shape[1] - width) // 2
    return image[top : top + height, left : left + width]


@pytest.mark.parametrize(
    ("shape", "size", "crop"),
    [
        ((200, 320), None, (175, 175)),  # 7/8 of 200
        ((333, 250), None, (219, 219)),  # 7/8 of 250 is 218.75
        ((40, 48), (64, 64), (35, 35)),  # Enlarged.
        ((200, 320), (32, 64), (140, 280)),  # Twice as wide as high; 7/8 of 160, 320.
    ],
)
@pytest.mark.parametrize("file_format", ["JPEG", "PNG"])
def test_inception_tests_on_the_centre(shape, size, crop, file_format):
    encoded = encode(photo(*shape), file_format=file_format)
    decoded = tf.io.decode_image(encoded).numpy()
    reading = make("inception", (None, None, 3), size)
    size = size or (224, 224)
    assert reading.input_shape == (*size, 3)
    found = reading.test(tf.constant(encoded))
    assert found.shape == (*size, 3) and found.dtype == tf.float32
    expected = bicubic(central(decoded, *crop), size)
    # A JPEG's parts are decoded with other neighbours at their borders.
    error = np.abs(pixels_of(found) - expected)
    assert error.mean() < 0.1 and error.max() < (8 if file_format == "JPEG" else 0.5)


@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
def test_colour_grey_and_cmyk_jpegs_become_what_pillow_makes_of_them(mode):
    encoded = encode(photo(128, 128), mode)
    decoded = np.asarray(Image.open(io.BytesIO(encoded)).convert("RGB"))
    # The crop is of the input's size: nothing is resized.
    reading = make("inception", (None, None, 3), (112, 112))
    error = pixels_of(reading.test(tf.constant(encoded))) - central(decoded, 112, 112)
    # TensorFlow's faster cosine transform, and the rounding of colours.
    assert np.abs(error).mean() < 1.5 and np.abs(error).max() < 12


def ramp(height, width):
    """An image whose red is its row and whose green is its column."""
    rows, columns = np.meshgrid(np.arange(height), np.arange(width), indexing="ij")
    return np.stack([rows, columns, 0 * rows], axis=-1).astype(np.uint8)


def test_inception_crops_at_random():
    height, width, side = 200, 250, 16
    encoded = tf.constant(encode(ramp(height, width), file_format="PNG"))
    reading = make("inception", (None, None, 3), (side, side))
    read = tf.function(lambda number: reading.train(encoded, seeds(number)))
    boxes, mirrored = [], 0
    for number in tf.range(400):
        image = pixels_of(read(number))
        # Inside, a cubic is exact on a ramp; a step is the crop's size over `side`.
        inner = image[3:-3, 3:-3]
        steps = np.diff(inner[..., 0], axis=0), np.diff(inner[..., 1], axis=1)
        down, right = (step.mean() for step in steps)
        np.testing.assert_allclose(steps[0], down, atol=0.5)
        np.testing.assert_allclose(steps[1], right, atol=0.5)
        mirrored += right < 0
        boxes.append([image[..., 0].min(), down * side, abs(right) * side])
    assert abs(mirrored - 200) < 5 * np.sqrt(400) / 2
    top, tall, wide = np.array(boxes).T
    area, ratio = tall * wide / (height * width), wide / tall
    # Whole pixels, and the measurement, round.
    assert 0.07 < area.min() < 0.12 and 0.8 < area.max() <= 1.02
    assert 0.73 < ratio.min() < 0.78 and 1.28 < ratio.max() < 1.36
    assert top.min() < 10 and top.max() > 100


def test_inception_crops_are_as_wide_as_the_input():
    encoded = tf.constant(encode(ramp(200, 250), file_format="PNG"))
    reading = make("inception", (None, None, 3), (16, 32))
    ratios = []
    for number in range(60):
        inner = pixels_of(reading.train(encoded, seeds(number)))[3:-3, 3:-3]
        tall = np.diff(inner[..., 0], axis=0).mean() * 16
        ratios.append(abs(np.diff(inner[..., 1], axis=1).mean()) * 32 / tall)
    assert min(ratios) > 1.45 and max(ratios) < 2.75  # 3/4 and 4/3 of 2


def test_inception_takes_the_centre_where_no_crop_fits():
    # At most 10 by 13 pixels, 4 % of the area, are not too wide.
    encoded = tf.constant(encode(photo(10, 300), file_format="PNG"))
    reading = make("inception", (None, None, 3), (8, 8))
    expected = reading.test(encoded).numpy()
    for number in range(10):
        found = reading.train(encoded, seeds(number)).numpy()
        mirrored = np.abs(found - expected[:, ::-1]).max() < 1e-5
        assert mirrored or np.abs(found - expected).max() < 1e-5


def test_inception_reads_the_same_part_of_a_jpeg_and_of_a_png():
    jpeg = encode(photo(150, 180))
    png = encode(tf.io.decode_image(jpeg).numpy(), file_format="PNG")
    reading = make("inception", (None, None, 3), (32, 32))
    for number in range(20):
        one, other = (
            pixels_of(reading.train(tf.constant(image), seeds(number)))
            for image in (jpeg, png)
        )
        assert np.abs(one - other).mean() < 0.5


def test_pad_and_crop_shifts_and_mirrors():
    image = np.random.default_rng(0).integers(0, 256, (21, 18, 3), np.uint8)
    encoded = tf.constant(encode(image, file_format="PNG"))
    reading = make("pad_and_crop", (21, 18, 3))
    padded = np.pad(image, [(4, 4), (4, 4), (0, 0)], mode="symmetric")
    places = {}
    for top in range(9):
        for left in range(9):
            window = padded[top : top + 21, left : left + 18]
            places[window.tobytes()] = (top, left, False)
            places[window[:, ::-1].tobytes()] = (top, left, True)
    read = tf.function(lambda number: reading.train(encoded, seeds(number)))
    found = [
        places[np.rint(pixels_of(read(number))).astype(np.uint8).tobytes()]
        for number in tf.range(500)
    ]
    tops, lefts, mirrored = zip(*found, strict=True)
    for shifts in (tops, lefts):
        _, counts = np.unique(shifts, return_counts=True)
        # The 0.9999 quantile of chi squared with 8 degrees of freedom.
        assert ((counts - 500 / 9) ** 2 / (500 / 9)).sum() < 31.8 and len(counts) == 9
    assert abs(sum(mirrored) - 250) < 5 * np.sqrt(500) / 2


@pytest.mark.parametrize(
    ("set_name", "channels", "mean", "deviation"),
    [
        ("any", 3, MEAN, DEVIATION),
        ("cifar10", 3, [0.4914, 0.4822, 0.4465], [0.2470, 0.2435, 0.2616]),
        ("cifar100", 3, [0.5071, 0.4865, 0.4409], [0.2673, 0.2564, 0.2762]),
        ("any", 1, [0.449], [0.226]),
    ],
)
def test_pad_and_crop_tests_on_the_normalised_image(
    set_name, channels, mean, deviation
):
    image = photo(9, 7, channels).reshape(9, 7, channels)
    encoded = encode(image.squeeze(), "L" if channels == 1 else "RGB", "PNG")
    reading = make("pad_and_crop", (9, 7, channels), set_name=set_name)
    expected = (image / 255 - mean) / deviation
    np.testing.assert_allclose(reading.test(encoded), expected, rtol=1e-4, atol=1e-5)


def test_pad_and_crop_reflects_at_least_its_padding():
    make("pad_and_crop", (4, 4, 3))
    with pytest.raises(ValueError, match="larger ones"):
        make("pad_and_crop", (3, 40, 3))
    make("pad_and_crop", (3, 40, 3), image_size=(8, 8))


@pytest.mark.parametrize("channels", [1, 3])
def test_none_leaves_images_as_they_are(channels):
    image = photo(6, 5, channels).reshape(6, 5, channels)
    encoded = encode(image.squeeze(), "L" if channels == 1 else "RGB", "PNG")
    reading = make("none", (6, 5, channels))
    for found in (reading.test(encoded), reading.train(encoded, seeds(0))):
        np.testing.assert_allclose(found, image / 255, rtol=1e-6)


@pytest.mark.parametrize(
    ("name", "image_shape", "expected"),
    [
        ("cifar10", (32, 32, 3), "pad_and_crop"),
        ("cifar100", (32, 32, 3), "pad_and_crop"),
        ("imagenet2012", (None, None, 3), "inception"),
        ("imagenette", (None, None, 3), "inception"),
        ("mnist", (28, 28, 1), "none"),
    ],
)
def test_sets_have_a_preprocessing_of_their_own(name, image_shape, expected):
    assert preprocessing.default_name(name, image_shape) == expected


def test_sizes_that_vary_are_refused_where_nothing_resizes():
    with pytest.raises(ValueError, match=r"set data\.image_size"):
        make("none", (None, None, 3))
    assert make("none", (None, None, 3), (8, 9)).input_shape == (8, 9, 3)
    assert make("inception", (None, None, 3)).input_shape == (224, 224, 3)
    with pytest.raises(ValueError, match="channels must be fixed"):
        make("inception", (None, None, None))
