"""Kinds of files that people bring: each reads as the same table, and is written again with nothing else changed."""

import gzip
import io
import json
import sqlite3
import sys
from contextlib import closing
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from tests.support.files import people, run
from upweight.tables.columns import understood
from upweight.tables.reading import FileError, Options, opened, read


def to_sqlite(table: pd.DataFrame, path: Path) -> None:
    with closing(sqlite3.connect(path)) as base:
        table.to_sql("people", base, index=False)


WRITERS = {
    "csv": lambda t, p: t.to_csv(p, index=False),
    "csv.gz": lambda t, p: t.to_csv(p, index=False),
    "tsv.xz": lambda t, p: t.to_csv(p, index=False, sep="\t"),
    "txt": lambda t, p: t.to_csv(p, index=False, sep="\t"),
    "xlsx": lambda t, p: t.to_excel(p, index=False),
    "ods": lambda t, p: t.to_excel(str(p), index=False),  # pandas writes .xlsx where the path is no string
    "json": lambda t, p: t.to_json(p, orient="records"),
    "jsonl": lambda t, p: t.to_json(p, orient="records", lines=True),
    "jsonl.gz": lambda t, p: t.to_json(p, orient="records", lines=True),
    "parquet": lambda t, p: t.to_parquet(p),
    "feather": lambda t, p: t.to_feather(p),
    "orc": lambda t, p: t.to_orc(p, index=False),
    "sqlite": to_sqlite,
}
NEEDED = {"xlsx": "openpyxl", "ods": "odf"}


@pytest.fixture(params=WRITERS)
def written(request, tmp_path: Path) -> Path:
    """The file of people in one of the formats."""
    if request.param in NEEDED:
        pytest.importorskip(NEEDED[request.param])
    path = tmp_path / f"people.{request.param}"
    WRITERS[request.param](people(), path)
    return path


def test_every_kind_reads_the_same(written: Path):
    found = opened(written)
    pd.testing.assert_frame_equal(found.table, people(), check_dtype=False)
    assert found.notes == ()
    assert found.corrected_name == written.name.replace("people.", "people.corrected.")


def test_every_kind_is_written_again_with_nothing_else_changed(written: Path):
    """Row 3 gets the label of row 0, row 5 is gone; the rest, the name and the types are as they were."""
    file, table = opened(written), people()
    rows = pd.Series(range(len(table)))
    rows[3] = int(np.flatnonzero(table["opinion"] != table["opinion"][3])[0])
    content = file.corrected(written.read_bytes(), "opinion", rows.drop(5))
    (again := written.with_name(file.corrected_name)).write_bytes(content)
    expected = table.copy()
    expected.loc[3, "opinion"] = table["opinion"][rows[3]]
    expected = expected.drop(5).reset_index(drop=True)
    pd.testing.assert_frame_equal(read(again), expected, check_dtype=False)


