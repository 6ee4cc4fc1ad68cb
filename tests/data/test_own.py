"""A user's own files are read as documented, and each bad one is refused with a reason."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from fedlite.data import own, tables
from fedlite.data.own import load_own, load_samples, parse_line
from fedlite.errors import DataError


def paint(path: Path, mode: str = "L", size: tuple[int, int] = (4, 3), value: int = 51) -> Path:
    """An image of one colour, `size` as (width, height)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    colour = value if len(Image.new(mode, (1, 1)).getbands()) == 1 else (value, 0, 255, 128)[: len(mode)]
    Image.new(mode, size, colour).save(path)
    return path


def write(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, "utf-8")
    return path


# ---- folders of images


def test_a_folder_of_grey_images(tmp_path: Path) -> None:
    paint(tmp_path / "dog/b.png", value=255)
    paint(tmp_path / "dog/a.png", value=0)
    paint(tmp_path / "cat/z.bmp", value=51)
    write(tmp_path / "dog/.hidden", "passed over")
    data = load_own(tmp_path)
    assert data.x.shape == (3, 1, 3, 4)  # (n, channels, height, width)
    assert data.x.dtype == np.float32
    assert data.x[:, 0, 0, 0].tolist() == [np.float32(0.2), 0, 1]  # 51/255; names in order
    assert data.y.tolist() == [0, 1, 1]  # cat, dog
    assert data.num_classes == 2


def test_a_folder_of_colour_images(tmp_path: Path) -> None:
    paint(tmp_path / "a/1.png", "RGB")
    paint(tmp_path / "b/2.png", "RGBA")  # transparency is dropped
    data = load_own(tmp_path)
    assert data.x.shape == (2, 3, 3, 4)
    np.testing.assert_allclose(data.x[:, :, 1, 2], [[0.2, 0, 1], [0.2, 0, 1]], atol=1e-7)


def test_numbered_folders_are_the_classes_themselves(tmp_path: Path) -> None:
    for name in ("2", "10"):
        paint(tmp_path / name / "a.png")
    data = load_own(tmp_path)
    assert sorted(data.y.tolist()) == [2, 10]
    assert data.num_classes == 11


def test_classes_txt_fixes_the_order_where_a_device_lacks_classes(tmp_path: Path) -> None:
    paint(tmp_path / "dog/a.png")
    write(tmp_path / "classes.txt", "horse\ndog\ncat\n")
    data = load_own(tmp_path)
    assert data.y.tolist() == [1]
    assert data.num_classes == 3


def test_an_empty_class_folder_still_counts(tmp_path: Path) -> None:
    paint(tmp_path / "dog/a.png")
    (tmp_path / "cat").mkdir()
    data = load_own(tmp_path)
    assert (data.y.tolist(), data.num_classes) == ([1], 2)


