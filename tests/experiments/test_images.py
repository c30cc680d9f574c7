"""Images from noise, end to end at toy size, and its models and samplers where the answer is known."""

import functools
import json
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

import dsm
from dsm import edm
from experiments import data, image_files, images, images_model, images_settings, quality, trainer
from experiments.images_model import Sampling

checkpoint = pytest.importorskip("dsm.checkpoint", reason="needs orbax-checkpoint")

TINY = {
    "steps": 8,
    "batch_size": 4,
    "width": 8,
    "num_blocks": 1,
    "levels": 4,
    "num_samples": 64,
    "draws": 1,
    "checkpoints": 2,
}
FIGURES = ("samples", "training", "trajectory", "neighbours", "interpolation", "completions")
HEUN = Sampling("heun", 4, 20.0, 0.02, 0.0, None)


@pytest.fixture(scope="module")
def split():
    return data.digits()


@pytest.fixture(scope="module", autouse=True)
def fitted_once():
    """Classifier and mixture are the same for one split: `tests/experiments/test_quality.py` is about them."""
    with pytest.MonkeyPatch.context() as patch:
        fit = quality.fit_classifier
        once = functools.cache(lambda seed: fit(data.digits(seed)))
        patch.setattr(quality, "fit_classifier", lambda split: once(int(np.any(split.train != data.digits().train))))
        patch.setattr(quality, "MIXTURES", ((2, 2),))
        yield


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("images") / "run"
    return images.main(**TINY, out=folder), folder


def model_of(split, kind="mlp", *, classes=False, dequantised=False, seed=None):
    """A model and its parameters: as they are at first, or with a seed pushed away from there."""
    model = images_model.build(
        kind, split, data.scaling(split), width=8, num_blocks=1, classes=classes, dequantised=dequantised, dtype=None
    )
    params = jax.jit(model.init)(jax.random.key(0))
    if seed is not None:
        leaves, tree = jax.tree.flatten(params)
        rng = np.random.default_rng(seed)
        params = tree.unflatten([leaf + jnp.asarray(0.3 * rng.normal(size=leaf.shape), leaf.dtype) for leaf in leaves])
    return model, params


def timeless(metrics):
    """The metrics without times."""
    lines = [{name: x for name, x in line.items() if name != "steps_per_second"} for line in metrics["lines"]]
    return metrics | {"lines": lines, "training_seconds": None}


def test_a_tiny_run_writes_its_record(run):
    record, folder = run
    assert json.loads((folder / "metrics.json").read_text()) == record
    for name in FIGURES:
        assert (folder / f"{name}.png").read_bytes()[:4] == b"\x89PNG"
    assert record["figures"] == [f"{name}.png" for name in FIGURES]
    metrics = record["metrics"]
    for name in quality.Quality._fields:
        assert math.isfinite(metrics[name]) and metrics[name] == metrics["table"][quality.MODEL][name]["mean"]
    assert len(metrics["table"]) == 6
    assert sum(metrics["classes_per_draw"]) == TINY["num_samples"]
    assert 0.9 < metrics["classifier_accuracy"] <= 1
    assert [line["step"] for line in metrics["lines"]] == [4, 8]
    assert metrics["heldout_loss"] == metrics["lines"][-1]["evaluation"]["heldout_loss"]
    # A sum over chunks of steps over pace: of the run's own seconds, compiling apart.
    assert 0 < metrics["training_seconds"] < record["seconds"]["run"]
    # The samples are there for `experiments.evaluate`.
    drawn = image_files.read(folder / "samples.npz", (8, 8), 17)
    assert drawn.shape == (64, 64)
    real = quality.few(np.random.default_rng(0), data.digits(), 64)
    again = quality.judge(real, quality.fit_classifier(real))(drawn.astype(float))
    assert again.frechet == pytest.approx(metrics["frechet"], rel=1e-4)
    # What the command line left open is that of the data set.
    assert record["arguments"]["width"] == 8 and record["arguments"]["data_set"] == "digits"


class Killed(Exception):
    pass


