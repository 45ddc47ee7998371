"""What gin names mean: seeds, mask updates, pruning, and their refusals."""

import inspect

import gin
import numpy as np
import pytest
import tensorflow as tf
import tiny
from hypothesis import given
from hypothesis import strategies as st

import rigl_keras
from rigl_keras import data, mask_updaters
from rigl_keras.program import algorithm, optimizer, schedule

SEEDS = algorithm.Seeds(init_seed=1, data_seed=2, mask_seed=3)


@pytest.fixture(autouse=True)
def no_gin_left():
    yield
    gin.clear_config()


def bind(*bindings):
    gin.parse_config(bindings)


# The names and defaults of the paper's TF2 code, and below them this package's own.
DEFAULTS = {
    schedule.TrainingConfig: {
        "total_steps": 5000,
        "batch_size": 128,
        "val_batch_size": 1000,
        "save_freq": 5,
        "log_freq": 250,
        "use_metainit": False,
        "oneshot_prune_fraction": 0.0,
        "gradient_regularization": 0,
        "oneshot_ranking": "global",
        "log_mask_updates": True,
        "save_mask_updates": True,
        "length": 1.0,
        "eval_epochs": None,
        "label_smoothing": 0.0,
        "top_k": None,
        "precision": "float32",
        "jit_compile": None,
    },
    algorithm.PruningConfig: {
        "mode": "prune",
        "initial_sparsity": 0.0,
        "final_sparsity": 0.8,
        "begin_step": 2000,
        "end_step": 4000,
        "frequency": 200,
        "ranking": "layer",
    },
    optimizer.OptimizerConfig: {
        "name": "adam",
        "learning_rate": 0.001,
        "clipnorm": None,
        "clipvalue": None,
        "momentum": None,
        "nesterov": False,
        "base_batch_size": None,
        "schedule": "cosine",
        "decay_points": (),
        "decay_factor": 0.1,
        "warmup": 0.0,
        "gradient_accumulation_steps": 1,
    },
    algorithm.MaskUpdaterConfig: {
        "update_alg": "",
        "schedule_alg": "lr",
        "update_freq": 100,
        "init_drop_fraction": 0.3,
        "last_update_step": -1,
        "use_stateless": True,
        "grow_gradient": "fixed_batch",
        "drop_noise": 0.0,
        "skip_weight_step": False,
    },
}


@pytest.mark.parametrize("configurable", DEFAULTS, ids=lambda each: each.__name__)
def test_defaults_are_those_of_the_paper(configurable):
    parameters = inspect.signature(configurable).parameters
    defaults = {
        name: each.default
        for name, each in parameters.items()
        if each.default is not each.empty
    }
    assert defaults == DEFAULTS[configurable]


def test_gin_takes_the_seeds_apart():
    bind("seeds.data_seed = 7")
    assert algorithm.make_seeds(3) == algorithm.Seeds(3, 7, 3)
    bind("seeds.mask_seed = -1")
    with pytest.raises(ValueError, match=r"seeds\.mask_seed"):
        algorithm.make_seeds(3)


BATCH = (np.ones((2, 6), np.float32), np.ones((2, 3), np.float32))


def make_updater(**options):
    config = algorithm.MaskUpdaterConfig(**options)
    model = tiny.sparsify(tiny.mlp())
    return algorithm.make_mask_updater(config, model, lambda: BATCH, seeds=SEEDS)


@pytest.mark.parametrize("name", mask_updaters.ALGORITHMS)
def test_a_name_makes_a_callback_of_the_algorithm(name):
    callback = make_updater(update_alg=name)
    assert type(callback.algorithm) is mask_updaters.ALGORITHMS[name]


@pytest.mark.parametrize("name", ["", "snip", "grasp"])
def test_masks_that_were_pruned_before_training_stay(name):
    assert type(make_updater(update_alg=name)) is rigl_keras.Static


@pytest.mark.parametrize("name", ["set", "rigl", "rigl_inverted", "snfs"])
def test_the_callback_gets_all_settings(name):
    bind(
        f"mask_updater.update_alg = '{name}'",
        "mask_updater.schedule_alg = 'constant'",
        "mask_updater.update_freq = 7",
        "mask_updater.init_drop_fraction = 0.25",
        "mask_updater.last_update_step = 70",
        "mask_updater.drop_noise = 0.125",
        "mask_updater.skip_weight_step = True",
    )
    updater = make_updater()
    assert updater.update_freq == 7
    assert updater.drop_fraction == 0.25
    assert updater.schedule == "constant"
    assert updater.last_update_step == 70
    assert updater.seed == SEEDS.mask_seed
    assert updater.skip_weight_step is True
    with pytest.raises(ValueError, match="drop_noise"):
        make_updater(drop_noise=-1.0)


