"""The rows that leaf values are computed from."""

import torch

from upweight.trees.passes import fit, row_equations

from ..support.compare import assert_close_per_row
from ..support.ensembles import LOSSES, invented


def test_blocks_of_rows_cover_all_of_them_once():
    trained = invented(*LOSSES["squared"])
    parts = trained.blocks(1 << 15, lambda part: torch.arange(trained.n)[part])
    assert torch.cat(parts).tolist() == list(range(trained.n))


def test_the_start_moves_with_a_row_as_differences_say():
    for name in ("logistic", "softmax", "poisson"):
        trained, step = invented(*LOSSES[name]), 1e-6
        found = trained.start_slopes()
        for i in (0, 31):
            ends = []
            for sign in (1, -1):
                w = trained.w.clone()
                w[i] *= 1 + sign * step
                ends.append(trained.with_weights(w).start_scores())
            assert_close_per_row(found[i], (ends[0] - ends[1]) / (2 * step), 1e-6)


def test_some_rows_add_what_they_add_among_all():
    trained = invented(*LOSSES["softmax"], bags=True)
    theta, index = fit(trained).theta, torch.tensor([7, 3])
    assert_close_per_row(
        row_equations(trained.rows(index), theta), row_equations(trained, theta)[index], 1e-12
    )


def test_scores_that_a_library_keeps_in_float32_are_rounded_so():
    trained = invented(*LOSSES["squared"])
    vars(trained)["single"] = True
    scores = fit(trained).scores
    assert torch.equal(scores, scores.float().double())
