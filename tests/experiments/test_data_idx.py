"""IDX files: what is in them is read, and what is wrong with them is said, with the file and the place."""

import gzip
import struct

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from experiments import idx

IMAGES = np.arange(3 * 2 * 4, dtype=np.uint8).reshape(3, 2, 4) * 11
LABELS = np.array([7, 0, 9], np.uint8)


def encoded(array, magic=None, sizes=None):
    magic = 0x800 + array.ndim if magic is None else magic
    return struct.pack(f">I{len(sizes or array.shape)}I", magic, *(sizes or array.shape)) + array.tobytes()


def write_four(folder, *, zipped=False, **changes):
    """Four good files, but for the changes, whose keys are indices into idx.NAMES."""
    contents = [encoded(IMAGES), encoded(LABELS), encoded(IMAGES[:2] + 1), encoded(LABELS[:2])]
    for i, name in enumerate(idx.NAMES):
        content = changes.get(f"file{i}", contents[i])
        path = folder / (f"{name}.gz" if zipped else name)
        path.write_bytes(gzip.compress(content, 1) if zipped else content)
    return folder


@pytest.mark.parametrize("zipped", [False, True])
def test_the_arrays_of_the_files_are_read(tmp_path, zipped):
    train, test = idx.read_folder(write_four(tmp_path, zipped=zipped))
    np.testing.assert_array_equal(train.images, IMAGES)
    np.testing.assert_array_equal(train.labels, LABELS)
    np.testing.assert_array_equal(test.images, IMAGES[:2] + 1)
    np.testing.assert_array_equal(test.labels, LABELS[:2])
    assert train.images.dtype == train.labels.dtype == np.uint8


def test_a_file_is_known_as_zipped_by_its_content_and_may_have_several_members(tmp_path):
    content = encoded(IMAGES)
    (tmp_path / "plain.gz").write_bytes(content)
    (tmp_path / "zipped").write_bytes(gzip.compress(content[:9]) + gzip.compress(content[9:]))
    for name in ("plain.gz", "zipped"):
        np.testing.assert_array_equal(idx.read(tmp_path / name, 3), IMAGES)


BROKEN = [
    (encoded(IMAGES, magic=0x801), "byte 0: the magic number is 0x00000801, not 0x00000803"),
    (encoded(IMAGES, magic=0xD03), "byte 0: the magic number is 0x00000d03"),
    (encoded(LABELS), "byte 0: the magic number is 0x00000801"),
    (b"", "byte 0: the file ends inside its header of 16 bytes"),
    (encoded(IMAGES)[:3], "byte 3: the file ends inside its header"),
    (encoded(IMAGES)[:13], "byte 13: the file ends inside its header"),
    (encoded(IMAGES, sizes=(3, 0, 4)), "byte 8: a size of 0"),
    (encoded(IMAGES) + b"\0", "byte 40: more bytes than 3 x 2 x 4"),
]


@pytest.mark.parametrize("zipped", [False, True])
@pytest.mark.parametrize(("content", "message"), BROKEN)
def test_a_broken_file_is_named_with_the_place(tmp_path, content, message, zipped):
    path = tmp_path / "broken"
    path.write_bytes(gzip.compress(content) if zipped else content)
    with pytest.raises(ValueError, match=f"^{path}: {message}"):
        idx.read(path, 3)


def test_a_cut_file_says_what_it_should_hold(tmp_path):
    path = tmp_path / "cut"
    path.write_bytes(encoded(IMAGES)[:-1])
    with pytest.raises(
        ValueError, match="byte 4: 3 x 2 x 4 and the header are 40 bytes; a file of 39 cannot hold them"
    ):
        idx.read(path, 3)
    path.write_bytes(gzip.compress(encoded(IMAGES)[:-1]))
    with pytest.raises(ValueError, match="byte 39: the file ends; 3 x 2 x 4 and the header are 40 bytes"):
        idx.read(path, 3)
    path.write_bytes(gzip.compress(encoded(IMAGES))[:-9])
    with pytest.raises(ValueError, match=f"{path}: not a whole gzip file"):
        idx.read(path, 3)


@pytest.mark.parametrize("zipped", [False, True])
@pytest.mark.parametrize("sizes", [(2**32 - 1,) * 3, (2**20, 2**10, 2**10), (60_000, 28, 28)])
def test_a_header_that_lies_asks_for_no_memory(tmp_path, sizes, zipped):
    content = encoded(IMAGES, sizes=sizes)
    path = tmp_path / "lies"
    path.write_bytes(gzip.compress(content) if zipped else content)
    with pytest.raises(ValueError, match=r"lies: byte 4: .* cannot hold them"):
        idx.read(path, 3)


