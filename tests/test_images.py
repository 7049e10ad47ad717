"""Claims about `fluxnb.images`."""

import numpy as np
import pytest
from PIL import Image

from fluxnb import images
from fluxnb.errors import InputError


def noise(height: int, width: int) -> Image.Image:
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8))


def test_bytes_follow_the_rule_of_diffusers():
    x = np.array([-2, -1, 0, 1 / 3, 1, 7], np.float32)
    assert images.to_uint8(x).tolist() == [0, 0, 128, 170, 255, 255]


def test_every_byte_survives_the_way_there_and_back():
    every = np.arange(256, dtype=np.uint8)
    assert (images.to_uint8(images.to_float(every)) == every).all()


def test_a_value_that_is_not_finite_is_an_error_that_counts_them():
    with pytest.raises(InputError, match="2 of 3 pixel values"):
        images.to_uint8(np.array([0, np.nan, np.inf]))


def test_a_picture_takes_one_batch_and_no_more():
    assert images.picture(np.zeros((1, 16, 32, 3))).size == (32, 16)
    with pytest.raises(InputError, match=r"\(2, 16, 32, 3\)"):
        images.picture(np.zeros((2, 16, 32, 3)))


@pytest.mark.parametrize("form", images.FORMATS)
def test_each_format_gives_a_file_of_its_kind(form):
    data = images.encode(noise(24, 40), form)
    head = {"png": b"\x89PNG", "jpeg": b"\xff\xd8\xff", "webp": b"RIFF"}[form]
    assert data.startswith(head)
    assert images.decode(data).size == (40, 24)


def test_png_is_lossless():
    image = noise(24, 40)
    assert images.decode(images.encode(image, "png")).tobytes() == image.tobytes()


def test_an_unknown_format_names_those_that_exist():
    with pytest.raises(InputError, match="'gif' is not one of png, jpeg, webp"):
        images.encode(noise(8, 8), "gif")


def test_a_grid_scales_each_map_to_its_own_top_and_leaves_zeros_alone():
    weights = np.array([[[0.0, 0.1]], [[0.0, 0.4]], [[0.0, 0.0]]])
    assert images.to_grid(weights).tolist() == [[[0, 255]], [[0, 255]], [[0, 0]]]


def test_colours_pass_through_the_nine_stops_and_grow_lighter():
    table = images.colours(np.arange(256)[None])[0].astype(int)
    assert tuple(table[0]) == images.HEAT[0] and tuple(table[255]) == images.HEAT[-1]
    light = table @ [0.2126, 0.7152, 0.0722]
    assert (np.diff(light) > -0.5).all()


def test_heat_lies_over_the_cells_where_the_weight_is():
    base = Image.new("RGB", (32, 32), (0, 128, 0))
    weights = np.zeros((4, 4))
    weights[1, 2] = 0.3
    shown = np.asarray(images.heat_over(base, weights, opacity=1.0))
    assert (shown[8:16, 16:24] == images.HEAT[-1]).all()
    assert (shown[:8] == images.HEAT[0]).all()
    assert images.heat_over(base, weights, opacity=0.0).tobytes() == base.tobytes()
    with pytest.raises(InputError, match=r"outside 0\.\.1"):
        images.heat_over(base, weights, opacity=1.5)


def test_a_contact_sheet_holds_every_picture_and_its_label():
    red, blue = Image.new("RGB", (64, 32), (255, 0, 0)), Image.new("RGB", (64, 64), (0, 0, 255))
    plain = images.contact_sheet([red, blue], side=64)
    assert plain.size == (64 + 4 + 64, 64)
    assert plain.getpixel((32, 32)) == (255, 0, 0) and plain.getpixel((32, 4)) == images.PAPER
    assert plain.getpixel((100, 4)) == (0, 0, 255)
    labelled = np.asarray(images.contact_sheet([red, blue], ["step 0", "step 9"], side=64))
    assert (labelled[64:, :64] < 200).any() and (labelled[64:, 68:] < 200).any()


def test_a_contact_sheet_wants_pictures_and_a_label_each():
    with pytest.raises(InputError, match="no pictures"):
        images.contact_sheet([])
    with pytest.raises(InputError, match="2 labels for 1 pictures"):
        images.contact_sheet([noise(8, 8)], ["a", "b"])
