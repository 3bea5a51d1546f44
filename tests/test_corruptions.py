"""Corruptions of images: laws, slow oracles, planted models that must suffer from one and not from another, refusals."""

import io
import math
from functools import partial

import numpy as np
import pytest
import scipy.ndimage
import torch
from PIL import Image
from rich.console import Console
from torch import nn

import pellucid.captum.robust as captum
from pellucid import InputError, OptionError, OutputError, PellucidWarning, TargetError
from pellucid.robust import (
    CORRUPTIONS,
    SEVERITIES,
    Grid,
    Robustness,
    Summary,
    Trials,
    all_right,
    compare,
    corrupted,
    draw_corruptions,
    robustness,
    smallest,
)

from .models import assert_same_state, state_of

NAMES = list(CORRUPTIONS)
RANDOM = {"gaussian_noise", "shot_noise", "impulse_noise", "motion_blur", "rotation", "translation"}


def photographs(count=4, channels=3, height=24, width=30):
    """Smooth, with edges."""
    source = torch.Generator().manual_seed(1)
    coarse = torch.rand(count, channels, 5, 5, generator=source)
    smooth = nn.functional.interpolate(coarse, (height, width), mode="bicubic").clamp(0.05, 0.95)
    smooth[:, :, height // 3 : height // 2, width // 4 : width // 2] = 0.9
    return smooth


def photograph(**shape):
    return photographs(1, **shape)[0]


@pytest.fixture(params=NAMES)
def name(request):
    return request.param


# Laws


@pytest.mark.parametrize("severity", [1, 2.5, 5])
def test_a_batch_equals_its_images_one_by_one_in_any_order(name, severity):
    images = photographs()
    together = corrupted(images, name, severity, 7)
    assert not torch.equal(together, images)
    for row, image in zip(together, images, strict=True):
        assert torch.equal(corrupted(image, name, severity, 7), row)
        assert torch.equal(corrupted(image[None], name, severity, 7)[0], row)
    order = [2, 0, 3, 1]
    assert torch.equal(corrupted(images[order], name, severity, 7), together[order])


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_dtype_shape_and_bounds_stay_and_severity_zero_changes_nothing(name, dtype):
    images = (photographs() * 255).round().div(255).to(dtype)
    kept = images.clone()
    found = corrupted(images, name, 4, 3)
    assert (found.dtype, found.shape) == (dtype, images.shape)
    assert 0 <= found.min() <= found.max() <= 1
    assert torch.equal(images, kept)
    assert torch.equal(corrupted(images, name, 0, 3), images)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16])
def test_the_same_picture_has_the_same_noise_in_every_precision(name, dtype):
    images = (photographs() * 255).round().div(255)
    one, other = corrupted(images, name, 3, 5), corrupted(images.to(dtype), name, 3, 5)
    assert (one - other.float()).abs().quantile(0.99) < 0.01


def test_bytes(name):
    images = (photographs() * 255).round().to(torch.uint8)
    found = corrupted(images, name, 3, 5)
    assert found.dtype == torch.uint8
    expected = corrupted(images.float() / 255, name, 3, 5) * 255
    assert (found.float() - expected).abs().max() < 0.51


def test_what_is_severe_changes_more(name):
    images = photographs(8, 3, 32, 32)
    change = [float((corrupted(images, name, severity, 2) - images).square().mean()) for severity in (0, *SEVERITIES)]
    assert change == sorted(change)
    assert change[0] == 0 < change[1]
    assert change[-1] > 3 * change[1]


def test_seeds(name):
    images = photographs()
    before = torch.get_rng_state()
    first = corrupted(images, name, 4)
    assert torch.equal(before, torch.get_rng_state())
    assert torch.equal(first, corrupted(images, name, 4))
    assert torch.equal(corrupted(images, name, 4, 1), corrupted(images, name, 4, 1))
    others = [corrupted(images, name, 4, seed) for seed in range(4)]
    assert any(not torch.equal(others[0], other) for other in others[1:]) == (name in RANDOM)
    torch.manual_seed(123)
    assert name not in ("gaussian_noise", "shot_noise") or not torch.equal(first, corrupted(images, name, 4))


