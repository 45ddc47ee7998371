"""The command line's Hessian spectra, on small real runs."""

import subprocess
import sys

import gin
import numpy as np
import pytest
import small_runs

from rigl_keras.analysis import hessian
from rigl_keras.findings import hessian as hessian_mode
from rigl_keras.findings.hessian import HessianConfig, HessianSpectra
from rigl_keras.program import files
from rigl_keras.program.saved_runs import SavedRun

pytestmark = pytest.mark.one_keras

# Few weights: 90 % of a small LeNet5.
BINDINGS = [
    "masks.sparsity = 0.9",
    "masks.distribution = 'uniform'",
    "network.weight_init_method = 'unit_scaled'",
    *small_runs.RIGL,
]
EXACT = ["hessian.batch_size = 50", "hessian.rows_at_once = 40"]


@pytest.fixture(autouse=True)
def clean_gin():
    yield
    gin.clear_config()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return small_runs.train(tmp_path_factory.mktemp("runs") / "rigl", BINDINGS)


def spectra(folder, *bindings):
    """Spectra as the command line makes them by these bindings."""
    return HessianSpectra(str(folder), lambda: gin.parse_config(bindings))


def exact(folder, number, examples=50):
    """The eigenvalues, without the command line."""
    model, images = SavedRun(folder).open(number)
    x = images.train_images[:examples] / np.float32(255)
    batch = x, images.train_labels[:examples]
    return np.linalg.eigvalsh(np.asarray(hessian.hessian(model, batch), float))


@pytest.mark.release
def test_exact_spectra_before_and_after_an_update(folder, capsys):
    spectra(folder, *EXACT, "hessian.ckpt_ids = [-7, -8]").compute()
    for number in (-7, -8):
        path = folder / "hessian" / f"ckpt-{number}.npz"
        arrays, description = files.read_arrays(path)
        np.testing.assert_allclose(
            arrays["eigenvalues"], exact(folder, number), atol=1e-5
        )
        run = SavedRun(folder)
        active = sum(int(mask.sum()) for mask in run.masks(number).values())
        biases = sum(
            v.size for k, v in run.parameters(number).items() if k.endswith("bias")
        )
        assert description["size"] == arrays["eigenvalues"].size == active + biases
        assert description["examples"] == 50
        assert {"versions", "git_revision", "config", "setting"} <= description.keys()
    out = capsys.readouterr().out
    assert "step 8, before the update" in out and "step 8, after the update" in out
    assert (folder / "hessian" / "spectrum.png").stat().st_size > 5000
    # What is there is not made again, unless that is asked for.
    written = path.stat().st_mtime_ns
    spectra(folder, *EXACT, "hessian.ckpt_ids = [-8]").compute()
    assert path.stat().st_mtime_ns == written
    assert "is there already" in capsys.readouterr().out
    with pytest.raises(ValueError, match=r"other settings.*overwrite=True"):
        spectra(folder, "hessian.batch_size = 49", "hessian.ckpt_ids = [-8]")
    found = hessian_mode.saved_spectra(SavedRun(folder))
    assert list(found) == ["step 8, before the update", "step 8, after the update"]
    spectra(
        folder, *EXACT, "hessian.ckpt_ids = [-8]", "hessian.overwrite = True"
    ).compute()
    assert path.stat().st_mtime_ns > written


@pytest.mark.release
def test_a_computation_that_was_killed_goes_on(folder, monkeypatch):
    expected = exact(folder, 12)
    asked = [*EXACT, "hessian.ckpt_ids = [12]"]

    class KilledError(Exception):
        pass

    def kill(self, done, total):
        if done >= 80:
            raise KilledError

    with monkeypatch.context() as patch:
        patch.setattr(hessian_mode.Progress, "__call__", kill)
        with pytest.raises(KilledError):
            spectra(folder, *asked).compute()
    rows = folder / "hessian" / "ckpt-12.rows.npy"
    there = np.load(rows)
    assert np.isfinite(there[:80]).all()
    assert np.isnan(there[-1]).all()
    made = []
    original = hessian_mode.Progress.__call__
    monkeypatch.setattr(
        hessian_mode.Progress,
        "__call__",
        lambda self, done, total: (made.append(done), original(self, done, total))[1],
    )
    gin.clear_config()
    spectra(folder, *asked).compute()
    assert min(made) >= 80
    arrays, _ = files.read_arrays(folder / "hessian" / "ckpt-12.npz")
    np.testing.assert_allclose(arrays["eigenvalues"], expected, atol=1e-5)
    assert not rows.exists()


