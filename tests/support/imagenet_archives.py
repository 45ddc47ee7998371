"""Small archives like ImageNet's (ILSVRC 2012), prepared by TFDS's own builder.

Names, labels and forms are the real ones: a tar of one tar per class, validation
images whose number decides their class, JPEGs of many sizes, some grey, some CMYK, and
one that is a PNG. What the images show is made up: a colour for each class, and noise.
"""

import colorsys
import io
import tarfile
from collections import Counter
from functools import cache

import numpy as np
from PIL import Image

# Training images that TFDS's builder knows to be CMYK, or a PNG, and turns into JPEGs.
CMYK_IMAGE = "n01739381_1309.JPEG"
PNG_IMAGE = "n02105855_2933.JPEG"


def prepared_imagenet(
    folder,
    train_per_class=50,
    classes=4,
    validation_per_class=12,
    sides=(100, 300),
    shards=4,
):
    """Writes archives into TFDS's folder for them and lets it prepare imagenet2012.

    Args:
      folder: where the prepared set goes, as `data.data_dir`.
      train_per_class: int >= 2.
      classes: int >= 2, how many of the 1,000 classes have images.
      validation_per_class: int in 1 ... 50.
      sides: the least and the greatest height and width of images, in pixels.
      shards: int >= 1, files of each split.

    Returns:
      TFDS's builder.
    """
    import tensorflow_datasets as tfds

    tfds.disable_progress_bar()
    write_archives(folder, train_per_class, classes, validation_per_class, sides)
    builder = tfds.builder("imagenet2012", data_dir=folder)
    config = tfds.download.DownloadConfig(
        num_shards=shards, try_download_gcs=False, compute_stats="skip"
    )
    builder.download_and_prepare(download_config=config)
    return builder


def write_archives(folder, train_per_class, classes, validation_per_class, sides):
    """Writes ILSVRC2012_img_train.tar and ILSVRC2012_img_val.tar."""
    names, numbers = _chosen(classes, validation_per_class)
    manual = folder / "downloads" / "manual"
    manual.mkdir(parents=True)
    generator = np.random.default_rng(0)
    hues = {name: i / classes for i, name in enumerate(names)}
    with tarfile.open(manual / "ILSVRC2012_img_train.tar", "w") as archive:
        for name in names:
            content = _class_archive(
                name, hues[name], train_per_class, sides, generator
            )
            _add(archive, f"{name}.tar", content)
    with tarfile.open(manual / "ILSVRC2012_img_val.tar", "w") as archive:
        # TFDS takes the i-th name's class for that of validation image i: where there
        # is no image, an empty folder has its name.
        for number in range(1, max(numbers) + 1):
            image = f"ILSVRC2012_val_{number:08}.JPEG"
            if number in numbers:
                pixels = picture(hues[numbers[number]], sides, generator)
                _add(archive, image, encode(pixels, _MODES[number % len(_MODES)]))
            else:
                folder_entry = tarfile.TarInfo(image)
                folder_entry.type = tarfile.DIRTYPE
                archive.addfile(folder_entry)


def picture(hue, sides, generator):
    """Makes a noisy image of a colour: uint8 array [height, width, 3]."""
    height, width = generator.integers(sides[0], sides[1] + 1, 2)
    colour = 255 * np.array(colorsys.hsv_to_rgb(hue, 0.7, 0.7))
    coarse = generator.normal(0, 40, (height // 32 + 2, width // 32 + 2, 3))
    coarse = coarse.repeat(32, 0).repeat(32, 1)[:height, :width]
    fine = generator.normal(0, 10, (height, width, 1))
    return np.clip(colour + coarse + fine, 0, 255).astype(np.uint8)


def encode(pixels, mode="RGB", file_format="JPEG"):
    """Encodes an image: "RGB", "L" (grey) or "CMYK"; as bytes."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).convert(mode).save(buffer, file_format, quality=90)
    return buffer.getvalue()


@cache
def labels():
    """The 1,000 classes, in the order of their numbers."""
    return _lines("labels.txt")


# Of ten images one is grey and one CMYK, which is more than in ImageNet.
_MODES = ["RGB"] * 8 + ["L", "CMYK"]


def _chosen(classes, validation_per_class):
    """Chooses classes, and the numbers of their first validation images."""
    special = [CMYK_IMAGE.partition("_")[0], PNG_IMAGE.partition("_")[0]]
    names = list(dict.fromkeys(special + _lines("validation_labels.txt")))[:classes]
    found, numbers = Counter(), {}
    for number, name in enumerate(_lines("validation_labels.txt"), start=1):
        if name in names and found[name] < validation_per_class:
            found[name] += 1
            numbers[number] = name
    return names, numbers


def _class_archive(name, hue, count, sides, generator):
    buffer = io.BytesIO()
    special = {CMYK_IMAGE: ("CMYK", "JPEG"), PNG_IMAGE: ("RGB", "PNG")}
    images = [image for image in special if image.startswith(name)]
    images += [f"{name}_{7 * i + 4}.JPEG" for i in range(count - len(images))]
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for i, image in enumerate(images):
            form = special.get(image, (_MODES[i % len(_MODES)], "JPEG"))
            _add(archive, image, encode(picture(hue, sides, generator), *form))
    return buffer.getvalue()


def _add(archive, name, content):
    entry = tarfile.TarInfo(name)
    entry.size = len(content)
    archive.addfile(entry, io.BytesIO(content))


def _lines(file):
    import tensorflow_datasets as tfds

    return tfds.core.tfds_path(f"datasets/imagenet2012/{file}").read_text().split()
