"""What `summary` says of how kernels are stored."""

from tensorflow import keras

import rigl_keras

PATTERN = {"large": "blocks(16, 1, 'inputs')", "small": "blocks(16, 1, 'inputs')"}


def net():
    layers = [
        keras.Input((256,)),
        keras.layers.Dense(256, name="large"),
        keras.layers.Dense(16, name="small"),
        keras.layers.Dense(8, name="scattered"),
    ]
    return keras.Sequential(layers)


def sparse(sparsity, storage):
    pattern = {f"{name}/*": text for name, text in PATTERN.items()}
    return rigl_keras.sparsify(
        net(), sparsity, "uniform", pattern=pattern, storage=storage, verbose=False
    )


def printed(model):
    found = []
    data = rigl_keras.summary(model, print_fn=found.append)
    return data, found


def test_which_kernels_are_compressed_and_which_masked():
    data, found = printed(sparse(0.75, "compressed"))
    storage = {row.path: row.storage for row in data.rows if row.kind == "kernel"}
    assert storage == {
        "large/kernel": "compressed",
        "small/kernel": "compressed",
        "scattered/kernel": "masked",
    }
    assert "storage" in found[2]
    row = next(row for row in data.rows if row.path == "large/kernel")
    assert (row.shape, row.size, row.active) == ((256, 256), 256 * 256, 256 * 64)
    assert row.masked and row.pattern == PATTERN["large"]


def test_a_kernel_that_is_too_dense_or_too_small_is_named():
    [line] = [
        text for text in printed(sparse(0.75, "compressed"))[1] if "faster" in text
    ]
    assert line.endswith(": large/kernel, small/kernel")
    [line] = [
        text for text in printed(sparse(0.9, "compressed"))[1] if "faster" in text
    ]
    assert line.endswith(": small/kernel")


def test_masked_models_are_shown_without_storage():
    data, found = printed(sparse(0.75, "masked"))
    assert not any("storage" in text or "faster" in text for text in found)
    assert {row.storage for row in data.rows} == {"masked", None}


def test_costs_are_those_of_the_masked_model():
    masked, compressed = (
        rigl_keras.model_cost(sparse(0.75, storage))
        for storage in ("masked", "compressed")
    )
    assert masked == compressed
