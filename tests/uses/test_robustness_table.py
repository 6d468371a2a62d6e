"""The table of a study: its numbers are those of plain least squares, and LaTeX prints its names."""

import numpy as np
import pandas as pd
import pytest
from sklearn.datasets import load_diabetes
from sklearn.linear_model import LinearRegression, LogisticRegression

import upweight as uw

pytestmark = pytest.mark.usefixtures("quick_proofs")


@pytest.fixture(scope="module")
def study() -> tuple[pd.DataFrame, pd.Series, uw.Influence]:
    """The diabetes data, whose columns have names that LaTeX would take for commands."""
    X, y = load_diabetes(return_X_y=True, as_frame=True, scaled=False)
    X = X.rename(columns={"s1": "serum_1 (50%)"})
    return X, y, uw.Influence(uw.from_estimator(LinearRegression().fit(X, y), X, y))


def least_squares(X: pd.DataFrame, y: pd.Series, column: str) -> tuple[float, float]:
    """A coefficient and its classical standard error, written out."""
    A = np.c_[X.to_numpy(float), np.ones(len(X))]
    theta, *_ = np.linalg.lstsq(A, y.to_numpy(float), rcond=None)
    scale = np.sum((y - A @ theta) ** 2) / (len(y) - A.shape[1])
    place = list(X.columns).index(column)
    return theta[place], np.sqrt(scale * np.linalg.inv(A.T @ A)[place, place])


def test_estimates_and_errors_are_those_of_least_squares_before_and_after(study) -> None:
    X, y, influence = study
    found = uw.robustness_table(influence, ["sex", "serum_1 (50%)"])
    frame = found.to_frame()
    assert [name for _, name in frame.index[:3]] == ["sign", "significance", "sign and significance"]
    for (column, change), one in found.answers.items():
        line = frame.loc[(column, change)]
        np.testing.assert_allclose(
            [line["estimate"], line["std err"]], least_squares(X, y, column), rtol=1e-8
        )
        assert one.rows is not None
        left = X.index.delete(one.rows.numpy())
        expected = least_squares(X.loc[left], y.loc[left], column)
        np.testing.assert_allclose([line["without them"], line["std err without"]], expected, rtol=1e-6)
        assert line["found"] == len(one.rows) > line["certified"]
        assert line["share (%)"] == pytest.approx(100 * len(one.rows) / 442)
        alone = uw.robustness(
            influence,
            {
                "sign": uw.Sign(column),
                "significance": uw.Significant(column),
                "sign and significance": uw.NotReversed(column),
            }[change],
        )
        assert (alone.found, alone.certified, alone.first_order) == (
            one.found,
            one.certified,
            one.first_order,
        )
    assert len(found.notes) == 1
    assert "significance of serum_1 (50%): the conclusion does not hold to begin with" in found.notes[0]
    assert found.notes[0] in repr(found)
    assert found.notes[0] in found._repr_html_()


def test_latex_has_a_line_for_each_answer_and_escaped_names(study) -> None:
    found = uw.robustness_table(study[2], "serum_1 (50%)")
    text = found.to_latex(caption="Fragile", label="tab:fragile")
    assert r"serum\_1 (50\%) & $-1.09$ ($0.573$) & sign & $0.1037$ ($0.719$) & $7$ (1.6\%) & 5 \\" in text
    assert text.count(r"serum\_1") == 2
    assert r"\caption{Fragile}" in text
    assert r"\label{tab:fragile}" in text
    assert "Rows removed" in text


def test_answers_of_ones_own_make_a_table(study) -> None:
    X, _, influence = study
    gap = uw.MeanPrediction(X, groups=X["sex"])
    table = uw.RobustnessTable({("women less men", "sign"): uw.robustness(influence, gap)})
    assert table.to_frame().index.tolist() == [("women less men", "sign")]
    assert "women less men & $" in table.to_latex()


def test_what_has_no_standard_error_has_none_in_the_table(study) -> None:
    X, y, _ = study
    X = (X - X.mean()) / X.std()
    model = LogisticRegression(C=np.inf, tol=1e-10, max_iter=10_000).fit(X, y > 140)
    influence = uw.Influence(uw.from_estimator(model, X, y > 140, polish=True))
    found = uw.robustness_table(influence, "bmi", most=5)
    assert list(found.answers) == [("bmi", "sign")]
    assert all("least squares alone" in note for note in found.notes)
    frame = found.to_frame()
    assert frame["found"].isna().all()
    assert frame["std err"].isna().all()
    assert "& -- & -- &" in found.to_latex()


def test_groups_are_counted_as_groups(study) -> None:
    X, _, influence = study
    found = uw.robustness_table(influence, "sex", groups=np.arange(len(X)) % 40)
    assert {one.unit for one in found.answers.values()} == {"group"}
    assert "Groups removed" in found.to_latex()


def test_errors_are_those_that_were_asked_for(study) -> None:
    X, y, influence = study
    found = uw.robustness_table(influence, "sex", errors=uw.Errors("HC1"), most=60)
    A = np.c_[X.to_numpy(float), np.ones(len(X))]

    def robust(rows: np.ndarray) -> float:
        B = A[rows]
        bread = np.linalg.inv(B.T @ B)
        e = y.to_numpy(float)[rows] - B @ bread @ B.T @ y.to_numpy(float)[rows]
        V = bread @ (B.T * e**2) @ B @ bread * len(rows) / (len(rows) - B.shape[1])
        return float(np.sqrt(V[1, 1]))

    everything = np.arange(len(X))
    for one in found.answers.values():
        assert one.error == pytest.approx(robust(everything), rel=1e-6)
        assert one.rows is not None
        assert one.error_after == pytest.approx(robust(np.delete(everything, one.rows.numpy())), rel=1e-6)
    assert found.answers["sex", "sign"].certified > 0
    assert "HC1" in found.answers["sex", "significance"].limit
