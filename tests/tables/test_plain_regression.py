"""The plain regression of a table: a statistician's least squares, of rows that are complete."""

import numpy as np
import pandas as pd
from sklearn.linear_model import LinearRegression

from upweight.tables import FittedFile


def test_other_rows_are_written_out_as_the_regression_was_fitted(tmp_path) -> None:
    rng = np.random.default_rng(0)
    table = pd.DataFrame({"age": rng.normal(40, 9, 30), "town": rng.choice(["b", "c", "d"], 30)})
    table["cost"] = table.age + 3 * (table.town == "c") + rng.normal(size=30)
    table.loc[2, "age"], table.loc[2, "town"] = np.nan, "a"  # the first town is in no complete row
    path = tmp_path / "costs.csv"
    table.to_csv(path, index=False)
    fitted = FittedFile.of(path, "cost", plain=True)
    assert list(fitted.raw.index) == [i for i in range(30) if i != 2]
    kept = table.drop(index=2)
    X = np.c_[kept.age, kept.town == "c", kept.town == "d"].astype(float)
    twin = LinearRegression().fit(X, kept.cost)
    model = fitted.model.influence.problem.output_model
    assert model is not None
    test = fitted.model.batches(kept.iloc[[5, 0]], tmp_path)
    outputs = model.outputs(model.prepared(test)[0])[:, 0]
    np.testing.assert_allclose(outputs, twin.predict(X[[5, 0]]), rtol=1e-8)
