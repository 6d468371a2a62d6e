"""The command line on files: answers are those of the library, bad input gets one sentence and exit code 2."""

import importlib
import io
import json
import re
import sys

import numpy as np
import pandas as pd
import pytest
import torch
from rich.console import Console
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from typer.testing import CliRunner, Result

from tests.support.compare import assert_close_per_row
from upweight import Influence, from_estimator, mislabeled
from upweight.cli import app
from upweight.cli.show import _for_people
from upweight.tables.columns import FileError, inside, kind_of, read, understood


def run(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(word) for word in arguments])


def people(n: int = 120, seed: int = 0) -> pd.DataFrame:
    """Numbers, categories with missing cells, a sentence, names, and a target that the first two decide."""
    random = np.random.default_rng(seed)
    age, town = random.normal(40, 12, n), random.choice(["north", "south", "east"], n)
    pleased = age + 12 * (town == "north") + random.normal(0, 6, n) > 44
    table = pd.DataFrame(
        {
            "name": [f"person {i}" for i in range(n)],
            "age": age,
            "town": town,
            "country": "here",
            "said": np.where(pleased, "that was good as always", "this was bad and far too slow"),
            "opinion": np.where(pleased, "likes", "dislikes"),
        }
    )
    table.loc[3, "age"] = np.nan
    table.loc[4, "town"] = np.nan
    return table


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "people.csv"
    people().to_csv(path, index=False)
    return path


def test_columns_are_understood_and_what_is_left_out_is_said(file):
    table = understood(read(file), "opinion")
    assert table.kinds == {"age": "number", "town": "category", "said": "text"}
    notes = "\n".join(table.notes)
    for words in ("name: left out", "country: left out, it is constant", "age: 1 missing", "town: 1 missing"):
        assert words in notes
    assert table.classifies


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


def test_mislabeled_finds_flipped_labels_and_says_what_the_library_says(file, tmp_path):
    table = people(300)
    flipped = [10, 50, 90, 200]
    table.loc[flipped, "opinion"] = table.loc[flipped, "opinion"].map(
        {"likes": "dislikes", "dislikes": "likes"}
    )
    path, out = tmp_path / "flipped.csv", tmp_path / "out.csv"
    table.to_csv(path, index=False)
    result = run("mislabeled", path, "--target", "opinion", "--out", out)
    assert result.exit_code == 0, result.output
    found = pd.read_csv(out, index_col="row")
    assert len(found) == 300
    assert set(flipped) <= set(found.index[:8])
    understood_ = understood(read(path), "opinion")
    from upweight.tables.default_models import sensible

    model = sensible(understood_).fit(understood_.X, understood_.y)
    problem = from_estimator(model, understood_.X, understood_.y, polish=True)
    wanted = mislabeled(Influence(problem)).table
    assert found.index.tolist() == wanted.index.tolist()
    column = "loss without the row"
    assert_close_per_row(found[column].to_numpy()[:, None], wanted[column].to_numpy()[:, None], 1e-6)


def test_the_gate_fails_with_its_own_code(file):
    assert run("mislabeled", file, "--target", "opinion", "--fail-over", 1.0).exit_code == 0
    result = run("mislabeled", file, "--target", "opinion", "--drop", "said", "--fail-over", 0.0)
    assert result.exit_code == 3
    assert "contradict" in result.output


def test_explain_mismatch_and_remove(file):
    result = run("explain", file, "--target", "opinion", "--row", 7, "--k", 3, "--format", "json")
    assert result.exit_code == 0, result.output
    lines = json.loads(result.stdout)
    assert [line["role"] for line in lines] == ["helpful"] * 3 + ["harmful"] * 3
    assert all(line["because of"] for line in lines)
    result = run("mismatch", file, "--target", "opinion", "--by", "town", "--where", "town == 'south'")
    assert result.exit_code == 0, result.output
    assert {"north", "south", "east", "(missing)"} == {
        line.split(",")[0] for line in result.stdout.splitlines()[1:]
    }
    result = run("remove", file, "--target", "opinion", "--where", "age < 30", "--row", 7, "--format", "json")
    assert result.exit_code == 0, result.output
    assert "newton" in json.loads(result.stdout)[0]


def test_verify_retrains_and_draws(file, tmp_path):
    picture, out = tmp_path / "v.png", tmp_path / "v.csv"
    result = run(
        "verify", file, "--target", "opinion", "--row", 7, "--k", 5, "--picture", picture, "--out", out
    )
    assert result.exit_code == 0, result.output
    table = pd.read_csv(out)
    assert set(table["group"]) == {"top", "random"}
    top = table[table["group"] == "top"]
    assert np.corrcoef(top["predicted"], top["actual"])[0, 1] > 0.98
    assert picture.read_bytes().startswith(b"\x89PNG")