def test_missing_files_are_said_with_the_folder(tmp_path):
    with pytest.raises(FileNotFoundError, match=f"no {idx.NAMES[0]} or {idx.NAMES[0]}.gz in {tmp_path}"):
        idx.read_folder(tmp_path)
    write_four(tmp_path)
    (tmp_path / idx.NAMES[3]).unlink()
    with pytest.raises(FileNotFoundError, match=f"no {idx.NAMES[3]}"):
        idx.read_folder(tmp_path)


def test_a_folder_in_place_of_a_file(tmp_path):
    with pytest.raises(OSError, match=str(tmp_path)):
        idx.read(tmp_path, 3)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"file1": encoded(LABELS[:2])}, f"{idx.NAMES[0]} holds 3 images, .*{idx.NAMES[1]} holds 2 labels"),
        ({"file2": encoded(IMAGES[:1])}, f"{idx.NAMES[2]} holds 1 images, .*{idx.NAMES[3]} holds 2 labels"),
        ({"file2": encoded(IMAGES[:2, :1, :2])}, rf"{idx.NAMES[0]} .* 2 x 4 pixels, .*{idx.NAMES[2]} of 1 x 2"),
        (
            {"file2": encoded(IMAGES[:2].reshape(2, 4, 2))},
            rf"{idx.NAMES[0]} .* 2 x 4 pixels, .*{idx.NAMES[2]} of 4 x 2",
        ),
        ({"file1": encoded(LABELS + np.uint8(1))}, f"{idx.NAMES[1]}: byte 10: label 2 is 10; labels are 0 to 9"),
        ({"file3": encoded(np.array([3, 255], np.uint8))}, f"{idx.NAMES[3]}: byte 9: label 1 is 255"),
        ({"file0": encoded(LABELS), "file1": encoded(IMAGES)}, f"{idx.NAMES[0]}: byte 0: the magic number"),
    ],
)
def test_files_that_do_not_fit_each_other_are_named(tmp_path, changes, message):
    with pytest.raises(ValueError, match=message):
        idx.read_folder(write_four(tmp_path, **changes))


def test_the_number_of_classes_is_the_callers(tmp_path):
    write_four(tmp_path, file1=encoded(LABELS + np.uint8(16)))
    assert idx.read_folder(tmp_path, num_classes=26)[0].labels.max() == 25
    with pytest.raises(ValueError, match="label 2 is 25; labels are 0 to 24"):
        idx.read_folder(tmp_path, num_classes=25)
    for number in (0, 257):
        with pytest.raises(ValueError, match=f"num_classes = {number}"):
            idx.read_folder(tmp_path, num_classes=number)


def said(content):
    """What a plain file says, read apart from the reader: an array, or None."""
    if len(content) < 16 or content[:4] != b"\0\0\x08\x03":
        return None
    sizes = struct.unpack(">3I", content[4:16])
    right = 0 not in sizes and sizes[0] * sizes[1] * sizes[2] == len(content) - 16
    return [list(image) for image in struct.iter_unpack(f"{sizes[1] * sizes[2]}B", content[16:])] if right else None


@settings(max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data(), zipped=st.booleans(), operation=st.sampled_from(["cut", "flip", "insert"]))
def test_a_damaged_file_is_refused_by_name_or_read_as_it_stands(tmp_path, data, zipped, operation):
    whole = encoded(IMAGES)
    content = bytearray(gzip.compress(whole, mtime=0) if zipped else whole)
    at = data.draw(st.integers(0, len(content) - (operation != "insert")))
    if operation == "cut":
        del content[at:]
    elif operation == "flip":
        content[at] ^= data.draw(st.integers(1, 255))
    else:
        content[at:at] = data.draw(st.binary(min_size=1, max_size=8))
    path = tmp_path / "damaged"
    path.write_bytes(content)
    # A zipped file has a checksum: it says what it said, or nothing.
    expected = IMAGES.reshape(3, 8).tolist() if zipped else said(bytes(content))
    try:
        found = idx.read(path, 3)
    except (ValueError, OSError) as error:
        assert str(error).startswith(f"{path}: ") and "\n" not in str(error)
        assert zipped or expected is None
    else:
        assert found.reshape(len(found), -1).tolist() == expected