@pytest.mark.parametrize("kind", ["parquet", "feather", "arrow stream"])
def test_an_index_is_a_column_and_comes_back_as_it_was(tmp_path: Path, kind: str):
    """Also one with duplicates: rows are counted from 0. Categories stay categories."""
    table = people().set_index(pd.Index(np.arange(120) // 2 + 7, name="key"))
    table["town"] = table["town"].astype("category")
    path = tmp_path / f"a.{kind.split()[0]}"
    if kind == "parquet":
        table.to_parquet(path)
    else:
        pa = pytest.importorskip("pyarrow")
        made = pa.Table.from_pandas(table)
        if kind == "feather":
            pa.feather.write_feather(made, path)
        else:
            with pa.ipc.new_stream(str(path), made.schema) as stream:
                stream.write_table(made)
    file = opened(path)
    assert file.table.index.tolist() == list(range(120))
    assert file.table["key"].tolist() == table.index.tolist()
    content = file.corrected(path.read_bytes(), "opinion", pd.Series(range(120)).drop(0))
    if kind == "parquet":
        pd.testing.assert_frame_equal(pd.read_parquet(io.BytesIO(content)), table.iloc[1:])
    elif kind == "feather":
        pd.testing.assert_frame_equal(pd.read_feather(io.BytesIO(content)), table.iloc[1:])


def test_the_rows_of_a_file_with_an_index_are_those_of_the_csv(tmp_path: Path):
    table = people().drop(columns="name")
    shuffled = table.sample(frac=1, random_state=0)
    shuffled.to_csv(tmp_path / "a.csv", index=False)
    shuffled.to_parquet(tmp_path / "a.parquet")  # with the shuffled numbers as its index
    asked = ("--target", "opinion", "--row", 3, "--k", 2, "--format", "json")
    found = [json.loads(run("explain", tmp_path / name, *asked).stdout) for name in ("a.csv", "a.parquet")]
    assert found[0] == found[1]


@pytest.mark.parametrize("separator", [";", "\t", "|", " "])
def test_separators_are_told_by_the_text_and_said(tmp_path: Path, separator: str):
    table = people()[["age", "town", "opinion"]].dropna()
    path = tmp_path / "a.csv"
    table.to_csv(path, sep=separator, index=False)
    found = opened(path)
    pd.testing.assert_frame_equal(found.table, table.reset_index(drop=True), check_dtype=False)
    assert found.notes[0].startswith("read with ")
    said = opened(path, Options(separator={"\t": "tab", " ": "space"}.get(separator, separator)))
    assert said.notes == ()
    assert said.table.equals(found.table)
    content = found.corrected(path.read_bytes(), "opinion", pd.Series(range(len(table))))
    assert content == path.read_bytes()


def test_commas_in_cells_do_not_make_a_semicolon_file_one_of_commas(tmp_path: Path):
    path = tmp_path / "a.csv"
    path.write_text("price;size;kind\n3,75;1,5;a\n12;2;b\n")
    assert read(path).columns.tolist() == ["price", "size", "kind"]
    path.write_text('text,kind\n"a; b",x\n"c; d",y\n')
    assert read(path).columns.tolist() == ["text", "kind"]
    path.write_text("text\na; b\nc; d\n")
    assert read(path).columns.tolist() == ["text"]


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be", "utf-8-sig"])
def test_other_unicodes_are_noticed_and_come_back(tmp_path: Path, encoding: str):
    path = tmp_path / "a.csv"
    text = "town,kind\r\nŁódź,a\r\n客户,b\r\n"
    path.write_bytes(text.encode(encoding))
    found = opened(path)
    assert found.table["town"].tolist() == ["Łódź", "客户"]
    assert found.table.columns.tolist() == ["town", "kind"]
    assert bool(found.notes) is encoding.startswith("utf-16")
    assert found.corrected(path.read_bytes(), "kind", pd.Series([0, 1])) == path.read_bytes()


def test_rows_of_text_that_do_not_change_stay_as_they_are_written(tmp_path: Path):
    """Quotes that nobody needs, numbers as they were spelled, cells of several lines, and no end of the last line."""
    path = tmp_path / "a.csv"
    lines = ['"x","kind"\r\n', '1.50,"a"\r\n', '"2","b"\r\n', '"3\n and more","a"\r\n', "4e0,b"]
    path.write_bytes("".join(lines).encode())
    file = opened(path)
    content = file.corrected(path.read_bytes(), "kind", pd.Series({0: 1, 2: 2, 3: 3}))
    assert content.decode() == "".join([lines[0], "1.50,b\r\n", *lines[3:]])
    assert file.corrected(path.read_bytes(), "kind", pd.Series(range(4))) == path.read_bytes()


def test_row_names_without_a_heading_are_a_column(tmp_path: Path):
    """R's write.table leaves out their heading; pandas would take them for an index, and cells moved by one."""
    path = tmp_path / "a.txt"
    path.write_text('"age" "kind"\n"r1" 3 "a"\n"r2" 4 "b"\n')
    table = read(path)
    assert table.to_dict("list") == {"Unnamed: 0": ["r1", "r2"], "age": [3, 4], "kind": ["a", "b"]}
    path.write_text("age,kind\n3,a,\n4,b,\n")  # every row ends with a comma
    assert read(path).to_dict("list") == {"age": [3, 4], "kind": ["a", "b"]}


def test_single_quotes_around_every_name_are_quotes(tmp_path: Path):
    path = tmp_path / "a.dat"
    path.write_text("'age'\t'kind'\n3\t'a\tb'\n4\t'b'\n")
    found = opened(path)
    assert found.table.to_dict("list") == {"age": [3, 4], "kind": ["a\tb", "b"]}
    assert found.corrected(path.read_bytes(), "kind", pd.Series([1, 1])) == b"'age'\t'kind'\n3\tb\n4\t'b'\n"
    path.write_text("it's kind\n3 a\n4 b\n")
    assert read(path).columns.tolist() == ["it's", "kind"]


def test_sheets_and_tables_are_named(tmp_path: Path):
    pytest.importorskip("openpyxl")
    path = tmp_path / "a.xlsx"
    with pd.ExcelWriter(path) as book:
        people().to_excel(book, sheet_name="first", index=False)
        people(30).to_excel(book, sheet_name="second", index=False)
    assert opened(path).notes == ("sheet 'first' is read, of first, second (--sheet takes another)",)
    assert len(opened(path, Options(sheet="second")).table) == 30
    with pytest.raises(FileError, match="no sheet 'third'; there are first, second"):
        opened(path, Options(sheet="third"))


def test_a_table_of_a_database_is_named(tmp_path: Path):
    path = tmp_path / "a.db"
    with closing(sqlite3.connect(path)) as base:
        people().to_sql('pe"ople', base, index=False)
        people(30).to_sql("other", base, index=False)
    with pytest.raises(FileError, match=r"a\.db: name a table with --sheet: there are pe\"ople, other"):
        read(path)
    assert len(opened(path, Options(sheet='pe"ople')).table) == 120
    assert len(opened(path, Options(sheet="other")).table) == 30


@pytest.mark.parametrize("kind", ["csv", "csv.gz", "json", "parquet", "sqlite", "xlsx", "ods"])
def test_standard_input_is_known_by_its_first_bytes(tmp_path: Path, monkeypatch, kind: str):
    if kind in NEEDED:
        pytest.importorskip(NEEDED[kind])
    path = tmp_path / f"a.{kind}"
    WRITERS[kind](people(), path)
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(path.read_bytes())))
    pd.testing.assert_frame_equal(read("-"), people(), check_dtype=False)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.csv.gz", b"no gzip"), ("a.csv.gz", gzip.compress(b"a,b\n1,2\n" * 99, mtime=0)[:30]), ("a.json", b"[1, 2]"),
        ("a.json", b'{"a": 1}'), ("a.jsonl", b'{"a": 1}\n{"a"'), ("a.xlsx", b"PK no"), ("a.ods", b"PK no"),
        ("a.sqlite", b"SQLite format 3\0 no"), ("a.orc", b"ORC no"), ("a.feather", b"no"), ("a.parquet.gz", b"x"),
    ],
)  # fmt: skip
def test_broken_files_get_one_sentence(tmp_path: Path, name: str, content: bytes):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(FileError, match=name) as raised:
        read(tmp_path / name)
    assert "\n" not in str(raised.value)