def test_attack_says_which_predictions_one_row_could_turn(file):
    arguments = ("attack", file, "--target", "opinion", "--drop", "said", "--format", "json", "--k", 200)
    flips = []
    for radius in (0, 3):
        result = run(*arguments, "--radius", radius)
        assert result.exit_code == 0, result.output
        lines = json.loads(result.stdout)
        assert all(line["margin"] > 0 for line in lines)
        flips.append(sum(line["flips"] for line in lines))
    assert flips[0] == 0 < flips[1]
    assert run("attack", file, "--target", "opinion", "--drop", "age").exit_code == 2


def test_a_report_shows_rows_as_they_are_and_escapes_them(tmp_path):
    table = people()
    table.loc[:, "said"] = [f"<script>alert({i})</script> {words}" for i, words in enumerate(table["said"])]
    table["town"] = table["town"].map(lambda town: f"<i>{town}</i>", na_action="ignore")
    path, out = tmp_path / "people.csv", tmp_path / "report.html"
    table.to_csv(path, index=False)
    result = run("report", path, "--target", "opinion", "--row", 7, "--k", 3, "--checked", 4, "--out", out)
    assert result.exit_code == 0, result.output
    html = out.read_text(encoding="utf-8")
    assert not re.search(r"https?://|<script>alert|<link|@import|url\(|<i>", html)
    assert html.count("<script>") == 1
    assert html.count("&lt;script&gt;") >= 7
    assert "<mark>" in html
    assert html.count("<li>") == 6
    assert re.search(r"The explanation (holds|does not hold)", html)
    for words in (
        "said (text)",
        "age: 1 missing values",
        "country: left out",
        "The model says",
        "logistic regression (C = 1) of opinion on",
    ):
        assert words in html


@pytest.fixture
def photographs(tmp_path):
    """A file of paths of red and green squares of several sizes."""
    image = pytest.importorskip("PIL.Image")
    pytest.importorskip("efficientnet_lite_pytorch")
    random = np.random.default_rng(0)
    lines = []
    for i in range(12):
        pixels = random.integers(0, 90, (30 + i, 40, 3), dtype=np.uint8)
        pixels[:, :, i % 2] += 150
        image.fromarray(pixels).save(tmp_path / f"{i}.png")
        lines.append((f"{i}.png", ["red", "green"][i % 2]))
    path = tmp_path / "squares.csv"
    pd.DataFrame(lines, columns=["picture", "colour"]).to_csv(path, index=False)
    return path


def test_photographs_are_read_shown_and_kept(photographs, tmp_path):
    out = tmp_path / "report.html"
    arguments = ("--target", "colour", "--row", 0, "--k", 2, "--checked", 2, "--out", out)
    result = run("report", photographs, *arguments)
    assert result.exit_code == 0, result.output
    html = out.read_text(encoding="utf-8")
    assert html.count('src="data:image/jpeg;base64,') == 5
    kept = set((tmp_path / ".upweight").iterdir())
    assert run("report", photographs, *arguments).exit_code == 0
    assert set((tmp_path / ".upweight").iterdir()) == kept != set()
    (tmp_path / "3.png").write_bytes(b"no image")
    result = run("mislabeled", photographs, "--target", "colour")
    assert result.exit_code == 2
    assert "3.png: cannot be read as an image" in result.output
    table = pd.read_csv(photographs)
    table.loc[0, "picture"] = "../secret.png"
    table.to_csv(photographs, index=False)
    result = run("mislabeled", photographs, "--target", "colour")
    assert result.exit_code == 2
    assert "outside the folder" in result.output


def test_remove_predicts_what_fitting_again_does(tmp_path):
    table = people(300).dropna()[["age", "opinion"]].reset_index(drop=True)
    table["opinion"] = table["opinion"] == "likes"
    path = tmp_path / "a.csv"
    table.to_csv(path, index=False)
    model = make_pipeline(StandardScaler(), LogisticRegression(C=1.0, tol=1e-10, max_iter=1000))
    skops = pytest.importorskip("skops.io")
    saved = tmp_path / "model.skops"
    skops.dump(model.fit(table[["age"]], table["opinion"]), saved)
    result = run(
        "remove", path, "--target", "opinion", "--model", saved, "--where", "age < 28", "--format", "json"
    )
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)[0]
    gone = (table["age"] < 28).to_numpy()
    assert found["size"] == gone.sum()
    X, sign = model[0].transform(table[["age"]]), np.where(table["opinion"], 1, -1)
    losses = []
    for kept in (np.ones(len(table), bool), ~gone):
        refit = LogisticRegression(C=1.0, tol=1e-10, max_iter=1000).fit(X[kept], sign[kept])
        losses.append(np.logaddexp(0, -sign * refit.decision_function(X)).mean())
    assert abs(found["newton"] - (losses[1] - losses[0])) < 0.05 * abs(losses[1] - losses[0])


