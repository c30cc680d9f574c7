"""Images from files that somebody else wrote: every reason not to trust one is a ValueError that says where."""

import lzma
import struct
import tokenize
import warnings
import zipfile
import zlib
from pathlib import Path

import numpy as np
from jaxtyping import Float
from PIL import Image

from experiments.record import require

MOST = 2**31
"""Bytes at most of an array in an archive, which a small file could promise in any number."""
DAMAGED = OSError, EOFError, ValueError, SyntaxError, IndexError, KeyError, OverflowError, struct.error, zlib.error
"""What Pillow raises for files that are broken; NumPy and zipfile raise more."""
DAMAGED_ARRAY = *DAMAGED, RuntimeError, MemoryError, zipfile.BadZipFile, lzma.LZMAError, tokenize.TokenError


def read(path: Path, shape: tuple[int, ...], levels: int) -> Float[np.ndarray, "N D"]:
    """Read the images of a folder of .png files, by name, or of one .npy or .npz file: rows of pixels, 0 to levels - 1.

    - A .png has 8 bits of grey, or of red, green and blue, all the same and nowhere transparent. 0 to 255 are
      rescaled to 0 to levels - 1 and rounded.
    - An array [N, H, W] or [N, D] has pixels as they are; they need not be whole. An .npz holds one.

    Nothing is unpickled. Raises ValueError with the file, and with the place in it, for images of another size than
    shape = (H, W), of another kind, not finite or out of range, for no images and for files that cannot be read.
    """
    require(path.exists(), f"{path}: there is no such file or folder")
    if not path.is_dir():
        require(path.suffix in (".npy", ".npz"), f"{path}: it must be a folder of .png files, a .npy or a .npz file")
        return _checked(_array(path), path, shape, levels)
    files = sorted(file for file in path.iterdir() if file.suffix.lower() == ".png")
    require(len(files) > 0, f"{path}: there is no .png in this folder")
    with warnings.catch_warnings():
        # Of size: it is looked at before any pixel is read.
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)
        grey = np.stack([_png(file, shape) for file in files])
    return np.rint(grey.reshape(len(files), -1) * ((levels - 1) / 255))


def _png(path: Path, shape: tuple[int, ...]) -> np.ndarray:
    height, width = shape
    try:
        with Image.open(path, formats=("PNG",)) as image:
            mode, size = image.mode, image.size
            found = np.asarray(image) if size == (width, height) else np.empty(0)
    except (*DAMAGED, Image.DecompressionBombError) as error:
        raise ValueError(f"{path}: not a whole PNG file ({_line(error)})") from None
    require(size == (width, height), f"{path}: {size[1]} x {size[0]} pixels; {height} x {width} are needed")
    kinds = "8 bits of grey (L), or of red, green and blue (RGB), are needed"
    require(mode in ("L", "RGB", "RGBA"), f"{path}: pixels of mode {mode}; {kinds}")
    if mode == "L":
        return found
    if len(wrong := np.argwhere(found[..., 3:] != 255)):
        raise ValueError(f"{path}: pixel {wrong[0, :2].tolist()} is transparent")
    if len(wrong := np.argwhere(found[..., :1] != found[..., 1:3])):
        row, column = wrong[0, :2].tolist()
        raise ValueError(
            f"{path}: pixel {[row, column]} has the colour {found[row, column, :3].tolist()}, which is no grey"
        )
    return found[..., 0]


def _array(path: Path) -> np.ndarray:
    try:
        with warnings.catch_warnings():
            # Of headers as NumPy for Python 2 wrote them.
            warnings.simplefilter("ignore", UserWarning)
            # Mapped, an array cannot promise more than its file has.
            return _member(path) if path.suffix == ".npz" else np.lib.format.open_memmap(path, mode="r")
    except DAMAGED_ARRAY as error:
        raise ValueError(f"{path}: not an array of pixels ({_line(error)})") from None


def _member(path: Path) -> np.ndarray:
    with open(path, "rb") as file, zipfile.ZipFile(file) as archive:
        members = archive.infolist()
        names = ", ".join(repr(member.filename) for member in members) or "nothing"
        require(len(members) == 1, f"it holds {names}; one array is needed")
        size = members[0].file_size
        require(size <= MOST, f"{names} has {size} bytes, more than the {MOST} that are read")
        with archive.open(members[0]) as member:
            return np.lib.format.read_array(member, allow_pickle=False)


def _checked(images: np.ndarray, path: Path, shape: tuple[int, ...], levels: int) -> np.ndarray:
    require(images.dtype.kind in "iuf", f"{path}: pixels of type {images.dtype}; real numbers are needed")
    height, width = shape
    found = f"{path}: an array of shape {list(images.shape)}"
    fits = images.shape[1:] in ((height, width), (height * width,))
    require(fits, f"{found}; [N, {height}, {width}] or [N, {height * width}] is needed")
    require(len(images) > 0, f"{found} holds no images")
    # Not a number is in no range.
    wrong = np.argwhere(~((images >= 0) & (images <= levels - 1)))
    if len(wrong):
        value = images[tuple(wrong[0])]
        raise ValueError(f"{path}: pixel {wrong[0].tolist()} is {value}; pixels are 0 to {levels - 1}")
    return images.reshape(len(images), -1)


def _line(error: BaseException) -> str:
    return " ".join(str(error).split()) or "it ends early"
