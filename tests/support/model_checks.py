"""Everything that must hold when a model is trained sparsely, checked on any model."""

import os

import numpy as np
import tensorflow as tf
import tiny
from tensorflow import keras

import rigl_keras
from rigl_keras import RigL
from rigl_keras.core.kernels import find_kernels, walk

RATE, STEPS, BATCH = 0.05, 3, 4


def check_model(model, tmp_path, paths, frozen=(), still=(), is_loaded=True, x=None):
    """Makes a model sparse, trains it by RigL, saves, loads and strips it.

    Args:
      model: a built plain model; its weights are changed.
      tmp_path: a folder.
      paths: the kernels that are to have a mask.
      frozen: those of them that no training changes.
      still: those whose masks cannot be expected to change, being small or of a kernel
        without gradient.
      is_loaded: False for a model that plain Keras cannot load from a file either.
      x: inputs, or None for random ones.

    Returns:
      The stripped model.
    """
    shake(model)
    x = inputs_of(model) if x is None else x
    sparse = tiny.sparsify(model)
    masks = rigl_keras.get_masks(sparse)
    assert set(masks) == set(paths)
    mask_plain(model, masks)
    assert_same_outputs(sparse, model, x)
    y = targets_of(model, x)
    batch = tf.nest.map_structure(lambda array: array[:BATCH], (x, y))
    expected = masks_after_a_step(model, masks, *batch)
    frozen_before = {path: tiny.weights(sparse)[path] for path in frozen}

    tiny.compiled(sparse, keras.optimizers.SGD(RATE, momentum=0.9))
    seen = train(sparse, tiny.forever(RigL), x, y)
    tiny.assert_same_masks(seen[0], expected)
    assert changed(masks, *seen) >= set(paths) - set(frozen) - set(still)
    for path, before in frozen_before.items():
        np.testing.assert_array_equal(tiny.weights(sparse)[path], before)
        np.testing.assert_array_equal(rigl_keras.get_masks(sparse)[path], masks[path])
    plain = check_stripping(sparse, x)
    if is_loaded:
        check_file(sparse, tmp_path, x)
        check_file(plain, tmp_path, x)
    return plain


def shake(model):
    """Moves all weights, so that none is 0 or 1 and none like another."""
    generator = np.random.RandomState(0)
    for weight in model.weights:
        if tf.as_dtype(weight.dtype).is_floating:
            moved = weight.numpy() + generator.uniform(0.01, 0.2, tuple(weight.shape))
            weight.assign(moved.astype(np.float32))


def inputs_of(model, samples=STEPS * BATCH):
    """Normal or small whole numbers, in the structure of the model's inputs."""
    generator = np.random.RandomState(1)

    def draw(tensor):
        shape = (samples, *tensor.shape[1:])
        if tf.as_dtype(tensor.dtype).is_integer:
            return generator.randint(0, 5, shape).astype(np.int32)
        return generator.normal(size=shape).astype(np.float32)

    sequential = isinstance(model, keras.Sequential)  # Keras 3 gives it no `input`.
    return tf.nest.map_structure(draw, model.inputs[0] if sequential else model.input)


def targets_of(model, x):
    generator = np.random.RandomState(2)
    return tf.nest.map_structure(
        lambda output: generator.normal(size=output.shape).astype(np.float32),
        model(x, training=False),
    )


def mask_plain(model, masks):
    for kernel in find_kernels(model):
        if kernel.path in masks:
            kernel.variable.assign(kernel.variable.numpy() * masks[kernel.path])


def assert_same_outputs(model, other, x):
    left, right = (tf.nest.flatten(each(x, training=False)) for each in (model, other))
    for one, two in zip(left, right, strict=True):
        np.testing.assert_allclose(one, two, rtol=1e-4, atol=1e-5)


def masks_after_a_step(model, masks, x, y):
    """The masks that RigL has after a step of gradient descent of the plain model."""
    kernels = [each for each in find_kernels(model) if each.path in masks]
    trainable = {id(variable) for variable in model.trainable_variables}
    with tf.GradientTape() as tape:
        outputs = tf.nest.flatten(model(x, training=True))
        losses = [
            tf.reduce_mean((output - target) ** 2)
            for output, target in zip(outputs, tf.nest.flatten(y), strict=True)
        ]
        loss = tf.add_n([*losses, *model.losses])
    gradients = tape.gradient(loss, [tiny.raw(each.variable) for each in kernels])
    expected = dict(masks)
    for kernel, gradient in zip(kernels, gradients, strict=True):
        if gradient is None or id(kernel.variable) not in trainable:
            continue
        mask, gradient = masks[kernel.path], tf.convert_to_tensor(gradient).numpy()
        weights = kernel.variable.numpy() - np.float32(RATE) * gradient * mask
        if kernel.variable.constraint is not None:
            weights = np.asarray(kernel.variable.constraint(tf.constant(weights)))
        expected[kernel.path] = tiny.reference_mask(
            mask, np.abs(weights), np.abs(gradient), 0.5
        )
    return expected


def train(model, callback, x, y, **options):
    """Trains, checking every step; returns the masks after each."""
    counts, seen = tiny.counts(model), []

    def check(model):
        tiny.assert_zero_off_masks(model)
        assert tiny.counts(model) == counts
        assert_slots_as_new_off_masks(model)
        seen.append(rigl_keras.get_masks(model))

    options = {"batch_size": BATCH, "shuffle": False, "verbose": 0, **options}
    model.fit(x, y, callbacks=[callback, tiny.EveryStep(check)], **options)
    return seen


def assert_slots_as_new_off_masks(model):
    """Of SGD with momentum, which has one slot for each trained weight."""
    weights = model.trainable_variables
    # They come last, in the order of the weights.
    slots = model.optimizer.variables[-len(weights) :]
    slots = {
        id(weight): slot.numpy() for weight, slot in zip(weights, slots, strict=True)
    }
    for each in rigl_keras.sparse_kernels(model):
        if id(each.kernel) in slots:
            slot = slots[id(each.kernel)]
            assert slot.shape == tuple(each.kernel.shape)
            assert (slot[~each.mask.numpy()] == 0).all(), each.path


def changed(*masks):
    """The paths of the masks that are not the same throughout."""
    first, *others = masks
    return {
        path
        for path, mask in first.items()
        if any((mask != other[path]).any() for other in others)
    }


def check_stripping(model, x):
    plain = rigl_keras.strip(model)
    assert not any(isinstance(layer, rigl_keras.Sparse) for layer, _ in walk(plain))
    assert not rigl_keras.sparse_kernels(plain)
    assert_same_outputs(plain, model, x)
    return plain


def check_file(model, tmp_path, x):
    path = os.path.join(tmp_path, "model.keras")
    model.save(path)
    loaded = keras.models.load_model(path)
    tiny.assert_same_masks(rigl_keras.get_masks(loaded), rigl_keras.get_masks(model))
    assert_same_outputs(loaded, model, x)