def test_bad_folders_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="has no subfolders"):
        load_own(tmp_path)
    (tmp_path / "cat").mkdir()
    with pytest.raises(DataError, match="has no image"):
        load_own(tmp_path)
    paint(tmp_path / "cat/a.png")
    paint(tmp_path / "cat/odd.png", size=(5, 3))
    with pytest.raises(DataError, match=r"odd\.png has shape \(1, 3, 5\).*\(1, 3, 4\) wanted"):
        load_own(tmp_path)
    paint(tmp_path / "cat/odd.png", "RGB")
    with pytest.raises(DataError, match=r"odd\.png has shape \(3, 3, 4\)"):
        load_own(tmp_path)
    Image.new("I;16", (4, 3)).save(tmp_path / "cat/odd.png")
    with pytest.raises(DataError, match=r"odd\.png is of kind I;16"):
        load_own(tmp_path)
    (tmp_path / "cat/odd.png").write_bytes(b"no image")
    with pytest.raises(DataError, match=r"odd\.png is not an image"):
        load_own(tmp_path)
    good = (tmp_path / "cat/a.png").read_bytes()
    (tmp_path / "cat/odd.png").write_bytes(good[: len(good) // 2])
    with pytest.raises(DataError, match=r"odd\.png is not an image"):
        load_own(tmp_path)
    (tmp_path / "cat/odd.png").unlink()
    write(tmp_path / "cat/notes.txt", "hm")
    with pytest.raises(DataError, match=r"notes\.txt is not an image file"):
        load_own(tmp_path)


def test_a_huge_image_is_refused_before_it_is_decoded(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    Image.new("1", (5000, 5000)).save(tmp_path / "a/a.png")  # 25 million pixels in 3 kB
    with pytest.raises(DataError, match="5000 x 5000 pixels"):
        load_own(tmp_path)


@pytest.mark.parametrize("content", ["", "\n\n", "cat\ncat\n"])
def test_a_bad_classes_txt_is_refused(tmp_path: Path, content: str) -> None:
    paint(tmp_path / "dog/a.png")
    write(tmp_path / "classes.txt", content)
    with pytest.raises(DataError, match="must list each class once"):
        load_own(tmp_path)


def test_a_class_that_classes_txt_lacks_is_refused(tmp_path: Path) -> None:
    paint(tmp_path / "dog/a.png")
    write(tmp_path / "classes.txt", "cat\n")
    with pytest.raises(DataError, match=r"'dog' is not in classes\.txt, which lists cat"):
        load_own(tmp_path)


# ---- .npz


@pytest.mark.parametrize(
    ("x", "shape"),
    [
        (np.full((4, 5, 6), 51, np.uint8), (4, 1, 5, 6)),
        (np.full((4, 3, 5, 6), 51, np.uint8), (4, 3, 5, 6)),
        (np.full((4, 5, 6, 3), 51, np.uint8), (4, 3, 5, 6)),
        (np.full((4, 9, 128), 0.2, np.float64), (4, 9, 128)),
        (np.full((4, 7), 0.2, np.float32), (4, 7)),
    ],
)
def test_npz_forms(tmp_path: Path, x: np.ndarray, shape: tuple[int, ...]) -> None:
    np.savez(tmp_path / "d.npz", x=x, y=np.array([0, 2, 1, 0]))
    data = load_own(tmp_path / "d.npz")
    assert (data.x.shape, data.x.dtype, data.num_classes, data.name) == (shape, np.float32, 3, "d")
    np.testing.assert_array_equal(data.x, np.float32(0.2))
    assert data.keys is None


def test_npz_text_keys_and_number_of_classes(tmp_path: Path) -> None:
    x = np.arange(8, dtype=np.int32).reshape(2, 4)
    np.savez(tmp_path / "d.npz", x=x, y=np.array([0, 1], np.uint8), keys=np.array([5, 6]), num_classes=9)
    data = load_own(tmp_path / "d.npz")
    assert (data.x.dtype, data.y.dtype, data.num_classes) == (np.int64, np.int64, 9)
    assert data.keys is not None
    assert data.keys.tolist() == [5, 6]


NAN = np.array([[0.0, 1.0], [np.nan, 1.0]], np.float32)


@pytest.mark.parametrize(
    ("arrays", "says"),
    [
        ({"x": np.zeros((2, 3))}, "no array 'y'; it has x"),
        ({"x": NAN, "y": np.array([0, 1])}, "sample 1 holds NaN"),
        ({"x": np.full((2, 1), 1e300), "y": np.array([0, 1])}, "sample 0 holds NaN or infinity"),
        ({"x": np.zeros(2), "y": np.array([0, 1])}, r"x has shape \(2,\)"),
        ({"x": np.zeros((0, 2)), "y": np.zeros(0, np.int64)}, "at least one sample"),
        ({"x": np.zeros((2, 2)), "y": np.array([0, 1, 2])}, r"labels have shape \(3,\)"),
        ({"x": np.zeros((2, 2)), "y": np.array([[0, 1]])}, "labels have shape"),
        ({"x": np.zeros((2, 2)), "y": np.array([0.0, 1.0])}, "integers wanted"),
        ({"x": np.zeros((2, 2)), "y": np.array([0, -1])}, "labels run from -1"),
        ({"x": np.zeros((2, 2)), "y": np.array([0, 3]), "num_classes": 3}, "labels run from 0 to 3"),
        ({"x": np.zeros((2, 2)), "y": np.array([0, 2**40])}, "labels run from 0"),
        ({"x": np.zeros((2, 2)), "y": np.array([0, 1]), "num_classes": -1}, "num_classes is not one"),
        ({"x": np.zeros((2, 2)), "y": np.array([0, 1]), "keys": np.array([1])}, r"integers \(2,\) wanted"),
        ({"x": np.zeros((2, 5, 6, 4), np.uint8), "y": np.array([0, 1])}, "c 1 or 3, wanted"),
        ({"x": np.full((2, 4), -1), "y": np.array([0, 1])}, "indices from -1"),
        ({"x": np.zeros((2, 4, 4), np.int64), "y": np.array([0, 1])}, r"integers \(n, length\) wanted"),
    ],
)
def test_bad_npz_files_are_refused(tmp_path: Path, arrays: dict[str, np.ndarray], says: str) -> None:
    np.savez(tmp_path / "d.npz", **arrays)
    with pytest.raises(DataError, match=says):
        load_own(tmp_path / "d.npz")


# ---- .csv


def test_a_csv_with_a_named_label_column(tmp_path: Path) -> None:
    path = write(tmp_path / "d.csv", "\ufeffa, Label ,b\n1,cat,2\n\n3.5,dog,-4e1\n5,cat,6\n")
    data = load_own(path)
    assert data.x.tolist() == [[1, 2], [3.5, -40], [5, 6]]
    assert (data.x.dtype, data.y.tolist(), data.num_classes) == (np.float32, [0, 1, 0], 2)


def test_a_csv_with_a_label_column_of_another_name(tmp_path: Path) -> None:
    write(tmp_path / "d.csv", "kind,y\n2,0.5\n0,1.5\n")
    data = load_own(tmp_path / "d.csv:kind")
    assert (data.x.tolist(), data.y.tolist(), data.num_classes) == ([[0.5], [1.5]], [2, 0], 3)


def test_whole_numbers_written_as_floats_are_indices(tmp_path: Path) -> None:
    """As names, "10.0" would come before "2.0"."""
    data = load_own(write(tmp_path / "d.csv", "a,y\n1,10.0\n1,2.0\n"))
    assert (data.y.tolist(), data.num_classes) == ([10, 2], 11)


def test_classes_txt_beside_a_csv(tmp_path: Path) -> None:
    write(tmp_path / "classes.txt", "walk\nsit\nrun")
    data = load_own(write(tmp_path / "d.csv", "a,y\n1,run\n1,walk\n"))
    assert (data.y.tolist(), data.num_classes) == ([2, 0], 3)


def test_more_rows_than_a_chunk(tmp_path: Path) -> None:
    rows = 2 * tables.CHUNK_ROWS + 5
    path = write(tmp_path / "d.csv", "a,y\n" + "".join(f"{row},{row % 3}\n" for row in range(rows)))
    data = load_own(path)
    np.testing.assert_array_equal(data.x[:, 0], np.arange(rows))
    np.testing.assert_array_equal(data.y, np.arange(rows) % 3)
    write(path, path.read_text() + "x,0\n")
    with pytest.raises(DataError, match=f"row {rows + 2}, column 'a'"):
        load_own(path)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "is empty"),
        ("a,y\n", "no rows"),
        ("a,y\n\n\n", "no rows"),
        ("y\n1\n", "no features"),
        ("a,b\n1,2\n", "0 columns named label or target or class or y .*d.csv:COLUMN"),
        ("a,y,label\n1,2,3\n", "2 columns named"),
        ("a,a,y\n1,2,3\n", "same name"),
        ("a,y\n1,0\n1,0,0\n", "row 3 has 3 cells, the header 2"),
        ("a,y\n1,0\n\n1\n", "row 4 has 1 cells"),
        ("a,b,y\n1,1,0\n1,much,0\n", "row 3, column 'b' is not a finite float32"),
        ("a,b,y\n1,,0\n", "row 2, column 'b'"),
        ("a,y\nnan,0\n", "row 2, column 'a'"),
        ("a,y\ninf,0\n", "row 2, column 'a'"),
        ("a,y\n1e300,0\n", "row 2, column 'a'"),
        ('a,y\n"1,0\n', "not a UTF-8 CSV"),
    ],
)
def test_bad_tables_are_refused(tmp_path: Path, text: str, says: str) -> None:
    with pytest.raises(DataError, match=says):
        load_own(write(tmp_path / "d.csv", text))


