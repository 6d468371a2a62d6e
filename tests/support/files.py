"""Files of a user's, and the command line that answers about them."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from typer.testing import CliRunner, Result

from upweight.cli import app


def run(*arguments: object) -> Result:
    """What the command line answers to these words."""
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
def people_file(tmp_path: Path) -> Path:
    """The table of people as a CSV file."""
    path = tmp_path / "people.csv"
    people().to_csv(path, index=False)
    return path


@pytest.fixture
def houses_file(tmp_path: Path) -> Path:
    """A CSV file of prices in dollars, nearly linear in the size."""
    random = np.random.default_rng(1)
    size = random.uniform(50, 200, 80)
    table = pd.DataFrame(
        {
            "size": size,
            "town": random.choice(["a", "b"], 80),
            "price": 3000 * size + random.normal(0, 9000, 80),
        }
    )
    path = tmp_path / "houses.csv"
    table.to_csv(path, index=False)
    return path


def ridge(table: pd.DataFrame) -> tuple[np.ndarray, Any]:
    """The features and the model that are documented for the file of houses, written out."""
    from sklearn.linear_model import Ridge

    X = np.column_stack(
        [
            (table["size"] - table["size"].mean()) / table["size"].std(ddof=0),
            table["town"] == "a",
            table["town"] == "b",
        ]
    )
    return X, Ridge().fit(X, table["price"])


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
