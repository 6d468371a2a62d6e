"""The columns on the way to each leaf, and the effects that go through leaves that two rows share."""

import numpy as np
import pandas as pd
import pytest
import torch

import upweight as uw

pytest.importorskip("sklearn")


CATBOOST = ["catboost", "catboost Depthwise", "catboost Lossguide"]


def data(n: int = 300) -> tuple[pd.DataFrame, np.ndarray]:
    rng = np.random.default_rng(0)
    X = pd.DataFrame(rng.normal(size=(n, 4)), columns=["a", "b", "c", "d"])
    X["d"] = rng.integers(0, 5, n)
    return X, (X.a + X.b * X.c + (X.d == 2) + rng.normal(size=n) > 0).to_numpy().astype(int)


def model(library: str):
    if library == "xgboost":
        return pytest.importorskip("xgboost").XGBClassifier(n_estimators=8, max_depth=3, n_jobs=1)
    if library == "lightgbm":
        return pytest.importorskip("lightgbm").LGBMClassifier(n_estimators=8, n_jobs=1, verbosity=-1)
    if library.startswith("catboost"):
        kind = pytest.importorskip("catboost").CatBoostClassifier
        how = {"iterations": 8, "depth": 3, "verbose": 0, "thread_count": 1, "allow_writing_files": False}
        policy = library.partition(" ")[2] or "SymmetricTree"
        return kind(grow_policy=policy, one_hot_max_size=9, cat_features=["d"], **how)
    from sklearn import ensemble

    return {
        "hist": ensemble.HistGradientBoostingClassifier(max_iter=8),
        "categories": ensemble.HistGradientBoostingClassifier(max_iter=8, categorical_features=[3]),
        "boosting": ensemble.GradientBoostingClassifier(n_estimators=8),
        "forest": ensemble.RandomForestClassifier(8, max_depth=4, random_state=0),
    }[library]


@pytest.mark.parametrize(
    "library", ["hist", "categories", "boosting", "forest", "xgboost", "lightgbm", *CATBOOST]
)
def test_a_column_off_the_path_changes_no_leaf(library: str) -> None:
    X, y = data()
    problem = uw.from_estimator(model(library).fit(X, y), X, y)
    structure = problem.trained.structure
    ends = np.cumsum([0, *{tree.leaf: tree.size for one in structure.rounds for tree in one.trees}.values()])
    for j, name in enumerate(X.columns[: structure.paths.shape[1]]):
        moved = structure.apply(X.assign(**{name: X[name].to_numpy()[::-1]}))
        for t in range(len(moved)):
            on = structure.paths[ends[t] + structure.leaf[t].numpy(), j].toarray()[:, 0]
            changed = (moved[t] != structure.leaf[t]).numpy()
            assert not changed[~on].any()
            assert changed.any() == on.any() or not changed.any()


@pytest.mark.parametrize(
    "library", ["hist", "categories", "boosting", "forest", "xgboost", "lightgbm", *CATBOOST]
)
def test_parts_add_up_to_the_effect(library: str) -> None:
    X, y = data()
    problem = uw.from_estimator(model(library).fit(X, y), X, y)
    influence, test = uw.Influence(problem), (X[:1], y[:1])
    found = uw.explain(influence, test, k=5, first_order=True)
    for table, parts in zip((found.helpful, found.harmful), found.parts, strict=True):
        assert list(parts.columns[-3:]) == [
            "the start",
            "leaves that they do not share",
            "the bend of the measure",
        ]
        effect = table["removal effect on the loss"].to_numpy()
        assert np.allclose(parts.to_numpy()[:, :-1].sum(1), effect, rtol=1e-9)
        assert (parts["the bend of the measure"].abs() < 1e-12).all()
    # Written out: through each tree whose leaf both rows are in, shared evenly among the columns on its path.
    solved = influence.solve(problem.test_gradients(test)).value[0]
    row = int(found.helpful.index[0])
    own = problem.train_gradients(torch.tensor([row]))[0] * solved / problem.n
    structure, plain = problem.trained.structure, np.zeros(4)
    ends = np.cumsum([0, *{tree.leaf: tree.size for one in structure.rounds for tree in one.trees}.values()])
    for one, places in structure.numbered():
        for tree, place in zip(one.trees, places[0], strict=True):
            leaf = int(structure.leaf[tree.leaf, row])
            if leaf == int(structure.leaf[tree.leaf, 0]):
                on = structure.paths[ends[tree.leaf] + leaf].indices
                for j in on:
                    plain[j] += float(own[place.start + leaf]) / len(on)
    d = structure.paths.shape[1]
    assert np.allclose(found.parts[0].to_numpy()[0, :d], plain[:d], rtol=1e-9, atol=1e-15)


def test_a_stump_speaks_of_its_column_alone() -> None:
    from sklearn.ensemble import HistGradientBoostingRegressor

    X, _ = data()
    y = X.c.to_numpy() > 0
    fitted = HistGradientBoostingRegressor(max_iter=3, max_leaf_nodes=2).fit(X, y.astype(float))
    influence = uw.Influence(uw.from_estimator(fitted, X, y.astype(float)))
    words = uw.explain(influence, (X[:1], y[:1].astype(float)), k=3).helpful["because of"]
    assert words.str.startswith("c (").all()