def test_questions_of_another_file_by_id(file, tmp_path):
    other = people(40, seed=5).assign(name=lambda t: "new " + t["name"])
    other.to_csv(tmp_path / "other.csv", index=False)
    arguments = ("--target", "opinion", "--id", "name", "--test", tmp_path / "other.csv", "--k", 2)
    result = run("explain", file, *arguments, "--row", "new person 3", "--format", "json")
    assert result.exit_code == 0, result.output
    assert all(str(line["train row"]).startswith("person ") for line in json.loads(result.stdout))


def test_text_that_a_spreadsheet_would_run_is_written_inert(tmp_path):
    table = people()
    table["name"] = ["=1+1", "@x", "+2+A1"] + [f"person {i}" for i in range(len(table) - 3)]
    path, out = tmp_path / "a.csv", tmp_path / "out.csv"
    table.to_csv(path, index=False)
    result = run("mislabeled", path, "--target", "opinion", "--id", "name", "--out", out)
    assert result.exit_code == 0, result.output
    cells = [line.split(",")[0] for line in out.read_text().splitlines()]
    assert {"'=1+1", "'@x", "'+2+A1"} <= set(cells)
    assert not any(cell[:1] in "=+@" for cell in cells)


def test_cells_cannot_steer_the_terminal():
    line = pd.DataFrame({"effect": [0.5], "loss": [0.5], "said": ["[bold]\x1b[31mred" + "x" * 100]})
    console = Console(file=io.StringIO(), width=200)
    console.print(_for_people(line, "title"))
    shown = console.file.getvalue()  # type: ignore[attr-defined]
    assert "\x1b" not in shown
    for words in ("+0.5", " 0.5", "[bold] [31mred", "…"):
        assert words in shown


def test_a_model_that_could_run_code_is_not_loaded(file, tmp_path):
    skops = pytest.importorskip("skops.io")
    from sklearn.preprocessing import FunctionTransformer

    table = people().dropna()
    model = make_pipeline(FunctionTransformer(torch.nn.functional.relu), LogisticRegression())
    model.steps[0][1].func = json.dumps  # any function that skops does not know
    saved = tmp_path / "model.skops"
    skops.dump(
        make_pipeline(
            FunctionTransformer(json.dumps), LogisticRegression().fit(table[["age"]], table["opinion"])
        ),
        saved,
    )
    result = run("mislabeled", file, "--target", "opinion", "--model", saved)
    assert result.exit_code == 2
    assert "json.dumps" in result.output
    assert "--trust json.dumps" in result.output


NETWORK = """
import torch
import upweight as uw

def problem(table):
    def batches(rows):
        inputs = torch.tensor(rows[["age", "size"]].to_numpy(), dtype=torch.float64) / 40
        return inputs, torch.tensor((rows["opinion"] == "likes").to_numpy()).long()

    torch.manual_seed(0)
    start = torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.Tanh(), torch.nn.Linear(3, 2)).double()
    loss = torch.nn.functional.cross_entropy
    inputs, targets = batches(table)

    def refit(kept):
        import copy
        model = copy.deepcopy(start)
        optimizer = torch.optim.LBFGS(model.parameters(), max_iter=300, line_search_fn="strong_wolfe")

        def closure():
            optimizer.zero_grad()
            penalty = sum(0.005 * p.square().sum() for p in model.parameters())
            value = loss(model(inputs[kept]), targets[kept]) + penalty
            value.backward()
            return value

        optimizer.step(closure)
        return model

    trained = refit(torch.arange(len(table))).eval()
    return uw.Problem(trained, loss, (inputs, targets), l2=0.01), batches, refit

def fails(table):
    raise KeyError("nothing here")

def nothing(table):
    return 3
"""