def killed(monkeypatch, folder, when):
    """Run until the first checkpoint is about to be written, or is there, or until all are and images are drawn."""
    write = checkpoint.folders.write

    def deadly(manager, at, *given):
        if when == "before":
            raise Killed
        write(manager, at, *given)
        if when == "after":
            raise Killed

    def no_images(*given):
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(checkpoint.folders, "write", deadly)
        patch.setattr(images, "draw", no_images)
        with pytest.raises((OSError, Killed)):
            images.main(**TINY, out=folder)
    assert not (folder / "metrics.json").exists()


@pytest.mark.slow
@pytest.mark.parametrize("when", ["after", "before", "draw"])
def test_a_run_that_was_cut_short_ends_with_the_same_numbers(when, run, tmp_path, monkeypatch):
    killed(monkeypatch, tmp_path / "run", when)
    again = images.main(**TINY, resume=True, out=tmp_path / "run")["metrics"]
    assert timeless(again) == timeless(run[0]["metrics"])


@pytest.mark.slow
def test_a_run_goes_on_where_its_newest_checkpoint_is_lost(run, tmp_path):
    images.main(**TINY, out=tmp_path / "run")
    found = tmp_path / "run" / trainer.CHECKPOINTS
    newest = max((path for path in found.iterdir() if path.name.isdigit()), key=lambda path: int(path.name))
    assert newest.name == "8"
    newest.rename(tmp_path / "lost")
    again = images.main(**TINY, resume=True, out=tmp_path / "run")["metrics"]
    assert timeless(again) == timeless(run[0]["metrics"])


def test_a_folder_that_holds_a_run_is_refused(run):
    with pytest.raises(ValueError, match="already holds a run: --resume"):
        images.main(**TINY, out=run[1])


def test_goals_are_for_what_presets_draw():
    presets = images_settings.PRESETS
    assert {name: goal["num_samples"] for name, goal in quality.GOALS.items()} == {
        name: presets[name].num_samples for name in quality.GOALS
    }


@pytest.mark.slow
@pytest.mark.parametrize(
    ("change", "what"),
    [
        ({"seed": 1}, "seed is 0 there"),
        ({"split_seed": 1}, "split_seed is 0 there"),
        ({"width": 9}, "width is 8 there"),
        ({"num_blocks": 2}, "num_blocks is 1 there"),
        ({"learning_rate": 1e-4}, "learning_rate is 0.001 there"),
        ({"noise_mean": 0.0}, "noise_mean is -0.5 there"),
        ({"noise_std": 1.0}, "noise_std is 1.2 there"),
        ({"clip": 1.0}, "clip is 1000.0 there"),
        ({"ema_decay": 0.9}, "ema_decay is 0.999 there"),
        ({"batch_size": 8}, "batch_size is 4 there"),
        ({"steps": 16}, "steps is 8 there"),
        ({"checkpoints": 4}, "checkpoints is 2 there"),
        ({"classes": True}, "classes is False there"),
        ({"dequantise": True}, "dequantise is False there"),
        ({"network": "unet", "ema_decay": 0.999, "learning_rate": 1e-3}, "network is mlp there"),
        ({"bfloat16": True}, "bfloat16 is False there"),
    ],
    ids=lambda x: next(iter(x)) if isinstance(x, dict) else "",
)
def test_another_run_does_not_go_on_with_this_one(change, what, run):
    before = sorted(str(path) for path in run[1].rglob("*"))
    with pytest.raises(ValueError, match=f"another run: {what}"):
        images.main(**(TINY | change), resume=True, out=run[1])
    assert sorted(str(path) for path in run[1].rglob("*")) == before


