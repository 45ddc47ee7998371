"""Small sets that TFDS's own machinery prepares: of every kind that is told apart."""

import numpy as np

GREY_SHAPE = (4, 5, 1)
NUMBERED_SHAPE = (8, 6, 3)
NUM_TRAIN, NUM_TEST = 100, 22


def grey_image(number):
    return np.random.default_rng(number).integers(0, 256, GREY_SHAPE, np.uint8)


def numbered_image(number):
    return np.random.default_rng(number).integers(0, 256, NUMBERED_SHAPE, np.uint8)


def prepare(folder):
    """Prepares all in a folder: fixed and varying size, odd features and splits.

    Once in a process: TFDS allows a name once.
    """
    import tensorflow_datasets as tfds

    tfds.disable_progress_bar()

    class Tiny(tfds.core.GeneratorBasedBuilder):
        VERSION = tfds.core.Version("1.0.0")

        def _info(self):
            return tfds.core.DatasetInfo(
                builder=self,
                features=tfds.features.FeaturesDict(self.features),
                supervised_keys=self.supervised_keys,
            )

        def _split_generators(self, dl_manager):
            return {name: enumerate(split) for name, split in self.splits().items()}

        def _generate_examples(self):
            raise NotImplementedError("The splits are given whole.")

    def make(name, features, splits, supervised_keys=None):
        body = {"features": features, "supervised_keys": supervised_keys}
        return type(name, (Tiny,), body | {"splits": staticmethod(splits)})

    def grey(start, stop, hidden=False):
        return [
            {"image": grey_image(i), "label": -1 if hidden else i % 3, "number": i}
            for i in range(start, stop)
        ]

    def colour(count):
        return [
            {"photo": np.full((3 + i, 9 - i, 3), 20 * i, np.uint8), "kind": i % 2}
            for i in range(count)
        ]

    def numbered(start, stop):
        return [{"image": numbered_image(i), "label": i} for i in range(start, stop)]

    def offline():
        raise ConnectionError("no network")

    image, label = tfds.features.Image, tfds.features.ClassLabel(num_classes=3)
    builders = [
        make(
            "TinyGrey",
            {"image": image(shape=GREY_SHAPE), "label": label, "number": np.int64},
            lambda: {
                "train": grey(0, 100),
                "test": grey(100, 110),
                "hidden": grey(110, 113, hidden=True),
            },
            supervised_keys=("image", "label"),
        ),
        # Found by the types of its features; no split "test".
        make(
            "TinyColour",
            {
                "photo": image(shape=(None, None, 3)),
                "kind": tfds.features.ClassLabel(names=["even", "odd"]),
            },
            lambda: {"train": colour(7), "validation": colour(4)},
        ),
        make(
            "TinyDeep",
            {"image": image(shape=(2, 2, 1), dtype=np.uint16), "label": label},
            lambda: {"train": [{"image": np.zeros((2, 2, 1), np.uint16), "label": 1}]},
        ),
        # Labels tell the examples apart. More files than are read at a time.
        make(
            "TinyNumbers",
            {
                "image": image(shape=NUMBERED_SHAPE),
                "label": tfds.features.ClassLabel(num_classes=NUM_TRAIN + NUM_TEST),
            },
            lambda: {
                "train": numbered(0, NUM_TRAIN),
                "test": numbered(NUM_TRAIN, NUM_TRAIN + NUM_TEST),
            },
            supervised_keys=("image", "label"),
        ),
        make(
            "TinyText",
            {"text": tfds.features.Text(), "label": label},
            lambda: {"train": [{"text": "one", "label": 1}]},
        ),
    ]
    make("TinyOffline", {"label": label}, offline)  # Registered, never prepared.
    # TFDS would interleave files by 16 records, were it not told to keep their order.
    shards = {"tiny_grey": 2, "tiny_numbers": 20}
    for builder in builders:
        config = tfds.download.DownloadConfig(num_shards=shards.get(builder.name, 1))
        builder(data_dir=folder).download_and_prepare(download_config=config)
