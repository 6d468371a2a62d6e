"""Score residuals, dfbeta and dfbetas of Cox's model: against the textbook's sums, and R's survival where it is."""

import shutil
import subprocess

import numpy as np
import pandas as pd
import pytest
import torch

import upweight as uw
from tests.support.compare import assert_close_per_row
from upweight.data.user_terms import Terms
from upweight.likelihood import LikelihoodProblem, PartialLikelihood

N, rng = 90, np.random.default_rng(5)
STUDY = pd.DataFrame({"age": rng.normal(60, 9, N), "dose": rng.uniform(size=N)})
STUDY["start"] = rng.integers(0, 6, N).astype(float)
STUDY["stop"] = STUDY.start + rng.integers(1, 9, N)
STUDY["event"] = (rng.uniform(size=N) < 0.6).astype(float)
STUDY["site"] = rng.integers(0, 2, N).astype(float)
STUDY["w"] = rng.uniform(0.5, 2, N)
STUDY["subject"] = np.arange(N) // 3
COVARIATES = ["age", "dose"]


def cox(*, efron=True, late=True, strata=True, weighted=True) -> LikelihoodProblem:
    columns = [STUDY.stop, STUDY.event, STUDY.site * strata, *([STUDY.start] if late else [])]
    X = torch.from_numpy(STUDY[COVARIATES].to_numpy().copy())
    likelihood = PartialLikelihood(X, torch.from_numpy(np.column_stack(columns)), efron=efron)
    weights = STUDY.w.to_numpy().copy() if weighted else np.ones(N)
    terms = Terms(feature_names=tuple(COVARIATES))
    return LikelihoodProblem(likelihood, [0.0, 0.0], weights=weights, keep="total", terms=terms).minimised()


def test_scores_are_those_of_the_textbook():
    problem = cox(efron=False, weighted=False)
    X, stop, event, stratum, start = problem.likelihood.X, *problem.likelihood.y.T
    scores, risk = torch.zeros_like(X), (X @ problem.theta - 3).exp()
    for i in range(N):
        if event[i] == 0:
            continue
        at = (start < stop[i]) & (stop >= stop[i]) & (stratum == stratum[i])
        share = risk * at / (risk * at).sum()
        mean = share @ X
        scores[i] += X[i] - mean
        scores -= share[:, None] * (X - mean)
    found = uw.diagnostics(uw.Influence(problem), first_order=True)
    assert found.scores is not None
    assert_close_per_row(found.scores.to_numpy(), scores, 1e-9)
    covariance = torch.linalg.inv(problem.hessian.matrix() * N)
    assert_close_per_row(found.dfbeta.to_numpy(), scores @ covariance, 1e-9)
    assert_close_per_row(found.dfbetas.to_numpy(), scores @ covariance / covariance.diagonal().sqrt(), 1e-9)
    subjects = uw.diagnostics(uw.Influence(problem), by=STUDY.subject, first_order=True)
    assert_close_per_row(
        subjects.dfbeta.to_numpy(), found.dfbeta.groupby(STUDY.subject).sum().to_numpy(), 1e-12
    )


def test_newton_steps_without_a_subject_are_near_refits_where_derivatives_are_not():
    influence = uw.Influence(cox())
    exact = uw.diagnostics(influence, by=STUDY.subject, refitted=True).dfbeta.to_numpy()
    off = [
        np.linalg.norm(uw.diagnostics(influence, by=STUDY.subject, first_order=first).dfbeta - exact)
        for first in (False, True)
    ]
    assert off[0] < 0.05 * np.linalg.norm(exact)
    assert off[0] < off[1] / 2
    asked = torch.zeros(1, 2), torch.zeros(1, 3)  # a coefficient needs no rows
    dose = uw.OfParameters(lambda params: params["weight"][0, 1])
    removed = influence.of_removal(STUDY.subject.to_numpy(), asked, measure=dose)
    assert removed.newton is not None
    assert_close_per_row(-removed.newton.T, exact[:, 1:], 1e-6)


def test_derivatives_of_other_models_are_refused():
    fitted = uw.LinearProblem.fit(torch.ones(4, 1), torch.tensor([0.0, 1, 1, 2]), loss=uw.Squared())
    with pytest.raises(ValueError, match="first_order is for Cox"):
        uw.diagnostics(uw.Influence(fitted), first_order=True)
    with pytest.raises(ValueError, match="exclude each other"):
        uw.diagnostics(uw.Influence(cox()), first_order=True, refitted=True)


R_SCRIPT = """
suppressPackageStartupMessages(library(survival))
study <- read.csv("study.csv")
told <- list(
  plain = Surv(stop, event) ~ age + dose,
  late = Surv(start, stop, event) ~ age + dose,
  strata = Surv(start, stop, event) ~ age + dose + strata(site))
for (name in names(told)) for (ties in c("efron", "breslow")) for (weighted in c(FALSE, TRUE)) {
  study$own <- if (weighted) study$w else rep(1, nrow(study))
  precise <- coxph.control(eps = 1e-12, toler.chol = 1e-13)
  fit <- coxph(told[[name]], study, weights = own, ties = ties, control = precise)
  for (kind in c("score", "dfbeta", "dfbetas")) for (by in c("row", "subject")) {
    found <- if (by == "row") residuals(fit, type = kind, weighted = TRUE)
      else residuals(fit, type = kind, weighted = TRUE, collapse = study$subject)
    file <- paste(name, ties, weighted, kind, by, sep = "_")
    write.table(format(found, digits = 17), file, row.names = FALSE, col.names = FALSE, quote = FALSE)
  }
}
"""


@pytest.fixture(scope="module")
def of_r(tmp_path_factory):
    """The residuals of R's survival, in files."""
    place = tmp_path_factory.mktemp("of_r")
    if shutil.which("Rscript") is None:
        pytest.skip("R is not installed")
    STUDY.to_csv(place / "study.csv", index=False)
    told = subprocess.run(["Rscript", "-e", R_SCRIPT], cwd=place, capture_output=True, text=True, check=False)
    if "no package called" in told.stderr:
        pytest.skip("R has no package survival")
    assert told.returncode == 0, told.stderr
    return place


@pytest.mark.parametrize("ties", ["efron", "breslow"])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("name", ["plain", "late", "strata"])
def test_all_are_those_of_r(of_r, name, ties, weighted):
    problem = cox(efron=ties == "efron", late=name != "plain", strata=name == "strata", weighted=weighted)
    for by in ("row", "subject"):
        groups = STUDY.subject if by == "subject" else None
        found = uw.diagnostics(uw.Influence(problem), by=groups, first_order=True)
        assert found.scores is not None
        for kind, ours in (("score", found.scores), ("dfbeta", found.dfbeta), ("dfbetas", found.dfbetas)):
            file = of_r / f"{name}_{ties}_{str(weighted).upper()}_{kind}_{by}"
            assert_close_per_row(ours.to_numpy(), np.loadtxt(file), 1e-8)