@pytest.mark.slow
@pytest.mark.parametrize(
    "change",
    [
        {"network": "unet", "classes": True, "guidance": 2.0, "sampler": "churn", "churn": 2.0},
        {"network": "energy-unet", "dequantise": True, "likelihood": 2},
        {"bfloat16": True, "sampler": "predictor-corrector", "draws": 2},
        {"sampler": "flow"},
    ],
    ids=["guided", "energy", "bfloat16", "flow"],
)
def test_other_runs_end_too(change, tmp_path):
    if change.get("sampler") == "flow":
        pytest.importorskip("diffrax")
    record = images.main(**(TINY | change), out=tmp_path / "run")
    metrics = record["metrics"]
    assert ("classes.png" in record["figures"]) == change.get("classes", False)
    assert ("bits_per_dimension" in metrics) == ("likelihood" in change)
    assert all(math.isfinite(metrics[name]) for name in quality.Quality._fields)
    error = metrics["table"][quality.MODEL]["frechet"]["standard_error"]
    assert (error is None) == (change.get("draws", 1) == 1)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("steps", 0),
        ("batch_size", 0),
        ("width", 0),
        ("num_blocks", 0),
        ("levels", 1),
        ("checkpoints", 0),
        ("num_samples", 63),
        ("draws", 0),
        ("split_seed", -1),
        ("learning_rate", 0.0),
        ("learning_rate", math.inf),
        ("learning_rate", math.nan),
        ("clip", 0.0),
        ("noise_std", -1.0),
        ("noise_mean", math.inf),
        ("sigma_min", 0.0),
        ("sigma_min", math.nan),
        ("sigma_max", 0.02),
        ("sigma_max", math.inf),
        ("ema_decay", 1.0),
        ("ema_decay", -0.1),
        ("churn", -1.0),
        ("churn", math.nan),
        ("seed", -1),
        ("likelihood", 1),
        ("likelihood", -1),
    ],
)
def test_an_impossible_argument_is_named_and_nothing_is_written(name, value, tmp_path):
    with pytest.raises(ValueError, match=f"^{name} .*got {value}$|sigma_max must be finite and above sigma_min"):
        images.main(**(TINY | {name: value}), out=tmp_path / "out")
    assert not list(tmp_path.iterdir())


