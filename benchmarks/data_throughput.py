"""How fast images are read: by this package, and plainly by TFDS.

Prints images per second, and per second of one core's work, of a prepared TFDS set:
training and test batches as a training reads them, TFDS's own decoding of whole images,
the same resized and batched, and reading without decoding. The readers take turns, so
that what else runs on the machine falls on all alike, and the medians are given.
"""

import argparse
import json
import os
import statistics
import time
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
import tensorflow as tf
import tensorflow_datasets as tfds

from rigl_keras import data


def readers(name, data_dir, preprocessing, batch_size, images):
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


def measure(make):
    """Reads a data set to its end; (seconds, seconds of all cores' work)."""
    dataset = make()
    wall, work = time.perf_counter(), time.process_time()
    dataset.reduce(0, lambda count, _: count + 1)
    return time.perf_counter() - wall, time.process_time() - work


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
        args.name, args.data_dir, args.preprocessing, args.batch_size, images
    )
    times = {name: [] for name in makers}
    # The first turn reads the files from disk and makes the graphs.
    for turn in range(1 + args.repetitions):
        for name, make in makers.items():
            seconds = measure(make)
            if turn:
                times[name].append(seconds)
    table = {
        name: {
            "images_per_second": images / statistics.median(wall for wall, _ in each),
            "images_per_core_second": images / statistics.median(w for _, w in each),
        }
        for name, each in times.items()
    }
    print(f"{args.name}, {os.cpu_count()} cores, TensorFlow {tf.__version__}")
    print(f"{'':20}{'images/s':>12}{'per core':>12}{'of decoding':>14}")
    decoding = table["TFDS, decoded"]["images_per_core_second"]
    for name, row in table.items():
        core = row["images_per_core_second"]
        print(
            f"{name:20}{row['images_per_second']:12.0f}{core:12.0f}"
            f"{core / decoding:14.2f}"
        )
    if args.json:
        args.json.write_text(json.dumps(table, indent=2) + "\n")


if __name__ == "__main__":
    main()