@pytest.mark.parametrize("name", ["rigl", "rigl_inverted"])
def test_rigl_grows_by_a_fixed_batch(name):
    assert make_updater(update_alg=name, grow_gradient="step").grow_data is None
    x, y = make_updater(update_alg=name).grow_data
    np.testing.assert_array_equal(x, BATCH[0])
    np.testing.assert_array_equal(y, BATCH[1])


@pytest.mark.parametrize(
    ("options", "evolves"),
    [
        ({}, False),
        ({"update_alg": "set"}, True),
        ({"update_alg": "rigl", "last_update_step": 5}, True),
        ({"update_alg": "rigl", "last_update_step": 0}, False),
        ({"update_alg": "snfs"}, True),
        ({"update_alg": "snip"}, False),
        ({"update_alg": "rigl_s", "last_update_step": 0}, False),
    ],
)
def test_whether_masks_evolve(options, evolves):
    assert algorithm.MaskUpdaterConfig(**options).evolves is evolves


@pytest.mark.parametrize(
    ("options", "setting"),
    [
        ({"update_alg": "rigs"}, "mask_updater.update_alg"),
        ({"grow_gradient": "sum"}, "mask_updater.grow_gradient"),
        ({"use_stateless": False}, "mask_updater.use_stateless"),
        # What the paper's code does with these after pruning is not published.
        ({"update_alg": "rigl_s"}, "mask_updater.last_update_step=0"),
        ({"update_alg": "rigl_grasp", "last_update_step": 9}, "last_update_step=0"),
    ],
)
def test_mask_updates_that_make_no_sense_are_refused(options, setting):
    with pytest.raises(ValueError, match=setting.replace(".", r"\.")):
        algorithm.MaskUpdaterConfig(**options)


@pytest.mark.parametrize("name", ["rigl", "snip"])
def test_an_algorithm_without_masks_is_refused(name):
    config = algorithm.MaskUpdaterConfig(update_alg=name)
    with pytest.raises(ValueError, match=r"masks\.sparsity"):
        algorithm.make_mask_updater(config, tiny.mlp(), lambda: BATCH, seeds=SEEDS)


def test_a_dense_network_needs_no_callback():
    config = algorithm.MaskUpdaterConfig()
    assert (
        algorithm.make_mask_updater(config, tiny.mlp(), lambda: BATCH, seeds=SEEDS)
        is None
    )


PRUNERS = {
    "snip": mask_updaters.SNIP,
    "grasp": mask_updaters.GraSP,
    "rigl_s": mask_updaters.SNIP,
    "rigl_grasp": mask_updaters.GraSP,
    "rigl": mask_updaters.Magnitude,
    "set": mask_updaters.Magnitude,
    "snfs": mask_updaters.Magnitude,
}


def updater_config(name):
    last = 0 if name in ("rigl_s", "rigl_grasp") else -1
    return algorithm.MaskUpdaterConfig(update_alg=name, last_update_step=last)


@pytest.mark.parametrize("name", PRUNERS)
def test_the_criterion_of_pruning_before_training(name):
    pruner = updater_config(name).one_shot_pruner(0.5, "layer")
    assert type(pruner) is PRUNERS[name]


def test_another_ranking_of_pruning_before_training_is_refused():
    with pytest.raises(ValueError, match="ranking"):
        updater_config("snip").one_shot_pruner(0.5, "all")


@pytest.mark.parametrize(
    ("name", "asked", "ranking"),
    [
        ("rigl", "layer", "layer"),
        ("rigl", "global", "global"),
        ("snip", "global", "global"),
        # The paper's code prunes every layer alike.
        ("rigl_s", "global", "layer"),
    ],
)
def test_the_ranking_of_pruning_before_training(name, asked, ranking):
    pruner = updater_config(name).one_shot_pruner(0.5, asked)
    states = [
        mask_updaters.KernelState(
            weights=tf.constant(values), mask=tf.ones([4], bool), gradient=tf.ones([4])
        )
        for values in ([1.0, 2.0, 3.0, 4.0], [5.0, 6.0, 7.0, 8.0])
    ]
    masks = [mask.numpy().tolist() for mask in pruner.new_masks(states, 0.5)]
    expected = {
        "layer": [[0, 0, 1, 1], [0, 0, 1, 1]],
        # Half of all are the second kernel's; the first keeps one at least.
        "global": [[0, 0, 0, 1], [0, 1, 1, 1]],
    }
    assert masks == expected[ranking]


def test_nothing_is_pruned_before_training_unless_asked_for():
    for name in ("", "set", "rigl", "rigl_inverted", "snfs"):
        assert updater_config(name).one_shot_pruner(0.0, "global") is None


