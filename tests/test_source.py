"""Claims about `fluxnb.source`: pictures of every mode, size and kind of damage."""

import hashlib
import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from fluxnb.errors import InputError
from fluxnb.source import read

RED, GREY = (200, 30, 40), (128, 128, 128)


def plain(mode="RGB", colour=RED, size=(32, 16)):
    image = Image.new("RGB", size, colour)
    return image.quantize(2) if mode == "P" else image.convert(mode)


def noise(width=32, height=16):
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8))


def pixels(picture):
    return np.asarray(read(picture).image).astype(int)


def test_a_path_an_image_and_an_array_are_the_same_picture(tmp_path):
    noise().save(tmp_path / "a.png")
    forms = (str(tmp_path / "a.png"), tmp_path / "a.png", noise(), np.asarray(noise()))
    digests = {read(form).digest for form in forms}
    assert digests == {hashlib.sha256(np.asarray(noise()).tobytes()).hexdigest()}


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "P", "CMYK", "YCbCr", "HSV", "RGBX"])
def test_every_mode_of_colour_comes_out_as_it_looks(mode):
    assert np.abs(pixels(plain(mode)) - RED).max() <= 3  # YCbCr and HSV round


@pytest.mark.parametrize("mode", ["L", "LA", "I;16", "I"])
def test_every_mode_of_grey_comes_out_as_it_looks(mode):
    image = plain("L", GREY).convert(mode) if mode in ("L", "LA") else None
    if image is None:
        deep = np.full((16, 32), 128 * 257)
        image = Image.fromarray(deep.astype({"I;16": np.uint16, "I": np.int32}[mode]))
        assert image.mode == mode
    assert (pixels(image) == 128).all()


def test_sixteen_bits_of_a_file_keep_their_scale(tmp_path):
    Image.fromarray(np.full((16, 16), 65535 // 2, np.uint16)).save(tmp_path / "deep.png")
    assert (pixels(tmp_path / "deep.png") == 127).all()


def test_black_and_white_are_black_and_white():
    assert set(np.unique(pixels(noise().convert("1")))) == {0, 255}


@pytest.mark.parametrize("form", ["RGBA", "LA", "P", "RGB"])
def test_what_is_transparent_lies_on_white(form, tmp_path):
    path = tmp_path / "clear.png"
    if form == "RGB":  # one colour that stands for nothing
        plain().save(path, transparency=RED)
    elif form == "P":
        plain("P").save(path, transparency=plain("P").getpixel((0, 0)))
    else:
        Image.new(form, (32, 16), 0).save(path)
    assert (pixels(path) == 255).all()


def test_half_transparent_is_half_white():
    assert np.abs(pixels(Image.new("RGBA", (8, 8), (0, 0, 0, 51))) - 204).max() <= 1


@pytest.mark.parametrize("turn", range(1, 9))
def test_exif_rotation_is_honoured(turn, tmp_path):
    upright = np.zeros((16, 32, 3), np.uint8)
    upright[:8, :16] = 255  # white at the top left
    stored = {
        1: upright,
        2: upright[:, ::-1],
        3: upright[::-1, ::-1],
        4: upright[::-1],
        5: upright.swapaxes(0, 1),
        6: np.rot90(upright, 1),
        7: upright[::-1, ::-1].swapaxes(0, 1),
        8: np.rot90(upright, -1),
    }[turn]
    exif = Image.Exif()
    exif[0x0112] = turn
    Image.fromarray(np.ascontiguousarray(stored)).save(tmp_path / "turned.png", exif=exif)
    assert np.array_equal(pixels(tmp_path / "turned.png"), upright)


def test_reading_leaves_the_image_alone():
    image = plain("RGBA")
    read(image)
    assert (image.mode, image.size) == ("RGBA", (32, 16))


def test_an_animation_gives_its_first_frame(tmp_path):
    plain().save(tmp_path / "film.gif", save_all=True, append_images=[plain(colour=GREY)])
    assert np.abs(pixels(tmp_path / "film.gif") - RED).max() <= 1


def test_floats_and_bytes_of_an_array_are_the_same_picture():
    image = np.asarray(noise())
    assert np.array_equal(pixels(image / 255), pixels(image))
    assert np.array_equal(pixels(image[..., :1]), pixels(image[..., 0]))


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.zeros((4, 4, 2), np.uint8), r"array of shape \(4, 4, 2\) is no picture"),
        (np.zeros(4, np.uint8), r"array of shape \(4,\)"),
        (np.full((4, 4, 3), 2.0), "not all in 0..1"),
        (np.full((4, 4, 3), np.nan), "not all in 0..1"),
        (np.zeros((4, 4, 3), np.int64), "numbers are int64"),
        (np.zeros((0, 4, 3), np.uint8), "has 4 x 0 pixels"),
        (Image.new("F", (4, 4)), "grey values of unknown range"),
        (Image.new("I", (4, 4), 70000), "grey values of unknown range"),
        (Image.new("La", (4, 4)), "cannot be decoded"),
        (7, "the picture is 7; give a path, a Pillow image or an array"),
        (b"cat.png", "the picture is b'cat.png'"),
    ],
)
def test_what_is_no_picture_is_one_error(array, message):
    with pytest.raises(InputError, match=message):
        read(array)