@pytest.mark.parametrize("shape", [(1, 8, 8), (2, 5, 9), (3, 1, 1), (4, 3, 16), (3, 16, 3)])
def test_images_of_any_size_and_number_of_channels(name, shape):
    image = torch.rand(shape)
    for severity in SEVERITIES:
        found = corrupted(image, name, severity, 0)
        assert found.shape == shape
        assert found.isfinite().all()


def test_bounds_only_shift_and_stretch(name):
    images = photographs().double()
    expected = corrupted(images, name, 3, 4) * 5 - 2
    torch.testing.assert_close(corrupted(images * 5 - 2, name, 3, 4, (-2, 3)), expected, atol=1e-5, rtol=0)
    mean, std = torch.tensor([0.4, 0.5, 0.6]).view(3, 1, 1).double(), torch.tensor([0.2, 0.3, 0.25]).view(3, 1, 1).double()
    standard = corrupted((images - mean) / std, name, 3, 4, (-mean / std, (1 - mean) / std))
    torch.testing.assert_close(standard * std + mean, corrupted(images, name, 3, 4), atol=1e-5, rtol=0)


def test_what_looks_the_same_everywhere_is_neither_blurred_nor_moved():
    flat = torch.full((3, 20, 20), 0.3)
    for name in ("gaussian_blur", "motion_blur", "contrast", "pixelate", "rotation", "translation"):
        torch.testing.assert_close(corrupted(flat, name, 5, 1), flat)


# Oracles


def test_noise_has_the_deviation_that_it_should():
    grey = torch.full((3, 100, 100), 0.5)
    noise = CORRUPTIONS["gaussian_noise"].by(grey, 0.1, seed=1) - grey
    assert float(noise.mean()) == pytest.approx(0, abs=0.003)
    assert float(noise.std()) == pytest.approx(0.1, rel=0.02)
    for brightness in (0.2, 0.6):
        shot = CORRUPTIONS["shot_noise"].by(torch.full((3, 100, 100), brightness), 0.1, seed=1)
        assert float(shot.mean()) == pytest.approx(brightness, rel=0.01)
        assert float(shot.std()) == pytest.approx(0.1 * math.sqrt(brightness), rel=0.02)
        torch.testing.assert_close(shot * 100, (shot * 100).round())  # photons
    lost = CORRUPTIONS["impulse_noise"].by(grey, 0.2, seed=1)
    assert [float((lost == value).float().mean()) for value in (0, 0.5, 1)] == pytest.approx([0.1, 0.8, 0.1], abs=0.006)


def test_gaussian_blur_is_scipys():
    image = photograph(height=40, width=60).double()
    for amount in (0.02, 0.05):
        expected = [scipy.ndimage.gaussian_filter(channel, amount * 40, mode="nearest", truncate=6) for channel in image.numpy()]
        found = CORRUPTIONS["gaussian_blur"].by(image, amount)
        torch.testing.assert_close(found, torch.from_numpy(np.stack(expected)), atol=2e-4, rtol=0)


def test_motion_blur_spreads_a_dot_along_a_line_of_its_length():
    dot = torch.zeros(1, 61, 61, dtype=torch.float64)
    dot[0, 30, 30] = 1
    angles = []
    for seed in range(6):
        found = CORRUPTIONS["motion_blur"].by(dot, 0.4, seed=seed)[0]
        assert float(found.sum()) == pytest.approx(1)
        places = torch.nonzero(found).double() - 30
        weights = found[found > 0]
        assert (weights @ places).abs().max() < 1e-9  # nothing is moved
        across, along = torch.linalg.eigvalsh((places * weights[:, None]).T @ places)
        assert float(along) == pytest.approx((0.4 * 61) ** 2 / 12, rel=0.06)
        assert float(across) < 0.4
        angles.append(float(torch.atan2(*(found[found > 0] * places.prod(1)).sum()[None].repeat(2))))
    assert len(set(angles)) > 1


def test_light():
    image = photograph()
    torch.testing.assert_close(CORRUPTIONS["brightness"].by(image, 0.25), (image + 0.25).clamp(max=1))
    found = CORRUPTIONS["contrast"].by(image, 0.6)
    torch.testing.assert_close(found.mean((1, 2)), image.mean((1, 2)))
    torch.testing.assert_close(found.std((1, 2)), 0.4 * image.std((1, 2)))


