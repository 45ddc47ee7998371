"""A subclassed model that is sparse as a whole."""

import json

import tensorflow as tf
from tensorflow import keras

from rigl_keras import compat
from rigl_keras.layers.sparse import Sparse

# What a model may change about its training; these would be left out.
_STEPS = (
    "fit",
    "make_train_function",
    "train_step",
    "test_step",
    "predict_step",
    "compute_loss",
    "compute_metrics",
)
_KERAS = ("keras", "tf_keras")
# Their tasks have a `fit` that applies the preprocessor, and is Keras's own without.
_WITH_PREPROCESSORS = ("keras_hub", "keras_nlp", "keras_cv")


@compat.register_serializable
class SparseModel(keras.Model):
    """Trains a subclassed model whose kernels are sparse.

    Keras cannot copy a subclassed model layer by layer, so it is wrapped whole. It
    takes the inputs of the model, a tensor or lists and dicts of tensors. Call it once
    on a batch before `fit`, which builds it. Its config, and so `.keras`
    files, need the model's own `get_config`; weights files and `tf.train.Checkpoint`
    do not.

    Args:
      sparse: a `Sparse` layer around a model.
      **kwargs: of `keras.Model`; the name is the model's.

    Raises:
      TypeError: when `sparse` is no `Sparse` layer.
      ValueError: when it does not wrap a model, or one that brings a `train_step`, a
        `fit` or the like of its own, or a preprocessor, which would not take part.
    """

    path_name = ""

    def __init__(self, sparse, **kwargs):
        if not isinstance(sparse, Sparse):
            raise TypeError(
                "Expected a Sparse layer around a model, rigl_keras.Sparse(model, "
                f"sparsity), but got {sparse!r}."
            )
        check_wrapped(sparse.layer)
        kwargs.setdefault("name", sparse.layer.name)
        super().__init__(**kwargs)
        # Kernels have the paths that they have in the model alone.
        sparse.layer.path_name = ""
        self.sparse = sparse
        self._inputs: str | None = None

    def call(self, inputs, training=None):
        """Calls the model."""
        self._inputs = json.dumps(_described(inputs))
        return self.sparse(inputs, training=training)

    def set_weights(self, weights):
        """Sets weights and masks; weights off their masks become 0.

        Raises:
          ValueError: for other shapes, and for a mask without a connection.
        """
        super().set_weights(weights)
        self.sparse.finalize_state()

    def get_config(self):
        """The config of the `Sparse` layer, which holds that of the model."""
        sparse = compat.serialized(self.sparse)
        # Keras 3 writes how to build the model too, and cannot read it for dicts.
        sparse["config"]["layer"].pop("build_config", None)
        return {"name": self.name, "sparse": sparse}

    @classmethod
    def from_config(cls, config, custom_objects=None):
        """The model of a config."""
        sparse = compat.deserialized(config["sparse"], custom_objects)
        return cls(sparse, name=config["name"])

    def get_build_config(self):
        """The inputs of the last call, by which a loaded model is built."""
        if self._inputs is not None:
            return {"inputs": self._inputs}
        return {"layer": compat.build_config(self.sparse.layer)}

    def build_from_config(self, config):
        """Builds a model that is being loaded from a file."""
        if "inputs" in config:
            compat.trace(self, _specs(json.loads(config["inputs"])))
        elif config["layer"] is not None:
            self.sparse.layer.build_from_config(config["layer"])
            self.sparse.build()


def check_wrapped(model):
    """Refuses a model of which a `SparseModel` would leave something out.

    Raises:
      ValueError: saying what to do instead.
    """
    if not isinstance(model, keras.Model):
        raise ValueError(
            f"Expected a Sparse layer around a model, but it wraps the layer "
            f"{model.name!r} ({type(model).__name__}). Use it as a layer."
        )
    check_training_is_keras_own(model)
    # Tasks of KerasHub apply it in `fit` and `predict`, not in a call.
    has_own_fit = type(model).fit is not keras.Model.fit
    if has_own_fit and getattr(model, "preprocessor", None) is not None:
        raise ValueError(
            f"{type(model).__name__} preprocesses the data that its own `fit` is given,"
            " which a SparseModel around it would not. Set its `preprocessor` to None, "
            "apply that to the data yourself, and give it back to the model that "
            "`strip` returns."
        )


def check_training_is_keras_own(model):
    """Refuses a model whose class has a training of its own, which a copy would lose.

    Args:
      model: a model that only its class can train.

    Raises:
      ValueError: saying what to do instead.
    """
    cls = type(model)
    own = [name for name in _STEPS if _is_own(cls, name)]
    if own:
        raise ValueError(
            f"{cls.__name__} defines {own} of its own, which neither a copy of another "
            "class nor a SparseModel around it would use. Keep the model as it is, and "
            "make its parts sparse before it gets them: "
            f"{cls.__name__}(rigl_keras.sparsify(encoder), ...) where it is given "
            "models; or wrap the layers where it creates them: self.hidden = "
            "rigl_keras.Sparse(keras.layers.Dense(64), 0.9). Then compile and fit it."
        )


def _is_own(cls, name):
    """True for a method that neither Keras nor a library of its models defines."""
    owner = next((base for base in cls.__mro__ if name in vars(base)), None)
    if owner is None:
        return False
    library = owner.__module__.split(".")[0]
    return library not in _KERAS and (
        name != "fit" or library not in _WITH_PREPROCESSORS
    )


def _described(inputs):
    """The nested inputs as JSON: shapes, without the batch's size, and dtypes."""
    if isinstance(inputs, dict):
        return {"dict": {key: _described(part) for key, part in inputs.items()}}
    if isinstance(inputs, list | tuple):
        return {"list": [_described(part) for part in inputs]}
    dtype = tf.as_dtype(inputs.dtype).name
    return {"shape": [None, *inputs.shape[1:]], "dtype": dtype}


def _specs(described):
    if "dict" in described:
        return {key: _specs(part) for key, part in described["dict"].items()}
    if "list" in described:
        return [_specs(part) for part in described["list"]]
    return tf.TensorSpec(described["shape"], described["dtype"])
