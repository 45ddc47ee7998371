"""What every test starts from: a quiet TensorFlow, two devices, a fresh Keras."""

import contextlib
import gc
import os

import hypothesis
import pytest

# Read when TensorFlow is imported; the subprocesses of a test inherit it.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
# A program that XLA compiles is run a few times here: its machine code need not be the
# fastest. XLA's own passes are all made. (At 0, a deep network's rounding is another.)
os.environ.setdefault("XLA_FLAGS", "--xla_backend_optimization_level=1")

pytest_plugins = ["tiers", "durations"]

hypothesis.settings.register_profile(
    "rigl_keras",
    # The first example of a test compiles its graphs, which takes seconds.
    deadline=None,
    # In continuous integration a commit has one verdict.
    derandomize=bool(os.environ.get("CI")),
    max_examples=20,
)
hypothesis.settings.load_profile("rigl_keras")


def pytest_configure(config):
    """Starts TensorFlow where tests run, which is not the controller of pytest-xdist.

    Before the test modules are imported: their parameters may hold tensors.
    """
    is_worker = hasattr(config, "workerinput")
    if is_worker or not config.getoption("numprocesses", None):
        with _quiet_stderr():
            _configure_tensorflow(share_cores=is_worker)
        # Graphs are many objects that stay, and to look for garbage among them often
        # takes some percent of the time of all tests.
        gc.freeze()
        gc.set_threshold(50_000, 20, 10)


def _configure_tensorflow(share_cores):
    import tensorflow as tf

    # Two devices, for the replicas of MirroredStrategy.
    cpu = tf.config.list_physical_devices("CPU")[0]
    tf.config.set_logical_device_configuration(
        cpu, [tf.config.LogicalDeviceConfiguration()] * 2
    )
    if share_cores:
        tf.config.threading.set_intra_op_parallelism_threads(1)
    _set_graph_optimizer(False)


def _set_graph_optimizer(is_on):
    import tensorflow as tf

    tf.config.optimizer.set_experimental_options({"disable_meta_optimizer": not is_on})


@contextlib.contextmanager
def _quiet_stderr():
    """Hides what native code says on stderr; TensorFlow's import heeds no log level."""
    stderr = os.dup(2)
    try:
        with open(os.devnull, "w") as null:
            os.dup2(null.fileno(), 2)
        yield
    finally:
        os.dup2(stderr, 2)
        os.close(stderr)


@pytest.fixture(scope="session", autouse=True)
def warmed_up():
    """Keeps what only the first training of a process does out of a test's time."""
    import tiny

    tiny.fit(tiny.compiled(tiny.mlp()), samples=2)


@pytest.fixture
def graph_optimizer():
    """Turns on TensorFlow's graph optimizer, as it is for users.

    The other tests do without: to optimize a graph takes longer than it saves in a
    training of a few steps.
    """
    _set_graph_optimizer(True)
    yield
    _set_graph_optimizer(False)


@pytest.fixture(scope="session")
def tfds_dir(tmp_path_factory):
    """A folder of small TFDS sets: those of `tiny_tfds`."""
    import tiny_tfds

    folder = tmp_path_factory.mktemp("tfds")
    tiny_tfds.prepare(folder)
    return folder


@pytest.fixture(scope="session")
def imagenet_dir(tmp_path_factory):
    """A folder with a small imagenet2012: 200 and 48 images of 4 classes."""
    from imagenet_archives import prepared_imagenet

    folder = tmp_path_factory.mktemp("imagenet")
    prepared_imagenet(folder)
    return folder


@pytest.fixture(autouse=True)
def fresh_keras():
    """Gives each test the same random state, and leaves no global Keras state."""
    from tensorflow import keras

    keras.utils.set_random_seed(0)
    yield
    if hasattr(keras, "ops"):
        # Else Keras 3 collects garbage, which takes 0.4 s after every test.
        keras.utils.clear_session(free_memory=False)
    else:
        keras.backend.clear_session()
    # Keras 2 keeps the policy when its session is cleared.
    keras.mixed_precision.set_global_policy("float32")