def test_pixels_are_the_means_of_blocks():
    image = photograph(height=12, width=20)
    blocks = image.reshape(3, 6, 2, 10, 2).mean((2, 4))
    torch.testing.assert_close(CORRUPTIONS["pixelate"].by(image, 0.5), blocks.repeat_interleave(2, 1).repeat_interleave(2, 2))


@pytest.mark.parametrize(("channels", "quality"), [(3, 20), (1, 35), (2, 60)])
def test_jpeg_is_pillows(channels, quality):
    image = photograph(channels=channels)
    pixels = np.rint(image.permute(1, 2, 0).numpy() * 255).astype(np.uint8)
    planes = [pixels] if channels == 3 else [pixels[..., i] for i in range(channels)]
    expected = []
    for plane in planes:
        file = io.BytesIO()
        Image.fromarray(plane).save(file, format="jpeg", quality=quality)
        expected.append(np.array(Image.open(file)))
    expected = expected[0] if channels == 3 else np.stack(expected, 2)
    found = CORRUPTIONS["jpeg"].by(image, 100 - quality)
    torch.testing.assert_close(found.permute(1, 2, 0) * 255, torch.from_numpy(expected).float())


def test_rotation_is_scipys_to_one_side_or_the_other():
    image, sides = photograph(height=24, width=24).double(), set()
    for seed in range(6):
        quarter = CORRUPTIONS["rotation"].by(image, 90, seed=seed)
        which = [k for k in (1, 3) if torch.allclose(quarter, torch.rot90(image, k, (1, 2)), atol=1e-5)]
        assert len(which) == 1
        sides.update(which)
        found = CORRUPTIONS["rotation"].by(photograph(height=24, width=31).double(), 20, seed=seed)
        both = [
            scipy.ndimage.rotate(photograph(height=24, width=31).double(), angle, (1, 2), reshape=False, order=1, mode="nearest")
            for angle in (20, -20)
        ]
        assert min(float((found - torch.from_numpy(each)).abs().max()) for each in both) < 1e-5
    assert sides == {1, 3}
    torch.testing.assert_close(CORRUPTIONS["rotation"].by(image, 180, seed=0), image.flip(1, 2), atol=1e-5, rtol=0)


def test_translation_moves_everything_so_far():
    dot = torch.zeros(1, 40, 60, dtype=torch.float64)
    dot[0, 18:22, 28:32] = 1
    ways = []
    for seed in range(6):
        found = CORRUPTIONS["translation"].by(dot, 0.2, seed=seed)[0]
        assert float(found.sum()) == pytest.approx(16)
        down, across = found.sum(1) @ torch.arange(40.0).double() / 16 - 19.5, found.sum(0) @ torch.arange(60.0).double() / 16 - 29.5
        assert math.hypot(down, across) == pytest.approx(8, rel=1e-4)
        ways.append(math.atan2(down, across))
    assert max(ways) - min(ways) > 1


def test_amounts_between_severities():
    noise = CORRUPTIONS["gaussian_noise"]
    assert [noise.amount(s) for s in (0, 0.5, 1, 2.25, 5)] == pytest.approx([0, 0.02, 0.04, 0.09, 0.26])
    image = photograph()
    assert torch.equal(noise(image, 2.25, seed=1), noise.by(image, 0.09, seed=1))
    for corruption in CORRUPTIONS.values():
        assert list(corruption.amounts) == sorted(set(corruption.amounts))
        assert corruption.amounts[-1] <= corruption.most


# What takes functions of images takes corruptions


def bright(images):
    """Class 1 where the mean is more than a half."""
    mean = images.mean((1, 2, 3))
    return torch.stack([0.5 - mean, mean - 0.5], 1)


