"""imagenet2012 as TFDS's own builder prepares it from archives like the real ones."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from imagenet_archives import CMYK_IMAGE, PNG_IMAGE, labels

from rigl_keras import data

pytestmark = pytest.mark.one_keras

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def images(imagenet_dir):
    return data.load("imagenet2012", imagenet_dir)


def records(folder, split):
    """File name, label and encoded image of each record, in the order of the files."""
    found = []
    for file in sorted((folder / "imagenet2012" / "5.1.0").glob(f"*-{split}.tfrec*")):
        for record in tf.data.TFRecordDataset([str(file)]):
            feature = tf.train.Example.FromString(record.numpy()).features.feature
            found.append(
                (
                    feature["file_name"].bytes_list.value[0].decode(),
                    feature["label"].int64_list.value[0],
                    feature["image"].bytes_list.value[0],
                )
            )
    return found


def test_the_archives_are_prepared_as_the_real_ones(imagenet_dir):
    train = records(imagenet_dir, "train")
    assert len(train) == 200
    assert {CMYK_IMAGE, PNG_IMAGE} <= {name for name, *_ in train}
    for name, label, encoded in train:
        assert labels()[label] == name.partition("_")[0]
        # TFDS made JPEGs of what is none in ImageNet.
        assert tf.io.is_jpeg(encoded)
    validation = records(imagenet_dir, "validation")
    assert len(validation) == 48
    assert {label for _, label, _ in validation} == {label for _, label, _ in train}
    # As in ImageNet's own list: number 3 is the first dog of its breed.
    named = {name: labels()[label] for name, label, _ in validation}
    assert named["ILSVRC2012_val_00000003.JPEG"] == PNG_IMAGE.partition("_")[0]
    channels = {tf.io.extract_jpeg_shape(jpeg).numpy()[2] for _, _, jpeg in validation}
    assert channels == {1, 3, 4}


def test_imagenet_is_read_by_default_as_resnets_read_it(images):
    assert isinstance(images, data.StreamedImages)
    assert (images.num_train, images.num_test) == (200, 48)
    assert (images.num_classes, images.input_shape) == (1000, (224, 224, 3))


def test_every_image_is_read_with_its_label(images, imagenet_dir):
    for split, (pixels, found) in (
        ("train", images.train_records(0, 200)),
        ("validation", images.test_records(0, 48)),
    ):
        expected = records(imagenet_dir, split)
        np.testing.assert_array_equal(found, [label for _, label, _ in expected])
        mean = pixels.mean((1, 2))
        for (_, _, jpeg), colour in zip(expected, mean, strict=True):
            whole = tf.io.decode_image(jpeg, channels=3).numpy() / 255
            means = (whole.mean((0, 1)) - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]
            # The border is cut off: coarse noise makes its mean another.
            assert np.abs(means - colour).max() < 0.6
        assert np.isfinite(pixels).all()


def test_a_resumed_run_sees_the_same_augmented_images(images):
    whole = list(images.train_batches(48, 0, 8, seed=1).as_numpy_iterator())
    resumed = list(images.train_batches(48, 5, 8, seed=1).as_numpy_iterator())
    assert len(resumed) == 3
    for one, other in zip(whole[5:], resumed, strict=True):
        np.testing.assert_array_equal(one[0], other[0])
        np.testing.assert_array_equal(one[1], other[1])
    first_epoch = np.concatenate([labels for _, labels in whole])[:192]
    assert np.unique(first_epoch, return_counts=True)[1].max() <= 50


def test_image_size_and_splits_can_be_chosen(imagenet_dir):
    images = data.load(
        "imagenet2012:5.1.0",
        imagenet_dir,
        image_size=(64, 48),
        train_split="train[:50%]",
        test_split="train[50%:]",
    )
    assert (images.num_train, images.num_test) == (100, 100)
    pixels, _ = next(images.train_batches(100, 0, 1, seed=0).as_numpy_iterator())
    assert pixels.shape == (100, 64, 48, 3)
    # Normalised, also under the name with a version.
    assert pixels.min() < -1


def test_small_imagenet_fits_in_memory(imagenet_dir):
    images = data.load(
        "imagenet2012", imagenet_dir, image_size=(16, 16), preprocessing="none"
    )
    assert isinstance(images, data.ImageData)
    assert images.train_images.shape == (200, 16, 16, 3)


@pytest.mark.parametrize("download", [False, True])
def test_how_to_prepare_imagenet_is_said(tmp_path, download):
    with pytest.raises(ValueError, match="tfds build imagenet2012") as raised:
        data.load("imagenet2012", data_dir=tmp_path, download=download)
    message = str(raised.value)
    assert "\n" not in message
    assert str(tmp_path / "downloads" / "manual") in message
    assert "ILSVRC2012_img_train.tar" in message


@pytest.mark.release
def test_throughput_is_measured(imagenet_dir, tmp_path):
    file = tmp_path / "throughput.json"
    command = [sys.executable, "-m", "benchmarks.data_throughput"]
    options = ["--images=60", "--repetitions=1", f"--data_dir={imagenet_dir}"]
    result = subprocess.run(
        [*command, *options, "--batch_size=20", f"--json={file}"],
        cwd=ROOT,
        check=True,
        capture_output=True,
        text=True,
    )
    numbers = json.loads(file.read_text())
    assert "train_batches" in result.stdout
    assert all(row["images_per_core_second"] > 0 for row in numbers.values())
