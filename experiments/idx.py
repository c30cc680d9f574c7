"""IDX files, the format of MNIST and of the data sets made in its likeness.

A file is a magic number, 0x00000800 + d for an array of bytes with d dimensions; the d sizes; then the bytes, the last
index fastest. The numbers of the header have four bytes, the highest first. Images have d = 3 and labels d = 1; a set
has two files of each. Every file may be compressed by gzip, which its first bytes show. Where a message names a byte of
such a file, it counts them uncompressed.

Source: LeCun, Cortes and Burges, "The MNIST database of handwritten digits", the section on file formats.
"""

import gzip
import math
import os
import struct
import zlib
from pathlib import Path
from typing import IO, NamedTuple, NoReturn

import numpy as np
from jaxtyping import UInt8

NAMES = ("train-images-idx3-ubyte", "train-labels-idx1-ubyte", "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte")

GZIP = b"\x1f\x8b"
# The most bytes that one byte of a compressed file can stand for: deflate's limit, RFC 1951.
INFLATION = 1032
CHUNK = 1 << 20


class Half(NamedTuple):
    """Images and what they show."""

    images: UInt8[np.ndarray, "N H W"]
    labels: UInt8[np.ndarray, " N"]


def read_folder(folder: Path, num_classes: int = 10) -> tuple[Half, Half]:
    """Read the four files of a data set, for training and for testing; each is there plain or with the ending .gz.

    Raises FileNotFoundError where one is missing, and ValueError, which names file and place, for what `read` refuses,
    for images and labels of different number, images of different sizes, and labels that are not 0 to num_classes - 1.
    """
    if not 1 <= num_classes <= 256:
        raise ValueError(f"num_classes = {num_classes}: labels are bytes, of 1 to 256 classes")
    paths = [_find(folder, name) for name in NAMES]
    train, test = (_read_half(paths[i], paths[i + 1], num_classes) for i in (0, 2))
    if train.images.shape[1:] != test.images.shape[1:]:
        sizes = [_product(half.images.shape[1:]) for half in (train, test)]
        raise ValueError(f"{paths[0]} holds images of {sizes[0]} pixels, {paths[2]} of {sizes[1]}")
    return train, test


def read(path: Path, dimensions: int) -> UInt8[np.ndarray, "..."]:
    """Read the array of one file, which must have this many dimensions.

    Raises ValueError, which names file and place, for another magic number, a size of 0, a file that ends too early or
    too late, and a damaged gzip file. No more is held in memory than what the file contains, whatever its header says.
    """
    with open(path, "rb") as raw:
        held = os.fstat(raw.fileno()).st_size
        zipped = raw.peek(2)[:2] == GZIP
        try:
            return _decode(gzip.open(raw) if zipped else raw, path, dimensions, held * (INFLATION if zipped else 1))
        except (EOFError, zlib.error, gzip.BadGzipFile) as error:
            raise ValueError(f"{path}: not a whole gzip file ({error})") from None


def _decode(file: IO[bytes] | gzip.GzipFile, path: Path, dimensions: int, most: int) -> np.ndarray:
    def fail(byte: int, reason: str) -> NoReturn:
        raise ValueError(f"{path}: byte {byte}: {reason}")

    length, expected = 4 + 4 * dimensions, 0x800 + dimensions
    header = file.read(length)
    magic = int.from_bytes(header[:4], "big")
    if len(header) >= 4 and magic != expected:
        fail(0, f"the magic number is 0x{magic:08x}, not 0x{expected:08x}: bytes in {dimensions} dimensions")
    if len(header) < length:
        fail(len(header), f"the file ends inside its header of {length} bytes")
    sizes = struct.unpack(f">{dimensions}I", header[4:])
    if 0 in sizes:
        fail(4 + 4 * sizes.index(0), "a size of 0")
    end = length + math.prod(sizes)
    promise = f"{_product(sizes)} and the header are {end} bytes"
    if end > most:
        held = os.path.getsize(path)
        fail(4, f"{promise}; a file of {held} cannot hold them")
    # It grows with what is read: of a compressed file the header alone says how much that will be.
    body = bytearray()
    while chunk := file.read(min(CHUNK, end - length - len(body))):
        body += chunk
    if length + len(body) < end:
        fail(length + len(body), f"the file ends; {promise}")
    if file.read(1):
        fail(end, f"more bytes than {_product(sizes)}")
    return np.frombuffer(body, np.uint8).reshape(sizes)


def _read_half(images_path: Path, labels_path: Path, num_classes: int) -> Half:
    half = Half(read(images_path, 3), read(labels_path, 1))
    if len(half.images) != len(half.labels):
        numbers = f"{len(half.images)} images, {labels_path} holds {len(half.labels)} labels"
        raise ValueError(f"{images_path} holds {numbers}")
    wrong = np.flatnonzero(half.labels >= num_classes)
    if wrong.size:
        i = int(wrong[0])
        reason = f"label {i} is {half.labels[i]}; labels are 0 to {num_classes - 1}"
        raise ValueError(f"{labels_path}: byte {8 + i}: {reason}")
    return half


def _find(folder: Path, name: str) -> Path:
    for path in (folder / name, folder / f"{name}.gz"):
        if path.is_file():
            return path
    raise FileNotFoundError(f"no {name} or {name}.gz in {folder}")


def _product(sizes: tuple[int, ...]) -> str:
    return " x ".join(map(str, sizes))