def test_the_smallest_severity_that_changes_a_prediction():
    image = torch.full((1, 3, 16, 16), 0.32)
    brighter = partial(corrupted, name="brightness", seed=0)
    found = smallest(Trials(bright, image), brighter, "severity", Grid(0.0, 5.1, 0.1), lambda out: all_right(out, 0), search="binary")
    assert found.value == pytest.approx(1.9)  # adds 0.19
    assert (
        smallest(Trials(bright, image), partial(corrupted, name="contrast"), "severity", Grid(0, 6, 1), lambda o: all_right(o, 0)) is None
    )


def test_corruptions_among_attacks():
    images = photographs()
    metric = lambda output: output[:, 1]  # noqa: E731
    attacks = {"noise": partial(CORRUPTIONS["gaussian_noise"], seed=1), "light": partial(corrupted, name="brightness", severity=5)}
    found = compare(Trials(bright, images), metric, attacks, together=2)
    torch.testing.assert_close(found["light"]["mean"], bright(corrupted(images, "brightness", 5))[:, 1])
    torch.testing.assert_close(found["noise"]["mean"], bright(corrupted(images, "gaussian_noise", 3, 1))[:, 1])
    comparator = captum.AttackComparator(bright, metric)
    comparator.add_attack(CORRUPTIONS["jpeg"], "jpeg", attack_kwargs={"severity": 5})
    torch.testing.assert_close(comparator.evaluate(images)["jpeg"]["mean"], bright(corrupted(images, "jpeg", 5))[:, 1])
    assert Summary().add(found).rows()[2].attack == "light"


# A model under all of them


class Reader(nn.Module):
    """Reads which of two places is brighter, whatever the light."""

    def __init__(self):
        super().__init__()
        self.norm = nn.BatchNorm2d(3)

    def forward(self, images):
        images = self.norm(images)
        left, right = images[..., :8].mean((1, 2, 3)), images[..., 8:].mean((1, 2, 3))
        return torch.stack([left, right, -torch.ones_like(left)], 1)


def halves():
    images = 0.3 + 0.1 * torch.rand(12, 3, 16, 16)
    labels = torch.arange(12) % 2
    for image, label in zip(images, labels.tolist(), strict=True):
        image[..., slice(8, 16) if label else slice(0, 8)] += 0.25
    return images, labels


def test_accuracy_by_hand():
    (images, labels), model = halves(), Reader().eval()
    labels = labels.clone()
    labels[0] = 2  # never right
    severities, names = (1, 3.5), ["impulse_noise", "rotation", "contrast"]
    before = state_of(model)
    found = robustness(model, images, labels, names, severities, seed=5)
    assert_same_state(before, state_of(model))
    for row, name in enumerate(names):
        for column, severity in enumerate(severities):
            expected = [
                int(model(corrupted(image[None], name, severity, 5)).argmax()) == label
                for image, label in zip(images, labels.tolist(), strict=True)
            ]
            assert found.right[row, column].tolist() == expected
            assert float(found.accuracy[row, column]) == pytest.approx(sum(expected) / 12)
    assert found.clean_accuracy == pytest.approx(11 / 12)
    assert (found.corruptions, found.severities) == (tuple(names), severities)
    for at_most in (1, 5):
        again = robustness(model, images, labels.tolist(), names, severities, seed=5, at_most=at_most)
        assert torch.equal(again.right, found.right)


def test_a_model_suffers_from_what_it_depends_on():
    images, labels = halves()
    found = robustness(Reader().eval(), images, labels, seed=0)
    assert found.accuracy[found.corruptions.index("brightness")].tolist() == [1.0] * 5
    dark = torch.full((5, 3, 16, 16), 0.45) + 0.04 * torch.arange(5)[:, None, None, None]  # classes 0 0 1 1 1
    lit = robustness(bright, dark, corruptions=["brightness", "gaussian_blur", "contrast", "translation"], seed=0)
    assert lit.clean_accuracy == 1
    assert lit.accuracy.tolist() == [[0.6] * 5, *[[1.0] * 5] * 3]
    assert lit.corruption_error().tolist() == pytest.approx([0.4, 0, 0, 0])