@pytest.mark.slow
def test_lanczos_finds_the_ends_and_the_mean_of_the_exact_spectrum(folder):
    spectra(
        folder,
        "hessian.method = 'lanczos'",
        "hessian.lanczos_steps = 60",
        "hessian.num_probes = 4",
        "hessian.batch_size = 50",
        "hessian.ckpt_ids = [24]",
    ).compute()
    arrays, description = files.read_arrays(folder / "hessian" / "ckpt-24-lanczos.npz")
    values, weights = arrays["ritz_values"], arrays["weights"]
    assert values.shape == weights.shape == (4, 60)
    expected = exact(folder, 24)
    assert description["size"] == expected.size
    width = expected[-1] - expected[0]
    np.testing.assert_allclose(values[:, -1], expected[-1], atol=1e-3 * width)
    np.testing.assert_allclose(values[:, 0], expected[0], atol=1e-3 * width)
    mean = (values * weights).sum(1).mean()
    # The deviation of a mean of quadratic forms over 4 normed random vectors.
    tolerance = 4 * np.sqrt(2 * (expected**2).mean() / expected.size / 4)
    assert mean == pytest.approx(expected.mean(), abs=tolerance)
    assert (folder / "hessian" / "spectrum-lanczos.png").exists()


@pytest.mark.slow
def test_a_dense_spectrum_counts_every_weight(folder):
    bindings = [
        *EXACT[:1],
        "hessian.ckpt_ids = [0]",
        "hessian.is_dense_spectrum = True",
        "hessian.method = 'lanczos'",
        "hessian.lanczos_steps = 2",
        "hessian.num_probes = 1",
    ]
    spectra(folder, *bindings).compute()
    _, description = files.read_arrays(folder / "hessian" / "ckpt-0-dense-lanczos.npz")
    parameters = SavedRun(folder).parameters(0).values()
    assert description["size"] == sum(array.size for array in parameters)


@pytest.mark.slow
def test_an_exact_hessian_that_is_too_large_is_refused(folder, monkeypatch):
    monkeypatch.setattr(hessian, "MAX_SIZE", 100)
    with pytest.raises(ValueError, match=r"exact ones end at 100 .*lanczos"):
        spectra(folder, "hessian.ckpt_ids = [18]")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("bindings", "message"),
    [
        (["hessian.ckpt_ids = [5]"], "no checkpoint of step 5"),
        (["hessian.ckpt_ids = []"], "a list of checkpoints' steps"),
        (["hessian.ckpt_ids = ['last']"], "a list of checkpoints' steps"),
        (["hessian.ckpt_ids = [0]", "hessian.method = 'power'"], "hessian.method"),
        (["hessian.ckpt_ids = [0]", "hessian.batch_size = 0"], "hessian.batch_size"),
        (["hessian.ckpt_ids = [0]", "hessian.overwrite = 1"], "True or False"),
    ],
)
def test_what_cannot_be_done_is_refused_before_any_work(folder, bindings, message):
    before = sorted(folder.rglob("*"))
    with pytest.raises(ValueError, match=message):
        spectra(folder, *bindings)
    assert sorted(folder.rglob("*")) == before


def test_spectra_are_found_in_a_folder_whose_name_looks_like_a_pattern(tmp_path):
    folder = tmp_path / "x[1]"
    (folder / "hessian").mkdir(parents=True)
    (folder / "run.json").write_text('{"config": "", "seeds": {}}')
    values = np.array([-1.0, 2.0])
    description = {"checkpoint": 3, "size": 2, "setting": {}}
    path = folder / "hessian" / "ckpt-3.npz"
    files.write_arrays(path, {"eigenvalues": values}, description)
    [(label, found)] = hessian_mode.saved_spectra(SavedRun(folder)).items()
    assert (label, found[0].tolist(), found[2]) == ("step 3", [[-1.0, 2.0]], 2)


def test_a_run_without_spectra_says_how_to_make_them(tmp_path):
    (tmp_path / "run.json").write_text('{"config": "", "seeds": {}}')
    with pytest.raises(ValueError, match="--mode=hessian"):
        hessian_mode.saved_spectra(SavedRun(tmp_path))


def test_defaults_are_those_of_the_papers_code():
    config = HessianConfig(ckpt_ids=[0])
    assert (config.overwrite, config.batch_size, config.rows_at_once) == (
        False,
        1000,
        10,
    )
    assert (config.is_dense_spectrum, config.method) == (False, "exact")


@pytest.mark.release
def test_training_needs_no_matplotlib():
    program = "import sys; sys.modules['matplotlib'] = None; import rigl_keras.train"
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_without_matplotlib_no_spectrum_is_computed(folder, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(ImportError, match="rigl_keras\\[plots\\]"):
        spectra(folder, "hessian.ckpt_ids = [8]")