@pytest.mark.parametrize("name", ["snip", "grasp", "rigl_s", "rigl_grasp"])
def test_a_criterion_without_a_fraction_is_refused(name):
    with pytest.raises(ValueError, match=r"training\.oneshot_prune_fraction=0"):
        updater_config(name).one_shot_pruner(0.0, "global")


def test_a_fraction_without_a_criterion_is_refused():
    with pytest.raises(ValueError, match=r"fraction=0\.5.*mask_updater\.update_alg"):
        updater_config("").one_shot_pruner(0.5, "global")


def test_nothing_is_pruned_unless_gin_mentions_pruning():
    assert algorithm.make_pruning() is None


@pytest.mark.parametrize(
    "bindings",
    [
        ["pruning.final_sparsity = 0."],
        # As files of the paper's code switch pruning off.
        ["pruning.final_sparsity = 0.", "pruning.begin_step = 100000000"],
    ],
)
def test_constant_pruning_that_never_begins_is_none(bindings):
    bind("pruning.mode = 'constant'", *bindings)
    assert algorithm.make_pruning() is None


def scheduled(pruning, step):
    is_due, sparsity = pruning.schedule(tf.constant(step, tf.int64))
    return bool(is_due), float(sparsity)


def test_pruning_follows_a_cubic_between_its_two_steps():
    bind("pruning.initial_sparsity = 0.2", "pruning.final_sparsity = 0.9")
    bind("pruning.begin_step = 40", "pruning.end_step = 100", "pruning.frequency = 20")
    pruning = algorithm.make_pruning()
    due = [step for step in range(1, 121) if scheduled(pruning, step)[0]]
    assert due == [40, 60, 80, 100]
    for step in due:
        left = 1 - (step - 40) / 60
        expected = 0.9 + (0.2 - 0.9) * left**3
        assert scheduled(pruning, step)[1] == pytest.approx(expected, abs=1e-6)


def test_constant_pruning_begins_at_its_step_and_goes_on_every_100():
    bind("pruning.mode = 'constant'", "pruning.begin_step = 100")
    pruning = algorithm.make_pruning()
    due = [step for step in range(1, 350) if scheduled(pruning, step)[0]]
    assert due == [100, 200, 300]
    assert [scheduled(pruning, step)[1] for step in due] == pytest.approx([0.8] * 3)


@pytest.mark.parametrize(
    ("binding", "message"),
    [
        ("pruning.mode = 'gradual'", r"pruning\.mode"),
        ("pruning.ranking = 'all'", "ranking"),
        ("pruning.final_sparsity = 1.0", "final_sparsity"),
        ("pruning.end_step = 1999", "step"),
        ("pruning.frequency = 0", "frequency"),
    ],
)
def test_pruning_that_makes_no_sense_is_refused(binding, message):
    bind(binding)
    with pytest.raises(ValueError, match=message):
        algorithm.make_pruning()


def numbered(count):
    """Training records that are told apart by their label and first pixel."""
    labels = np.arange(count, dtype=np.int32)
    images = np.zeros((count, 2, 2, 1), np.uint8)
    images[:, 0, 0, 0] = labels % 251
    return data.ImageData(images, labels, images, labels, count, "numbered")


@given(st.integers(2, 60), st.integers(1, 40))
def test_the_two_fixed_batches_follow_each_other(count, size):
    images = numbered(count)
    size_got = size if 2 * size <= count else count // 2
    for batch, first in ((algorithm.flow_batch, 0), (algorithm.grow_batch, size_got)):
        x, y = batch(images, size)
        expected = np.arange(first, first + size_got)
        np.testing.assert_array_equal(y, expected)
        np.testing.assert_allclose(x[:, 0, 0, 0], expected / 255, rtol=1e-6)


def test_a_longer_training_updates_and_prunes_longer():
    bind("mask_updater.last_update_step = 250", "pruning.begin_step = 10")
    assert algorithm.MaskUpdaterConfig().stretched(5.0).last_update_step == 1250
    config = algorithm.PruningConfig().stretched(0.5)
    assert (config.begin_step, config.end_step, config.frequency) == (5, 2000, 200)
    # What says "never" goes on saying so.
    for step in (-1, 0):
        config = algorithm.MaskUpdaterConfig(last_update_step=step)
        assert config.stretched(5.0).last_update_step == step


def test_rigl_grows_from_records_1000_to_1999():
    size = schedule.TrainingConfig().val_batch_size
    _, y = algorithm.grow_batch(numbered(2500), size)
    np.testing.assert_array_equal(y, np.arange(1000, 2000))