def test_errors_relative_to_another_model():
    right = lambda rows: torch.tensor(rows, dtype=torch.bool)[None]  # noqa: E731
    one = Robustness(("a",), (1, 2), torch.tensor([True, True, True, False]), right([[1, 1, 0, 0], [1, 0, 0, 0]]))
    two = Robustness(("a",), (1, 2), torch.tensor([True, True, True, True]), right([[1, 1, 1, 0], [0, 0, 0, 0]]))
    assert float(one.corruption_error()) == pytest.approx((0.5 + 0.75) / 2)
    assert float(one.corruption_error(relative=True)) == pytest.approx((0.25 + 0.5) / 2)
    assert float(one.corruption_error(two)) == pytest.approx((0.5 + 0.75) / (0.25 + 1))
    assert float(one.corruption_error(two, relative=True)) == pytest.approx((0.25 + 0.5) / (0.25 + 1))
    with pytest.raises(InputError, match="under a the reference does not err"):
        one.corruption_error(Robustness(("a",), (1, 2), one.clean, right([[1] * 4, [1] * 4])))
    with pytest.raises(InputError, match="other corruptions or severities"):
        one.corruption_error(Robustness(("b",), (1, 2), one.clean, one.right))


def test_functions_of_ones_own():
    images, labels = halves()
    mirrored = lambda images, severity: images.flip(3) if severity > 2 else images  # noqa: E731
    found = robustness(Reader().eval(), images, labels, {"mirror": mirrored, "jpeg": CORRUPTIONS["jpeg"]}, (1, 3))
    assert found.accuracy.tolist() == [[1.0, 0.0], [1.0, 1.0]]


def test_without_a_known_class_a_model_is_not_right():
    broken = lambda images: bright(images) * torch.where(images.amax((1, 2, 3)) > 0.92, torch.nan, 1.0)[:, None]  # noqa: E731
    found = robustness(broken, torch.full((2, 1, 8, 8), 0.6) + torch.tensor([0.0, 0.35])[:, None, None, None], corruptions=["brightness"])
    assert found.clean.tolist() == [True, False]
    assert found.right[0].tolist() == [[True, False]] * 3 + [[False, False]] * 2  # 0.6 + 0.4 is beyond


def test_what_is_shown():
    images, labels = halves()
    found = robustness(Reader().eval(), images, labels, ["impulse_noise", "jpeg"], (1, 5), seed=0)
    assert repr(found).startswith("Robustness(12 images, 2 corruptions: right about 100")
    console = Console(width=100, record=True, file=io.StringIO())
    console.print(found)
    lines = console.export_text().splitlines()
    assert [line.split()[0] for line in lines[1:5]] == ["corruption", "─" * len(lines[2].strip()), "impulse", "jpeg"]
    figure = found.draw()
    figure.draw_without_rendering()
    heat, means = figure.axes
    assert [tick.get_text() for tick in heat.get_yticklabels()] == ["impulse noise", "jpeg"]
    shown = [f"{100 * share:.0f}" for share in found.accuracy.flatten().tolist()]
    assert [text.get_text() for text in heat.texts] == shown
    assert [text.get_text() for text in means.texts] == [f"{100 * share:.0f}" for share in found.accuracy.mean(1).tolist()]
    with pytest.raises(OptionError, match="width=2 leaves no room"):
        found.draw(2)


@pytest.mark.parametrize("channels", [1, 3])
def test_what_corruptions_look_like(channels):
    image = photograph(channels=channels)
    figure = draw_corruptions(image * 4 - 1, ["jpeg", "gaussian_noise"], (0, 5), seed=3, bounds=(-1, 3))
    figure.draw_without_rendering()
    shown = [axes.images[0].get_array() for axes in figure.axes]
    for array, (name, severity) in zip(shown, [("jpeg", 0), ("jpeg", 5), ("gaussian_noise", 0), ("gaussian_noise", 5)], strict=True):
        expected = corrupted(image, name, severity, 3).permute(1, 2, 0)
        np.testing.assert_allclose(array, expected[..., 0] if channels == 1 else expected, atol=1e-5)
    assert [axes.get_ylabel() for axes in figure.axes] == ["jpeg", "", "gaussian noise", ""]
    assert [axes.get_title() for axes in figure.axes] == ["severity 0", "5", "", ""]
    assert len(draw_corruptions(image, severities=[2]).axes) == len(NAMES)