@pytest.fixture
def network(tmp_path, monkeypatch):
    """A folder with mine.py, a network of two columns, and the file people.csv with names."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.py").write_text(NETWORK)
    table = people().assign(size=np.random.default_rng(1).normal(170, 10, 120)).fillna({"age": 40.0})
    table.to_csv("people.csv", index=False)
    yield "people.csv", "--target", "opinion", "--id", "name", "--problem"
    sys.modules.pop("mine", None)
    assert "" not in sys.path


def test_a_network_answers_as_the_library_does(network, tmp_path):
    result = run("explain", *network, "mine:problem", "--row", "person 7", "--format", "json")
    assert result.exit_code == 0, result.output
    found = pd.read_json(io.StringIO(result.stdout)).set_index("train row").filter(like="effect").iloc[:, 0]
    sys.path.insert(0, str(tmp_path))
    try:
        mine = importlib.import_module("mine")
    finally:
        sys.path.pop(0)
    made, batches, _ = mine.problem(pd.read_csv("people.csv"))
    effect = Influence(made).on_loss(batches(pd.read_csv("people.csv").loc[[7]])).effect()[0]
    rows = [int(str(name).split()[1]) for name in found.index]
    np.testing.assert_allclose(found.to_numpy(), effect[rows].numpy(), rtol=1e-6)

    checked = run("verify", *network, "mine:problem", "--row", "person 7", "--k", 3, "--format", "json")
    assert checked.exit_code == 0, checked.output
    table = pd.read_json(io.StringIO(checked.stdout))
    assert np.corrcoef(table["predicted"], table["actual"])[0, 1] > 0.9

    suspects = run("mislabeled", *network, "mine:problem", "--k", 5, "--format", "json")
    assert suspects.exit_code == 0, suspects.output
    assert set(pd.read_json(io.StringIO(suspects.stdout))["label"]) <= {"likes", "dislikes"}
    page = run("report", *network, "mine:problem", "--row", "person 7", "--checked", 2, "--out", "page.html")
    assert page.exit_code == 0, page.output
    assert "mine:problem: 120 examples" in (tmp_path / "page.html").read_text()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["mine"], "write MODULE:FUNCTION"),
        (["mine:absent"], "has no attribute 'absent'"),
        (["missing:problem"], "No module named 'missing'"),
        (["mine:fails"], r"KeyError: 'nothing here' \(mine.py, line \d+\)"),
        (["mine:nothing"], "it returned int"),
        (["mine:problem", "--model", "some.skops"], "leave one out"),
        (["mine:problem", "--fail-over", "0.1"], "for linear models"),
    ],
)
def test_bad_problems_get_one_sentence(network, arguments, message):
    result = run("mislabeled", *network, *arguments)
    assert result.exit_code == 2, result.output
    assert re.search(message, result.stderr), result.stderr
    assert "Traceback" not in result.stderr


@pytest.mark.parametrize(
    ("change", "arguments", "message"),
    [
        (None, ["--target", "opinoin"], "closest: opinion"),
        (None, ["--target", "opinion", "--text", "sad"], "closest: said"),
        ({"opinion": "likes"}, ["--target", "opinion"], "in every row"),
        ({"opinion": None}, ["--target", "opinion"], "is missing in 120 rows, first in row 0"),
        ({"name": "same"}, ["--target", "opinion", "--id", "name"], "is there 120 times"),
        ({"said": [[1]] * 120}, ["--target", "opinion", "--row", "500"], "they go from 0 to 119"),
        (None, ["--target", "opinion", "--row", "x"], "no row 'x'"),
        (None, ["--target", "opinion", "--encoding", "nonsense"], "nonsense"),
    ],
)
def test_bad_tables_get_one_sentence(tmp_path, change, arguments, message):
    path = tmp_path / "a.csv"
    table = people() if change is None else people().assign(**change)
    table.to_csv(path, index=False)
    command = "explain" if "--row" in arguments else "mislabeled"
    result = run(command, path, *arguments)
    assert result.exit_code == 2, result.output
    assert message in result.output
    assert "Traceback" not in result.output
    assert result.exception is None or isinstance(result.exception, SystemExit)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.xlsx", b"x", "cannot read .xlsx"),
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


def test_a_missing_file_names_its_neighbours(file):
    with pytest.raises(FileError, match=r"did you mean people\.csv"):
        read(file.with_name("poeple.csv"))


def test_images_stay_inside_their_folder(tmp_path):
    (tmp_path / "data").mkdir()
    (tmp_path / "secret.png").write_bytes(b"x")
    for name in ("../secret.png", str(tmp_path / "secret.png")):
        with pytest.raises(FileError, match="outside the folder"):
            inside(tmp_path / "data", name)
    with pytest.raises(FileError, match="no such image"):
        inside(tmp_path / "data", "a.png")


@pytest.mark.parametrize(
    ("values", "kind"),
    [
        ([1.0, 2.5, None], "number"),
        (list(range(50)), "it counts the rows"),
        ([True, False, True], "category"),
        (["a.png", "b.JPG"], "image"),
        (pd.to_datetime(["2020-01-01", "2021-01-01"]), "dates"),
        ([None, None], "it is empty"),
        ([[1], [2]], "neither numbers nor text"),
    ],
)
def test_kinds(values, kind):
    column = pd.Series(values, dtype=object if values[0] is True or isinstance(values[0], list) else None)
    if isinstance(values[0], list):
        column = pd.Series(pd.array([(1,), (2,)], dtype=object))
    assert kind_of(column).startswith(kind) or kind in kind_of(column)
