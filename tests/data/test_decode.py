"""One image file: the crop and the centre of torchvision, to the bit."""

from collections import Counter
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from PIL import Image
from scipy import stats

from acdc.data.decode import Crop, Draw, View, draw_crop, read
from acdc.vision import torchvision_module
from tests.data.pictures import picture

VIEWS = [View(224, 256), View(32, 36), View(112, 112)]
SHAPES = [(500, 375), (300, 299), (224, 224), (2000, 90), (31, 640), (1, 1)]


@pytest.fixture(scope="module")
def transforms() -> ModuleType:
    return torchvision_module("torchvision.transforms")


@pytest.mark.parametrize("view", VIEWS)
@pytest.mark.parametrize("shape", SHAPES)
def test_centre(shape: tuple[int, int], view: View, tmp_path: Path, transforms: ModuleType) -> None:
    image = picture(3, *shape)
    image.save(tmp_path / "image.png")
    theirs = transforms.CenterCrop(view.size)(transforms.Resize(view.resize)(image))
    assert np.array_equal(read(str(tmp_path / "image.png"), view, None), np.asarray(theirs))


@pytest.mark.parametrize("shape", SHAPES)
def test_crop(shape: tuple[int, int], tmp_path: Path, transforms: ModuleType) -> None:
    path = tmp_path / "image.JPEG"
    picture(4, *shape).save(path, quality=90)
    for position in range(6):
        crop = draw_crop(*shape, Draw(99, position))
        window = (crop.top, crop.left, crop.height, crop.width)
        view = VIEWS[position % 3]
        with Image.open(path) as image:
            theirs = transforms.functional.resized_crop(
                image.convert("RGB"), *window, [view.size, view.size]
            )
        theirs = transforms.functional.hflip(theirs) if crop.mirrored else theirs
        assert np.array_equal(read(str(path), view, Draw(99, position)), np.asarray(theirs))


@pytest.mark.parametrize("shape", [(500, 375), (64, 64), (2000, 90)])
def test_distribution_of_crops(shape: tuple[int, int], transforms: ModuleType) -> None:
    ours = np.array([draw_crop(*shape, Draw(5, at)) for at in range(2000)])
    torch.manual_seed(0)
    image, draw = Image.new("RGB", shape), transforms.RandomResizedCrop.get_params
    found = [draw(image, (0.08, 1.0), (3 / 4, 4 / 3)) for _ in range(2000)]
    theirs = np.array([(left, top, w, h) for top, left, h, w in found])
    assert (ours[:, :2] + ours[:, 2:4] <= shape).all()
    mirrored = ours[:, 4] == 1
    assert stats.binomtest(int(mirrored.sum()), len(ours)).pvalue > 1e-3
    for column in range(4):
        assert stats.ks_2samp(ours[:, column], theirs[:, column]).pvalue > 1e-3
        assert stats.ks_2samp(ours[mirrored, column], ours[~mirrored, column]).pvalue > 1e-3


def test_fallback_crop() -> None:
    """Where no window fits, the largest one in the middle is taken."""
    found = Counter(draw_crop(2000, 20, Draw(1, at))[:4] for at in range(200))
    assert max(found, key=lambda crop: found[crop]) == (986, 0, 27, 20)


def test_draws_are_functions_of_key_and_position() -> None:
    once = [draw_crop(500, 375, Draw(8, at)) for at in range(50)]
    again = {at: draw_crop(500, 375, Draw(8, at)) for at in reversed(range(50))}
    assert once == [again[at] for at in range(50)]
    assert len({crop[:4] for crop in once}) == 50
    assert draw_crop(500, 375, Draw(9, 0)) != once[0]
    # Golden: results of runs on images in files depend on every bit.
    assert once[:2] == [Crop(158, 100, 316, 243, True), Crop(157, 31, 236, 253, True)]


@pytest.mark.parametrize("mode", ["L", "P", "CMYK", "RGBA", "LA", "1"])
def test_colour_modes(mode: str, tmp_path: Path) -> None:
    path = tmp_path / ("image.tif" if mode == "CMYK" else "image.png")
    picture(5, 300, 260).convert(mode).save(path)
    assert read(str(path), View(32, 36), None).shape == (32, 32, 3)