# Refusals

PICTURE = torch.rand(3, 8, 8)


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        (lambda: corrupted(PICTURE, "fog"), OptionError, "there is no corruption 'fog'; choose one of 'gaussian_noise'"),
        (lambda: corrupted(PICTURE, "jpeg", 6), OptionError, "severity is 6"),
        (lambda: corrupted(PICTURE, "jpeg", -1), OptionError, "severity is -1"),
        (lambda: corrupted(PICTURE, "jpeg", "5"), OptionError, "severity is '5'"),
        (lambda: CORRUPTIONS["contrast"].by(PICTURE, 1.5), OptionError, "contrast by 1.5; its amount is the share.*from 0 to 1"),
        (lambda: corrupted(PICTURE, "jpeg", bounds=(1, 0)), OptionError, "the first must be below the second"),
        (lambda: corrupted(PICTURE, "jpeg", bounds=(0, math.inf)), OptionError, "both finite"),
        (lambda: corrupted(PICTURE, "jpeg", bounds=1), OptionError, "bounds is 1; give the least and the largest"),
        (lambda: corrupted(PICTURE, "jpeg", bounds=(torch.zeros(2, 1, 1), 1)), InputError, r"a bound has shape \(2, 1, 1\)"),
        (lambda: corrupted(PICTURE.long(), "jpeg"), InputError, "images are torch.int64; give floating point, or uint8"),
        (lambda: corrupted(PICTURE[0], "jpeg"), InputError, r"images have the shape \(8, 8\)"),
        (lambda: corrupted(PICTURE[:, :0], "jpeg"), InputError, r"images have the shape \(3, 0, 8\)"),
        (lambda: corrupted(PICTURE * torch.nan, "jpeg"), InputError, "192 NaN"),
        (lambda: corrupted(PICTURE.numpy(), "jpeg"), InputError, "not ndarray"),
        (lambda: draw_corruptions(PICTURE[None]), InputError, r"image is \(1, 3, 8, 8\); give one that can be looked at"),
        (lambda: draw_corruptions(PICTURE[:2]), InputError, r"image is \(2, 8, 8\)"),
        (lambda: draw_corruptions(PICTURE, []), OptionError, "0 corruptions at 5 severities are no picture"),
        (lambda: draw_corruptions(PICTURE, width=2), OptionError, "no picture of 2 inches"),
        (lambda: robustness(bright, PICTURE), InputError, r"images are Tensor of shape \(3, 8, 8\); give one tensor"),
        (lambda: robustness(bright, (PICTURE[None],)), InputError, "images are tuple; give one tensor"),
        (lambda: robustness(bright, PICTURE[None], corruptions=["snow"]), OptionError, "there is no corruption 'snow'"),
        (lambda: robustness(bright, PICTURE[None], corruptions=[]), OptionError, "corruptions is empty"),
        (lambda: robustness(bright, PICTURE[None], severities=[]), OptionError, "severities is empty"),
        (lambda: robustness(bright, PICTURE[None], severities=[7]), OptionError, "severity is 7"),
        (lambda: robustness(bright, PICTURE[None], [2]), TargetError, "labels go from 2 to 2, and the model has 2 classes"),
        (lambda: robustness(bright, PICTURE[None], [0, 1]), TargetError, r"labels are torch.int64 of shape \(2,\)"),
        (lambda: robustness(bright, PICTURE[None], [0.5]), TargetError, "labels are torch.float32"),
        (lambda: robustness(bright, PICTURE[None][:0]), InputError, "batch sizes"),
        (lambda: robustness(lambda x: x.mean((1, 2, 3)), PICTURE[None]), OutputError, r"the model returned \(1,\) for 1 images"),
        (lambda: robustness(bright, PICTURE[None], corruptions={"cut": lambda x, s: x[..., 1:]}), InputError, "it must keep their shape"),
    ],
)
def test_refused(change, error, words):
    with pytest.raises(error, match=words):
        change()


def test_images_beyond_the_bounds_are_reported():
    with pytest.warns(PellucidWarning, match="192 values of the images are beyond the bounds"):
        assert corrupted(PICTURE + 2, "brightness", 1).eq(1).all()
