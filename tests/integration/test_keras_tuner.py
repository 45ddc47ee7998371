"""Searches of Keras Tuner, which copies the callbacks for each trial."""

import pytest
import tiny
from tensorflow import keras

import rigl_keras
from rigl_keras import RigL

if not tiny.IS_KERAS_3:
    pytest.skip("Keras Tuner takes models of Keras 3", allow_module_level=True)
keras_tuner = pytest.importorskip("keras_tuner")

X, Y = tiny.data(16)
STEPS = 4  # of a trial
SPARSITIES = (0.25, 0.5)


def build(hp):
    sparsity = hp.Choice("sparsity", SPARSITIES)
    return tiny.compiled(tiny.sparsify(tiny.mlp(), sparsity))


class WithItsOwnCallback(keras_tuner.HyperModel):
    def build(self, hp):
        return build(hp)

    def fit(self, hp, model, *args, callbacks, **options):
        fraction = hp.Choice("drop_fraction", [0.1, 0.4])
        rigl = RigL(1, fraction, schedule="constant", last_update_step=-1)
        return model.fit(*args, callbacks=[rigl, *callbacks], **options)


class Updates(rigl_keras.MaskUpdateObserver):
    """Notes the steps of the updates of all trials, whichever copy sees them."""

    steps: tuple = ()

    def on_mask_update_end(self, step):
        Updates.steps = (*Updates.steps, step)


def searched(hypermodel, folder, *callbacks):
    tuner = keras_tuner.RandomSearch(
        hypermodel, "val_loss", max_trials=2, seed=1, directory=folder
    )
    options = {"batch_size": 4, "validation_data": (X, Y), "verbose": 0}
    tuner.search(X, Y, callbacks=list(callbacks), **options)
    return tuner


def logged(trial, name):
    return trial.metrics.get_history(name)[0].value[0]


@pytest.mark.slow
def test_trials_are_trained_by_copies_of_a_callback(tmp_path):
    rigl = RigL(1, 0.5, last_update_step=STEPS)
    tuner = searched(build, tmp_path, rigl, Updates())
    assert Updates.steps == (1, 2, 3, 4) * 2
    assert not rigl.state.variables  # It was not trained itself.
    trials = tuner.oracle.trials.values()
    assert {trial.hyperparameters["sparsity"] for trial in trials} == set(SPARSITIES)
    for trial in trials:
        expected = trial.hyperparameters["sparsity"]
        assert logged(trial, "sparsity") == pytest.approx(expected, abs=0.02)

    best = tuner.get_best_models(1)[0]
    assert best.evaluate(X, Y, verbose=0) == pytest.approx(
        tuner.oracle.get_best_trials(1)[0].score, rel=1e-5
    )
    tiny.assert_zero_off_masks(best)
    tiny.fit(best, tiny.forever(RigL))
    assert isinstance(rigl_keras.strip(best), keras.Sequential)


@pytest.mark.release
def test_a_hypermodel_makes_its_callback_of_hyperparameters(tmp_path):
    tuner = searched(WithItsOwnCallback(), tmp_path)
    for trial in tuner.oracle.trials.values():
        values = trial.hyperparameters.values
        assert set(values) == {"sparsity", "drop_fraction"}
        expected = values["drop_fraction"]
        assert logged(trial, "drop_fraction") == pytest.approx(expected)