def test_files_that_cannot_be_read_are_one_error(tmp_path):
    def fails(message):
        with pytest.raises(InputError, match=message):
            read(tmp_path / "a")

    fails("there is no picture .*a; check the path")
    (tmp_path / "a").write_bytes(b"")
    fails("no picture that Pillow knows")
    (tmp_path / "a").write_bytes(b"<svg/>")
    fails("no picture that Pillow knows")
    (tmp_path / "a").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n")
    fails("PostScript program")
    (tmp_path / "a").unlink()
    (tmp_path / "a").mkdir()
    fails("cannot be read .*directory")
    with pytest.raises(InputError, match="cannot be read"):
        read("a\0b")


@pytest.mark.parametrize("form", ["png", "jpeg", "webp", "gif", "bmp", "tiff"])
def test_a_file_that_is_cut_off_anywhere_is_one_error(form, tmp_path):
    data = io.BytesIO()
    noise(64, 64).save(data, form)
    path = tmp_path / "cut"
    for share in (0.1, 0.5, 0.9):
        path.write_bytes(data.getvalue()[: int(share * len(data.getvalue()))])
        with pytest.raises(InputError):
            read(path)


def test_a_decompression_bomb_is_refused_before_it_is_unpacked(tmp_path):
    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = struct.pack(">IIBBBBB", 60000, 60000, 8, 2, 0, 0, 0)  # 10 GB
    (tmp_path / "bomb.png").write_bytes(
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(bytes(1 << 16)))
    )
    with pytest.raises(InputError, match=r"bomb.png is too large .*scale it down"):
        read(tmp_path / "bomb.png")


@pytest.mark.parametrize(
    ("size", "most", "expected"),
    [
        ((512, 512), (128, 128), (64, 64)),
        ((768, 512), (128, 128), (64, 96)),
        ((500, 300), (128, 128), (38, 62)),  # 304 x 496
        ((4000, 3000), (128, 128), (110, 148)),  # 880 x 1184, about the area of 1024 x 1024
        ((512, 512), (16, 16), (16, 16)),
        ((1, 1), (128, 128), (2, 2)),
        ((3000, 2), (128, 128), (2, 376)),
    ],
)
def test_the_own_size_is_that_of_the_picture_up_to_an_area(size, most, expected):
    assert read(plain(size=size)).latent_size(most) == expected


def test_pixels_are_fitted_to_the_size_in_minus_one_to_one():
    found = read(plain(size=(33, 77))).pixels((4, 6))
    assert found.shape == (1, 32, 48, 3) and found.dtype == np.float32
    assert np.abs(found - (np.array(RED) / 127.5 - 1)).max() < 1e-6
    whole = read(noise()).pixels((2, 4))  # its own size: not a number is changed
    assert np.array_equal(np.rint((whole[0] + 1) * 127.5), np.asarray(noise()))
