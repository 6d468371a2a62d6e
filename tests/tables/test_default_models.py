"""The pipeline of a table without a model: photographs become features, which are kept."""

import numpy as np
import pandas as pd
import pytest
import torch

from tests.support.files import people, run
from upweight.tables import FittedFile
from upweight.tables.default_models import origin


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
    arguments = ("--target", "colour", "--row", 0, "--k", 2, "--checked", 2, "--out", out, "--fail-over", 10)
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


def test_features_are_called_as_their_columns_are(tmp_path):
    """Each name is held against the feature's own numbers: what the pipeline makes of the column that it names."""
    table = people().rename(columns={"age": "a__b"}).assign(pulse=np.arange(120.0) % 7)
    path = tmp_path / "people.csv"
    table.to_csv(path, index=False)
    fitted = FittedFile.of(path, "opinion")
    problem = fitted.linear_problem
    names = problem.feature_names
    assert names is not None
    assert len(set(names)) == len(names) == problem.d
    X = dict(
        zip(
            names,
            problem.train_batch(torch.arange(120))[0].block(slice(None), torch.float64).dense().T,
            strict=True,
        )
    )
    assert np.corrcoef(X["a__b"], table["a__b"].fillna(table["a__b"].median()))[0, 1] == pytest.approx(1)
    assert (X["a__b missing"] > 0).nonzero()[:, 0].tolist() == [3]
    assert (X["town = north"] > 0).tolist() == (table["town"] == "north").tolist()
    assert (X["said: good"] > 0).tolist() == table["said"].str.contains("good").tolist()
    found = {name: origin(name, fitted.model.kinds) for name in names}
    assert found["a__b"] == ("a__b", "")
    assert found["a__b missing"] == ("a__b", "missing")
    assert found["town = north"] == ("town", "north")
    assert found["said: good"] == ("said", "good")
    assert origin("numbers__missingindicator_a__b", fitted.model.kinds) == ("a__b", "")
    assert origin("said__good", fitted.model.kinds) == ("said", "good")
    assert origin("of nobody", fitted.model.kinds) == ("of nobody", "")