def test_bytes_that_are_no_text_are_refused(tmp_path: Path) -> None:
    (tmp_path / "d.csv").write_bytes(b"a,y\n\xff\xfe,0\n")
    with pytest.raises(DataError, match="not a UTF-8 CSV"):
        load_own(tmp_path / "d.csv")


def test_an_unknown_label_column_lists_the_header(tmp_path: Path) -> None:
    write(tmp_path / "d.csv", "a,b\n1,2\n")
    with pytest.raises(DataError, match="named kind in the header a, b"):
        load_own(tmp_path / "d.csv:kind")


@pytest.mark.parametrize("name", ["missing.csv", "missing", "missing.npz"])
def test_a_missing_path_says_what_may_be_given(tmp_path: Path, name: str) -> None:
    with pytest.raises(DataError, match=r"there is no .*missing.*an \.npz with x and y"):
        load_own(tmp_path / name)


def test_another_kind_of_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="none of the forms"):
        load_own(write(tmp_path / "d.json", "{}"))


# ---- samples that arrive


def test_arriving_npz(tmp_path: Path) -> None:
    np.savez(tmp_path / "d.npz", x=np.full((2, 3, 4), 255, np.uint8), y=np.array([4, 0]))
    x, y = load_samples(tmp_path / "d.npz", (1, 3, 4), 5)
    assert (x.shape, x.dtype, x.min(), y.tolist()) == ((2, 1, 3, 4), np.float32, 1, [4, 0])
    with pytest.raises(DataError, match=r"shape \(1, 3, 4\), the model takes \(1, 4, 3\)"):
        load_samples(tmp_path / "d.npz", (1, 4, 3), 5)
    with pytest.raises(DataError, match="labels run from 0 to 4, classes from 0 to 4"):
        load_samples(tmp_path / "d.npz", (1, 3, 4), 4)


