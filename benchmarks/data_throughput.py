"""How fast images are read: by this package, and plainly by TFDS.

Prints images per second, and per second of one core's work, of a prepared TFDS set:
training and test batches as a training reads them, TFDS's own decoding of whole images,
the same resized and batched, and reading without decoding. The readers take turns, so
that what else runs on the machine falls on all alike, and the medians are given.
"""

import argparse
import functools
import json
import os
import statistics
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
import tensorflow as tf
import tensorflow_datasets as tfds

from benchmarks.turns import by_clock, take_turns, timed
from rigl_keras import data


def readers(name, data_dir, *, preprocessing, batch_size, images):
    """What is measured: dict from names to functions that read `images` images."""
    ours = data.load(name, data_dir, preprocessing=preprocessing)
    if not isinstance(ours, data.StreamedImages):
        raise SystemExit(f"{name} is held in memory: nothing is read as training goes.")
    builder = tfds.builder(name, data_dir=data_dir)
    config = tfds.ReadConfig(try_autocache=False)
    undecoded = {
        key: tfds.decode.SkipDecoding()
        for key, feature in builder.info.features.items()
        if isinstance(feature, tfds.features.Image)
    }

    def plain(**options):
        examples = builder.as_dataset(split="train", read_config=config, **options)
        return examples.repeat().take(images)

    def naive():
        size, key = ours.input_shape[:2], next(iter(undecoded))
        examples = plain().map(
            lambda example: tf.image.resize(example[key], size, "bicubic"),
            num_parallel_calls=tf.data.AUTOTUNE,
        )
        return examples.batch(batch_size).prefetch(tf.data.AUTOTUNE)

    steps = images // batch_size
    return {
        "train_batches": lambda: ours.train_batches(batch_size, 0, steps, seed=0),
        "test_batches": lambda: ours.test_batches(batch_size).repeat().take(steps),
        "TFDS, decoded": plain,
        "TFDS, resized": naive,
        "TFDS, not decoded": lambda: plain(decoders=undecoded),
    }


def read(make):
    """Makes a data set and reads it to its end."""
    make().reduce(0, lambda count, _: count + 1)


def measure(makers, images, repetitions):
    """Times the readers in turn.

    Args:
      makers: what `readers` returns.
      images: int, how many each reads in a turn.
      repetitions: int >= 1, turns of each.

    Returns:
      A dict from names to dicts of medians.
    """
    for make in makers.values():  # Reads the files from disk and makes the graphs.
        read(make)
    contestants = {
        name: timed(functools.partial(read, make)) for name, make in makers.items()
    }
    times = by_clock(take_turns(contestants, repetitions))
    return {
        name: {
            "images_per_second": images / statistics.median(times["wall"][name]),
            "images_per_core_second": images / statistics.median(times["cpu"][name]),
        }
        for name in makers
    }


def show(medians):
    """Prints what `measure` returns as a table."""
    print(f"{'':20}{'images/s':>12}{'per core':>12}{'of decoding':>14}")
    decoding = medians["TFDS, decoded"]["images_per_core_second"]
    for name, row in medians.items():
        core = row["images_per_core_second"]
        print(
            f"{name:20}{row['images_per_second']:12.0f}{core:12.0f}"
            f"{core / decoding:14.2f}"
        )


def main():
    """Measures, prints a table, and writes it as JSON."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--name", default="imagenet2012", help="TFDS's, of the set")
    parser.add_argument("--data_dir", help="the folder of prepared TFDS sets")
    parser.add_argument("--preprocessing", choices=["inception", "pad_and_crop"])
    parser.add_argument("--batch_size", type=int, default=50)
    parser.add_argument("--images", type=int, default=2000, help="read at a time")
    parser.add_argument("--repetitions", type=int, default=5)
    parser.add_argument("--json", type=Path, help="a file to write the numbers to")
    args = parser.parse_args()
    images = args.images // args.batch_size * args.batch_size
    if not images:
        parser.error("--images must be --batch_size or more")
    makers = readers(
        args.name,
        args.data_dir,
        preprocessing=args.preprocessing,
        batch_size=args.batch_size,
        images=images,
    )
    medians = measure(makers, images, args.repetitions)
    print(f"{args.name}, {os.cpu_count()} cores, TensorFlow {tf.__version__}")
    show(medians)
    if args.json:
        args.json.write_text(json.dumps(medians, indent=2) + "\n")


if __name__ == "__main__":
    main()