def test_what_needs_something_else_and_a_folder_that_cannot_be_written(tmp_path, monkeypatch):
    with pytest.raises(ValueError, match="guidance needs --classes"):
        images.main(**TINY, guidance=1.5, out=tmp_path / "out")
    few = data.digits()
    few = few._replace(train_labels=np.where(few.train_labels == 3, 8, few.train_labels))
    with monkeypatch.context() as patch, pytest.raises(ValueError, match=r"there are none of \[3\]"):
        patch.setattr(data, "load", lambda *_, **__: few)
        images.main(**TINY, classes=True, out=tmp_path / "out")
    with pytest.raises(ValueError, match="likelihood needs --dequantise"):
        images.main(**TINY, likelihood=10, out=tmp_path / "out")
    with pytest.raises(ValueError, match="several processes need a --coordinator"):
        images.main(**TINY, processes=2, out=tmp_path / "out")
    with pytest.raises(ValueError, match="several processes need a --coordinator"):
        images.main(**TINY, process=-1, out=tmp_path / "out")
    with pytest.raises(ValueError, match="process must be 0 to 1, got 2"):
        images.main(**TINY, coordinator="127.0.0.1:1", processes=2, process=2, out=tmp_path / "out")
    with pytest.raises(ValueError, match="width must be a multiple of 2"):
        images.main(**(TINY | {"width": 3}), network="unet", out=tmp_path / "out")
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match="out = "):
        images.main(**TINY, out=tmp_path / "file" / "out")
    with pytest.raises(ValueError, match="is read from no folder"):
        images.main(**TINY, folder=tmp_path, out=tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


# At first the network adds nothing: the score is that of N(0, I) smoothed, -x / (1 + sigma^2), for which a sampler is a
# recursion of means and variances. These are the variances at which 64 levels end; dense ones would end at 1.
VARIANCE = {
    "heun": 1.001,
    "churn": 1.010,
    "annealed": 1.132,
    "predictor-corrector": 1.068,
    "reverse-sde": 1.008,
    "flow": 0.999,
}


@pytest.mark.parametrize(
    "sampler", [pytest.param(name, marks=() if name == "heun" else pytest.mark.slow) for name in VARIANCE]
)
def test_a_network_that_knows_nothing_gives_a_normal_law(sampler, split):
    if sampler == "flow":
        pytest.importorskip("diffrax")
    model = model_of(split)[0]._replace(basis=None, network=dsm.ScoreMLP(width=8, num_blocks=1))
    params = jax.jit(model.init)(jax.random.key(0))
    how = Sampling(sampler, 64, 20.0, 0.02, 4.0, None)
    draw = jax.jit(functools.partial(images_model.sample, model=model, how=how, num=40))
    x = np.asarray(draw(jax.random.key(1), params))
    assert x.shape == (40, 64) and x.dtype == np.float32
    # 2560 independent numbers; 4 standard errors.
    variance = VARIANCE[sampler]
    assert abs(x.mean()) < 4 * math.sqrt(variance / x.size)
    assert abs(x.var() - variance) < 4 * variance * math.sqrt(2 / x.size)
    pixels = model.pixels(x)
    assert pixels.min() >= 0 and pixels.max() <= 16
    assert_array_equal(pixels, np.rint(pixels))


def test_the_variance_of_annealed_sampling_is_that_of_its_recursion():
    variance, ladder = 20.0**2, np.geomspace(20.0, 0.02, 64)
    for sigma in ladder:
        for _ in range(16):
            h = 0.06 * sigma**2
            variance = (1 - h / (1 + sigma**2)) ** 2 * variance + 2 * h
    last = ladder[-1] ** 2
    assert variance / (1 + last) ** 2 == pytest.approx(VARIANCE["annealed"], abs=1e-3)


@pytest.mark.parametrize(
    "kind",
    ["mlp", pytest.param("unet", marks=pytest.mark.slow), pytest.param("energy-unet", marks=pytest.mark.slow)],
)
def test_every_network_starts_from_a_gaussian_and_learns(kind, split):
    model, params = model_of(split, kind)
    x = np.random.default_rng(0).normal(size=64).astype(np.float32)
    score = jax.jit(lambda params, x, sigma: model.score(params)(x, sigma))(params, x, jnp.float32(0.7))
    covariance = np.eye(64)
    if kind == "mlp":
        # That of the training images, and of the step of grey that a pixel stands for.
        covariance = np.cov(model.scaling.standardise(split.train).T.astype(float))
        covariance += np.eye(64) * model.scaling.grey_step**2 / 12
    assert_allclose(score, -np.linalg.solve(covariance + 0.7**2 * np.eye(64), x), rtol=1e-4, atol=1e-5)
    row = jnp.asarray(images_model.rows(split)[0][0])
    loss = lambda params: model.loss(jax.random.key(3), params, row, mean=-0.5, std=1.2)  # noqa: E731
    gradient = jax.jit(jax.grad(loss))(params)
    norms = [float(jnp.linalg.norm(leaf)) for leaf in jax.tree.leaves(gradient)]
    assert all(map(math.isfinite, norms)) and max(norms) > 0


@pytest.mark.parametrize("dequantised", [False, True])
def test_whole_pixels_are_the_shades_of_their_middles(split, dequantised):
    model = model_of(split, dequantised=dequantised)[0]
    pixels = split.heldout[:3].astype(np.float32)
    x = np.stack([model.middle(jnp.asarray(row)) for row in pixels])
    assert_allclose(model.shades(x), pixels, atol=1e-5)
    assert_array_equal(model.pixels(x), pixels)
    up = np.float32(0.75 * model.scaling.grey_step)
    assert_array_equal(model.pixels(x + up), np.minimum(pixels + 1, 16))
    assert model.shades(x + 100).max() <= 16 and model.shades(x - 100).min() >= 0


@pytest.mark.slow
def test_the_loss_of_a_perceptron_is_that_of_its_score_on_pixels(split, monkeypatch):
    # In principal components the noise is another, of the same law: as it is turned, the numbers agree.
    model, params = model_of(split, seed=0)
    row = jnp.asarray(images_model.rows(split)[0][0])
    found = []
    for basis in (jnp.eye(64, dtype=jnp.float32), jnp.asarray(model.basis)):

        def loss(key, score, x, *, mean, std, sigma_data, basis=basis):
            noise = 0.7 * jax.random.normal(jax.random.key(3), (64,), jnp.float32) @ basis
            found.append((score(x + noise, jnp.float32(0.7)), x, noise, basis))
            return jnp.sum((noise + 0.49 * found[-1][0]) ** 2)

        monkeypatch.setattr(images_model.dsm, "denoising_lognormal", loss)
        model.loss(jax.random.key(0), params, row, mean=0.0, std=1.0)
    x, noise, score = model.standardise(row[:-1].astype(jnp.float32)), found[0][2], model.score(params)
    turned, z, _, basis = found[1]
    assert_allclose(basis @ z, x, rtol=1e-4, atol=1e-5)
    assert_allclose(basis @ turned, score(x + noise, jnp.float32(0.7)), rtol=1e-4, atol=1e-4)


def test_principal_components_are_those_of_the_data(split):
    scaling = data.scaling(split)
    basis, deviations = images_model.principal_components(split, scaling)
    z = scaling.standardise(split.train).astype(float) @ basis.astype(float)
    assert_allclose(basis.T @ basis, np.eye(64), atol=1e-5)
    assert_allclose(np.cov(z.T), np.diag(deviations**2 - scaling.grey_step**2 / 12), atol=1e-4)
    assert np.all(np.diff(deviations) <= 1e-9) and deviations[-1] == pytest.approx(scaling.grey_step / math.sqrt(12))
    # Their squares add up to the mean square of an image, 1 for each pixel.
    assert np.sum(deviations**2) == pytest.approx(64 * (1 + scaling.grey_step**2 / 12), rel=2e-3)


@pytest.mark.slow
def test_completions_keep_what_is_known(split):
    model, params = model_of(split, seed=0)
    mask = images_model.upper_half((8, 8))
    assert_array_equal(mask, [True] * 32 + [False] * 32)
    known = jnp.asarray(model.scaling.standardise(split.heldout[:2]), jnp.float32)
    zeros, where = jnp.zeros(2, jnp.int32), jnp.asarray(mask)
    x = images_model.complete(jax.random.key(1), model.score(params), model, known, zeros, where, HEUN, 3)
    assert x.shape == (2, 3, 64)
    assert_array_equal(x[:, :, mask], np.broadcast_to(known[:, None, mask], (2, 3, 32)))
    # Three different ones.
    assert np.abs(np.diff(np.asarray(x)[:, :, ~mask], axis=1)).max() > 1e-2


@pytest.mark.slow
def test_images_of_every_class_from_the_same_noises(split):
    model, params = model_of(split, classes=True, seed=0)
    score, key = model.score(params), jax.random.key(5)
    x = images_model.by_class(key, score, model, HEUN._replace(sampler="flow"), 1.0, 2)
    assert x.shape == (20, 64)
    draw = jax.jit(functools.partial(images_model.sample, model=model, how=HEUN._replace(guidance=1.0), num=20))
    assert_allclose(x, draw(key, params), rtol=1e-4, atol=1e-4)


def test_images_of_the_classes_in_turn(split):
    model, params = model_of(split, classes=True, seed=0)
    draw = jax.jit(lambda key, params: images_model.sample(key, params, model=model, how=how, num=12))
    how = HEUN._replace(guidance=1.0)
    x = draw(jax.random.key(5), params)
    # Weight 1 is the score of the class alone.
    sigmas = jnp.asarray(edm.karras_sigmas(4, 20.0, 0.02), jnp.float32)

    @jax.jit
    def by_hand(key, label):
        start = 20.0 * jax.random.normal(jax.random.split(key)[0], (64,), jnp.float32)
        return edm.heun(lambda x, sigma: model.score(params)(x, sigma, label), start, sigmas)

    keys = jax.random.split(jax.random.key(5), 12)
    for i, label in ((0, 0), (7, 7), (11, 1)):
        assert_allclose(x[i], by_hand(keys[i], label), rtol=1e-4, atol=1e-4)
    assert np.abs(np.asarray(x[11] - by_hand(keys[11], 2))).max() > 1e-2


@pytest.mark.slow
def test_guidance_pulls_samples_from_those_without_a_class(split):
    model, params = model_of(split, classes=True, seed=0)
    draw = lambda weight: jax.jit(  # noqa: E731
        functools.partial(images_model.sample, model=model, how=HEUN._replace(guidance=weight), num=3)
    )(jax.random.key(5), params)
    # Weight 0 has no class; guidance that is not asked for neither.
    assert_allclose(draw(0.0), draw(None), rtol=1e-4, atol=1e-4)
    assert np.abs(np.asarray(draw(3.0) - draw(None))).max() > 1e-2


@pytest.mark.parametrize("dequantised", [False, True])
def test_a_pixel_comes_back_from_anywhere_in_its_step(dequantised, split):
    model, _ = model_of(split, dequantised=dequantised)
    low, high = (0.01, 0.99) if dequantised else (-0.49, 0.49)
    u = np.random.default_rng(0).uniform(low, high, split.train.shape)
    assert_array_equal(model.pixels(model.scaling.standardise(split.train + u)), split.train)


def test_a_dequantised_model_is_trained_on_pixels_within_their_step(split, monkeypatch):
    seen, pixels = [], []
    monkeypatch.setattr(images_model.dsm, "denoising_lognormal", lambda key, score, x, **_: seen.append(x))
    row = jnp.asarray(images_model.rows(split)[0][0])
    for dequantised in (False, True):
        model, params = model_of(split, dequantised=dequantised)
        model.loss(jax.random.key(0), params, row, mean=-0.5, std=1.2)
        pixels.append(model.scaling.pixels(model.basis.astype(float) @ np.asarray(seen[-1], np.float64)))
    plain, spread = (each - split.train[0] for each in pixels)
    assert_allclose(plain, 0, atol=1e-5)
    # What is above the darkest ink is cut off by `pixels`.
    below = split.train[0] < 16
    assert spread.min() > -1e-5 and spread.max() < 1 + 1e-5 and 0.3 < spread[below].mean() < 0.7


def test_rows_hold_pixels_and_labels_exactly(split):
    grey = np.arange(512, dtype=np.float32).reshape(128, 4) % 256
    labels = np.arange(128) % 10
    fine = data.Split(grey, labels, grey[::-1], labels[::-1], (2, 2), 256, "grey")
    for each in (split, fine):
        train, heldout = images_model.rows(each)
        for found, x, y in ((train, each.train, each.train_labels), (heldout, each.heldout, each.heldout_labels)):
            assert found.dtype == np.uint8
            assert_array_equal(found[:, :-1], x)
            assert_array_equal(found[:, -1], y)


@pytest.mark.slow
def test_the_ways_to_images_end_where_the_sampler_does(split):
    model, params = model_of(split, seed=0)
    score, key = model.score(params), jax.random.key(2)
    sigmas = jnp.asarray(edm.karras_sigmas(4, 20.0, 0.02), jnp.float32)
    heun = jax.jit(jax.vmap(lambda x: edm.heun(score, x, sigmas)))
    path, levels = images_model.trajectory(key, score, model, HEUN, 3)
    x = 20.0 * jax.random.normal(key, (3, 64), jnp.float32)
    assert path.shape == (3, 5, 64)
    assert_allclose(levels, [*sigmas, 0], rtol=1e-6)
    assert_allclose(path[:, 0], x / np.sqrt(np.float32(401)), rtol=1e-5)
    assert_allclose(path[:, -1], heun(x), rtol=1e-3, atol=1e-4)
    # Of many levels eleven are shown.
    many, few = images_model.trajectory(key, score, model, HEUN._replace(levels=32), 1)
    assert many.shape == (1, 11, 64) and few.shape == (11,) and np.all(np.diff(few) < 0)
    between = np.asarray(images_model.interpolate(key, score, model, HEUN, 2, 3)).reshape(2, 3, 64)
    first, second = jax.random.normal(key, (2, 2, 1, 64), jnp.float32)[:, :, 0]
    assert_allclose(between[:, 0], heun(20.0 * first), rtol=1e-3, atol=1e-4)
    assert_allclose(between[:, 2], heun(20.0 * second), rtol=1e-3, atol=1e-4)
    middle = (first + second) / np.sqrt(np.float32(2))
    assert_allclose(between[:, 1], heun(20.0 * middle), rtol=1e-3, atol=1e-3)