def test_arriving_rows_take_the_model_s_shape(tmp_path: Path) -> None:
    path = write(tmp_path / "d.csv", "a,b,c,d,y\n1,2,3,4,1\n")
    x, y = load_samples(path, (1, 2, 2), 2)
    assert (x.tolist(), y.tolist()) == ([[[[1, 2], [3, 4]]]], [1])
    with pytest.raises(DataError, match="4 features"):
        load_samples(path, (1, 2, 3), 2)
    with pytest.raises(DataError, match="class 1, the model has classes 0 to 0"):
        load_samples(path, (4,), 1)


def test_arriving_names_need_an_order_that_is_certain(tmp_path: Path) -> None:
    """A file that lacks classes would otherwise number the rest wrongly."""
    path = write(tmp_path / "d.csv", "a,y\n1,run\n1,walk\n")
    with pytest.raises(DataError, match=r"names 2 classes, the model has 3 .*classes\.txt"):
        load_samples(path, (1,), 3)
    write(tmp_path / "classes.txt", "sit\nrun\nwalk\n")
    assert load_samples(path, (1,), 3)[1].tolist() == [1, 2]


def test_an_arriving_image_has_its_folder_s_class(tmp_path: Path) -> None:
    path = paint(tmp_path / "in/dog/a.png", value=255)
    (tmp_path / "in/cat").mkdir()
    x, y = load_samples(path, (1, 3, 4), 2)
    assert (x.shape, x.max(), y.tolist()) == ((1, 1, 3, 4), 1, [1])
    with pytest.raises(DataError, match="names 2 classes, the model has 3"):
        load_samples(path, (1, 3, 4), 3)
    write(tmp_path / "in/classes.txt", "cat\nhorse\ndog\n")
    assert load_samples(path, (1, 3, 4), 3)[1].tolist() == [2]
    with pytest.raises(DataError, match=r"\(3, 3, 4\) wanted"):
        load_samples(path, (3, 3, 4), 3)


