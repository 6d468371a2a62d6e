"""Files of rows: every format reads the same, and what cannot be used gets one sentence."""

import pandas as pd
import pytest

from tests.support.files import people
from upweight.tables.reading import FileError, inside, read


@pytest.mark.parametrize("suffix", ["csv", "tsv", "parquet", "arrow"])
def test_every_format_reads_the_same(tmp_path, suffix: str):
    table, path = people(), tmp_path / f"people.{suffix}"
    write = {
        "csv": lambda: table.to_csv(path, index=False),
        "tsv": lambda: table.to_csv(path, index=False, sep="\t"),
        "parquet": lambda: table.to_parquet(path),
        "arrow": lambda: table.to_feather(path),
    }
    write[suffix]()
    pd.testing.assert_frame_equal(read(path), table, check_dtype=False)


def test_none_and_question_marks_are_values(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text("a,b\nNone,1\n?,2\n,3\n")
    assert read(path)["a"].tolist()[:2] == ["None", "?"]
    assert read(path)["a"].isna().tolist() == [False, False, True]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.pdf", b"x", "cannot read .pdf"),
        ("a.csv", b"", "cannot be read"),
        ("a.csv", b"a,b\n", "no rows"),
        ("a.csv", b"a,a\n1,2\n", None),
        ("a.csv", "a,b\nm\xfcde,1\n".encode("latin-1"), "--encoding latin-1"),
        ("a.csv", b'a,b\n"1,2\n', "cannot be read"),
        ("a.parquet", b"PAR1 no", "cannot be read"),
    ],
)
def test_bad_files_get_one_sentence(tmp_path, name, content, message):
    path = tmp_path / name
    path.write_bytes(content)
    if message is None:
        assert read(path).columns.tolist() == ["a", "a.1"]
        return
    with pytest.raises(FileError, match=message):
        read(path)


def test_a_missing_file_names_its_neighbours(people_file):
    with pytest.raises(FileError, match=r"did you mean people\.csv"):
        read(people_file.with_name("poeple.csv"))


def test_images_stay_inside_their_folder(tmp_path):
    (tmp_path / "data").mkdir()
    (tmp_path / "secret.png").write_bytes(b"x")
    for name in ("../secret.png", str(tmp_path / "secret.png")):
        with pytest.raises(FileError, match="outside the folder"):
            inside(tmp_path / "data", name)
    with pytest.raises(FileError, match="no such image"):
        inside(tmp_path / "data", "a.png")