TOOLS = {
    "Label Studio": (
        [
            {
                "id": i,
                "data": {"text": f"words that say {kind} of it"},
                "annotations": [{"id": i, "result": [{"type": "choices", "value": {"choices": [kind]}}]}],
                "predictions": [],
            }
            for i, kind in enumerate(["good", "bad", "good"])
        ],
        "annotations.0.result.0.value.choices.0",
    ),
    "Argilla": (
        [
            {
                "id": str(i),
                "fields": {"text": f"words that say {kind} of it"},
                "responses": {"label": [{"user_id": "ann", "value": kind}]},
                "suggestions": {"label": {"value": "good", "score": 0.5}},
            }
            for i, kind in enumerate(["good", "bad", "good"])
        ],
        "responses.label.0.value",
    ),
    "FiftyOne": (
        {
            "name": "set",
            "samples": [
                {
                    "filepath": f"{i}.png",
                    "ground_truth": {"_cls": "Classification", "label": kind},
                    "tags": [],
                }
                for i, kind in enumerate(["good", "bad", "good"])
            ],
        },
        "ground_truth.label",
    ),
}


@pytest.mark.parametrize("tool", TOOLS)
@pytest.mark.parametrize(
    "style", [{}, {"indent": 2}, {"separators": (",", ":"), "ensure_ascii": False}], ids=str
)
def test_label_tools_get_their_files_back_with_other_labels(tmp_path: Path, tool: str, style: dict):
    content, target = TOOLS[tool]
    path = tmp_path / "a.json"
    path.write_text(json.dumps(content, **style), encoding="utf-8")
    file = opened(path)
    assert file.table[target].tolist() == ["good", "bad", "good"]
    assert file.corrected(path.read_bytes(), target, pd.Series([0, 1, 2])) == path.read_bytes()
    made = file.corrected(path.read_bytes(), target, pd.Series({0: 1, 2: 2}))
    expected = json.loads(path.read_text(encoding="utf-8"))
    rows = expected["samples"] if tool == "FiftyOne" else expected
    where, last = rows[0], target.split(".")[-1]
    for key in target.split(".")[:-1]:
        where = where[int(key) if key.isdigit() else key]
    where[int(last) if last.isdigit() else last] = "bad"
    del rows[1]
    assert made.decode() == json.dumps(expected, **style)


def test_answers_of_label_tools_are_no_columns_to_learn_from(people_file: Path, tmp_path: Path):
    """cleanlab's columns are written in the file's order; read beside the file they are left out, nothing changes."""
    result = run("mislabeled", people_file, "--target", "opinion", "--cleanlab", "--format", "csv")
    assert result.exit_code == 0, result.output
    issues = pd.read_csv(io.StringIO(result.stdout))
    assert issues.columns.tolist() == [
        "row",
        "is_label_issue",
        "label_score",
        "given_label",
        "predicted_label",
    ]
    assert issues["row"].tolist() == list(range(120))
    assert issues["given_label"].tolist() == people()["opinion"].tolist()
    assert issues["label_score"].between(0, 1).all()
    pd.concat([people(), issues.drop(columns="row")], axis=1).to_csv(tmp_path / "both.csv", index=False)
    again = run("mislabeled", tmp_path / "both.csv", "--target", "opinion", "--cleanlab", "--format", "csv")
    assert again.stdout == result.stdout
    assert "predicted_label: left out, it is an answer of a label tool" in again.stderr
    content, target = TOOLS["Argilla"]
    (tmp_path / "a.json").write_text(json.dumps(content))
    assert list(understood(read(tmp_path / "a.json"), target).kinds) == ["id", "fields.text"]