def test_an_arriving_image_in_a_numbered_folder(tmp_path: Path) -> None:
    path = paint(tmp_path / "7/a.png")
    assert load_samples(path, (1, 3, 4), 10)[1].tolist() == [7]
    with pytest.raises(DataError, match="class 7, the model has classes 0 to 6"):
        load_samples(path, (1, 3, 4), 7)


def test_other_arriving_files_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(DataError, match="there is no file"):
        load_samples(tmp_path / "d.npz", (1,), 2)
    with pytest.raises(DataError, match="there is no file"):
        load_samples(tmp_path, (1,), 2)
    with pytest.raises(DataError, match=r"is not an \.npz, a \.csv or an image"):
        load_samples(write(tmp_path / "d.txt", "a"), (1,), 2)
    monkeypatch.setattr(own, "MAX_ARRIVING_BYTES", 10)
    with pytest.raises(DataError, match="at most 10 are read"):
        load_samples(write(tmp_path / "d.csv", "a,y\n1,1\n1,1\n"), (1,), 2)


# ---- lines


def test_a_line() -> None:
    x, y = parse_line(" 2, 1,-2.5,3e1,4\n", (1, 2, 2), 3)
    assert (x.tolist(), x.dtype, y.tolist(), y.dtype) == ([[[[1, -2.5], [30, 4]]]], np.float32, [2], np.int64)


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("", "class from 0 to 2"),
        ("3,1,2", "class from 0 to 2"),
        ("-1,1,2", "class from 0 to 2"),
        ("cat,1,2", "class from 0 to 2"),
        ("²,1,2", "class from 0 to 2"),
        ("9" * 5000 + ",1,2", "class from 0 to 2"),
        ("1", "holds 0 values after the label, 2 wanted"),
        ("1,2", "holds 1 values"),
        ("1,2,3,4", "holds 3 values"),
        ("1,2,", "not a finite"),
        ("1,2,x", "not a finite"),
        ("1,2,nan", "not a finite"),
        ("1,2,-inf", "not a finite"),
        ("1,2,1e39", "not a finite"),
    ],
)
def test_bad_lines_are_refused(line: str, says: str) -> None:
    with pytest.raises(DataError, match=says):
        parse_line(line, (2,), 3)


@settings(max_examples=200, deadline=None)
@given(line=st.text() | st.lists(st.sampled_from(["0", "1", ",", ".", "e", "-", "n", " ", "9"])).map("".join))
def test_a_line_is_read_or_refused(line: str) -> None:
    try:
        x, y = parse_line(line, (1,), 2)
    except DataError:
        return
    assert x.shape == (1, 1)
    assert np.isfinite(x).all()
    assert y[0] in (0, 1)


def test_messages_hold_no_values(tmp_path: Path) -> None:
    """A sample is private, in a log too."""
    with pytest.raises(DataError) as line:
        parse_line("1,secret", (1,), 2)
    with pytest.raises(DataError) as table:
        load_own(write(tmp_path / "d.csv", "a,y\nsecret,0\n"))
    assert "secret" not in str(line.value) + str(table.value)
