"""The experiments run at their small size, end to end, and their bars that hold there."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from experiments.fig5_attack import read

ROOT = Path(__file__).parents[2]


def run(name: str, out: Path, data: Path | None, *options: str) -> None:
    """An experiment at its small size, in a process of its own as users run it."""
    command = [sys.executable, "-m", "experiments", name, "--small", "--out", str(out), *options]
    variables = os.environ if data is None else {**os.environ, "UPWEIGHT_DATA_DIR": str(data)}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=variables, cwd=ROOT)
    assert done.returncode == 0, done.stderr


def small(name: str, out: Path, data: Path | None = None, *options: str, kept: str | None = None) -> Any:
    """The numbers that an experiment writes, beside a picture, in files of the name `kept` or its own."""
    run(name, out, data, *options)
    assert (out / f"{kept or name}.png").stat().st_size > 1000
    return json.loads((out / f"{kept or name}.json").read_text())


def test_fig1_components_small(tmp_path: Path) -> None:
    result = small("fig1_components", tmp_path)
    assert result["exceptions_without_hessian"] == 0
    assert result["same_label_harmful"] > 0
    assert result["library_against_formula"] < 1e-10
    assert max(result["pearson_with_influence"].values()) < 0.9


def test_fig2_linear_small(tmp_path: Path) -> None:
    (digit,) = small("fig2_linear", tmp_path)["digits"]
    assert digit["left_top"]["pearson"] > 0.99
    assert digit["largest_gradient_norm"] <= 1e-9


def test_fig3_hinge_small(tmp_path: Path) -> None:
    result = small("fig3_hinge", tmp_path)
    assert result["largest_gap_of_refits"] <= 1e-10
    assert result["agreement"]["0.0"]["pearson"] < 0.75
    assert result["agreement"]["0.0"]["norm_predicted_over_actual"] > 5
    assert result["agreement"]["0.001"]["pearson"] >= 0.94


def test_fig4_rbf_small(tmp_path: Path, data_dir: Path) -> None:
    result = small("fig4_rbf", tmp_path, data_dir)
    assert result["largest_gap_of_refits"] <= 1e-10
    assert result["agreement"]["pearson"] >= 0.99
    shape = result["shape"]["without_penalty"]
    assert shape["spearman_influence_distance"] < -0.3
    assert shape["sign_purity_nearest_tenth"] > 0.7


def test_fig6_mislabeled_small(tmp_path: Path, data_dir: Path) -> None:
    result = small("fig6_mislabeled", tmp_path, data_dir)
    assert result["summary"]["influence_above_loss_up_to_30_percent"]
    assert result["seeds"][0]["on_self_against_leverages"] < 1e-6
    found = result["summary"]["found_in_first_20_percent"]
    assert found["leave_one_out"] > found["self_influence"] > found["train_loss"] > found["random"]


def test_sec53_hospital_small(tmp_path: Path, data_dir: Path) -> None:
    result = small("sec53_hospital", tmp_path, data_dir)
    assert (result["p"], result["children_in_full_training_set"], result["children_kept"]) == (
        127,
        [3, 24],
        [3, 4],
    )
    assert result["signs_right_in_all"]
    assert result["largest_error_of_a_row"] < 1e-9
    assert min(child["times_the_next"] for child in result["shown"]) > 2


def test_removal_small(tmp_path: Path, data_dir: Path) -> None:
    result = small("removal", tmp_path, data_dir, "--only", "hospital")["hospital"]
    assert result["single_rows"]["largest_gradient_norm"] <= 1e-9
    assert result["single_rows"]["newton"]["relative_error"] < 0.05
    assert result["single_rows"]["first_order"]["relative_error"] > 0.1
    assert [part["violations"] for part in result["intervals"]] == [0, 0]


def test_lds_mnist_small(tmp_path: Path) -> None:
    result = small("lds_mnist", tmp_path)
    assert len(result["by_models"]) == 2
    assert len(list(tmp_path.glob("lds_*/*.npy"))) == result["retrainings"]
    assert set(result["choice"]) == {"0.01", "0.1"}


def test_unrolled_mnist_small(tmp_path: Path) -> None:
    result = small("unrolled_mnist", tmp_path)
    assert result["lds"]["through training"]["10 %"]["lds"] > 0.9
    assert len(result["other_seeds"]) == 2


def test_segments_digits_small(tmp_path: Path) -> None:
    result = small("segments_digits", tmp_path)
    assert result["AdamW"]["all steps"]["10 %"]["lds"] > 0.9


def test_mislabel_mnist_small(tmp_path: Path) -> None:
    result = small("mislabel_mnist", tmp_path)
    assert max(part["auc"] for part in result["found"].values()) > 0.7


def test_fig2_cnn_small(tmp_path: Path) -> None:
    result = small("fig2_cnn", tmp_path)
    assert result["p"] == 2616
    assert result["damping"] > -result["hessian_spectrum"][0]
    assert len(result["predicted"]) == len(result["actual"]) == 4


def test_lds_logistic_small(tmp_path: Path) -> None:
    result = small("lds_logistic", tmp_path, None, "--l2", "0.1")
    assert result["stopped_early"]["leave_one_out"]["mean"] > 0.5
    (found,) = result["optimum"]
    assert found["halves"]["newton"]["lds"] > found["halves"]["first order"]["lds"] > 0.5
    for part in found["single_rows"].values():
        assert part["newton"]["correlation_within_test_digits"]["mean"] > 0.99
    top = [line for line in found["sets"] if line["group"] == "top"]
    assert all(line["low"] > 0 for line in top)
    for line in top:
        assert abs(line["newton"] - line["actual"]) < abs(line["first order"] - line["actual"]) / 2
    assert len(list(tmp_path.glob("lds_logistic_60/sgd/*.npy"))) == 12


def test_fig5_attack_small(tmp_path: Path, data_dir: Path) -> None:
    for _ in range(2):  # the second time everything is found where it was left
        run("fig5_attack", tmp_path, data_dir)
    result = json.loads((tmp_path / "fig5_attack_lite0_30.json").read_text())
    assert (tmp_path / "fig5_attack_lite0.png").stat().st_size > 1000
    assert result["right"] > 0.9 * result["of"]
    for line in result["targets"].values():
        for count in ("1", "2"):
            before, after = line[count]["loss"]
            assert after > before
            assert line[count]["pixel_change_share"] < 0.01 < line[count]["feature_change_share"]
    assert result["many"]["loss"][1] > result["many"]["loss"][0]


def test_fig5_attack_of_photographs_made_as_hard_as_the_papers(tmp_path: Path, data_dir: Path) -> None:
    run("fig5_attack", tmp_path, data_dir, "--side", "40", "--l2", "0.01")
    result = json.loads((tmp_path / "fig5_attack_lite0_30_side40_l2_0.01.json").read_text())
    assert (tmp_path / "fig5_attack_lite0_side40_l2_0.01.png").stat().st_size > 1000
    assert (result["side"], result["l2"]) == (40, 0.01)
    assert result["accuracy"] == result["right"] / result["of"] < 1
    for count in ("1", "2"):
        assert result["summary"][count]["largest_gap_of_refits"] < 1e-4
        for line in result["targets"].values():
            lost = line[count]["lost"]
            assert lost["box"] > lost["pixels"] > 0
            assert lost["found"] == pytest.approx(line["margin"] - line[count]["margin_left"], abs=1e-4)


def test_fig5_attack_goes_on_after_a_line_that_was_cut_off(tmp_path: Path) -> None:
    path = tmp_path / "lines.jsonl"
    assert read(path) == {}
    path.write_text('\n{"test": 3, "1": {"flipped": true}}\n{"test": 3, "2": {"fl\n{"test": 5, "1": {}}')
    assert read(path) == {"3": {"test": 3, "1": {"flipped": True}}, "5": {"test": 5, "1": {}}}


def test_fig4_inception_vs_rbf_small(tmp_path: Path, data_dir: Path) -> None:
    result = small("fig4_inception_vs_rbf", tmp_path, data_dir, kept="fig4_lite0_vs_rbf")
    assert result["test_accuracy"] > 0.95 > result["rbf_test_accuracy"]
    near, far = (result[half]["spearman_influence_distance"] for half in ("rbf", "lite0"))
    assert near < far - 0.1
    assert result["gradient_norm"] < 1e-8


def test_derivatives_sweep_small(tmp_path: Path) -> None:
    counts = small("derivatives_sweep", tmp_path)["counts"]
    assert counts["right"] >= 20
    assert counts.get("silent", 0) == counts.get("raw", 0) == counts.get("refused", 0) == 0


def test_solver_zoo_small(tmp_path: Path) -> None:
    result = small("solver_zoo", tmp_path)
    assert result["wrong"] == result["raw errors"] == 0, result["told"]
    for name in ("default", "Exact", "CG", "on_self", "of_removal", "leave_one_out", "network, Exact"):
        assert result["outcomes"][name] == {"right": 8}


def test_diagnostics_against_r_small(tmp_path: Path) -> None:
    pytest.importorskip("statsmodels")
    for name, line in small("diagnostics_against_r", tmp_path).items():
        assert line["refits"]["largest"] < (1e-8 if name in ("OLS", "WLS") else 1e-6), name
        assert all(line[other]["largest"] < 1e-8 for other in ("statsmodels", "R") if other in line), name


def test_robustness_small(tmp_path: Path) -> None:
    result = small("robustness", tmp_path)
    kinds = ("least squares", "logistic", "log links")
    assert [result[kind]["exceeded"] for kind in kinds] == [0, 0, 0]
    assert result["least squares"]["sets"] >= 20_000
    assert result["median certified / found"] >= 0.65


def test_shown_effects_small(tmp_path: Path) -> None:
    for name, line in small("shown_effects", tmp_path).items():
        assert line["newton"]["error"] < 0.25 * line["first order"]["error"], name
        assert line["newton"]["error"] < 0.05, name


def test_set_measures_small(tmp_path: Path) -> None:
    for name, line in small("set_measures", tmp_path)["breast_cancer"].items():
        found = line["upweight"]
        assert found["pearson"] is None or found["pearson"] > 0.99, name
        assert found["predicted as 0"] in (None, 1), name


def test_estimators_refits_small(tmp_path: Path) -> None:
    run("estimators_refits", tmp_path, None)
    result = json.loads((tmp_path / "estimators_refits.json").read_text())
    assert result["supported"] == result["estimators"] == 11
    for row in result["table"]:
        for found in row["data"].values():
            if row["said"] == "" and "held" in found:
                assert found["held"]["error"] < 0.05, row["estimator"]


def test_estimators_sweep_small(tmp_path: Path) -> None:
    run("estimators_sweep", tmp_path, None)
    result = json.loads((tmp_path / "estimators_sweep.json").read_text())
    assert result["wrong"] == 0, result["lines"]
    assert result["verdicts"]["right"] > 0.8 * result["cases"]
    assert max(result["largest_difference_of_the_right"].values()) < 0.01


def test_smooth_training_small(tmp_path: Path) -> None:
    result = small("smooth_training", tmp_path)
    assert result["SGD 0.05, tanh"]["rank correlation"] > 0.95
    assert all(one["metasmoothness"] > 0.9 for one in result["SGD 0.05, tanh"]["replayed"])
    assert all(one["metasmoothness"] < 0.9 for one in result["Adam 0.1, ReLU"]["replayed"])


def test_by_refitting_small(tmp_path: Path) -> None:
    result = small("by_refitting", tmp_path)
    for name in ("enumerated", "neighbours", "alone"):
        found = result[name]
        assert abs(found["share"] - 0.95) < 4 * max(found["error"], 0.02), name


def test_follow_scaling_small(tmp_path: Path) -> None:
    run("follow_scaling", tmp_path, None)
    worst = json.loads((tmp_path / "follow_scaling.json").read_text())["largest error"]
    assert worst["followed"] < 0.01 < 0.5 < worst["held"]


def test_trees_small(tmp_path: Path) -> None:
    booster = small("trees", tmp_path)["breast_cancer"]["GradientBoosting"]
    half = booster["subsets"]["50%"]
    assert half["derivative"] > 0.9 * half["ceiling"] > half["random"]
    assert booster["groups"]["top"]["actual"] > booster["groups"]["random"]["high"]
    assert booster["single"]["derivative beside refitted leaves"] > 0.5


def test_trees_flips_small(tmp_path: Path) -> None:
    booster = small("trees_flips", tmp_path)["breast_cancer"]["GradientBoosting"]
    assert booster["found"] > 0
    assert booster["confirmed"] == 1.0


def test_trees_labels_small(tmp_path: Path) -> None:
    table = small("trees_labels", tmp_path)["wine"]
    assert table["good"]
    assert table["recall"]["mislabeled"][1] > 0.9


def test_unrolled_gpt2_small(tmp_path: Path, data_dir: Path) -> None:
    pytest.importorskip("transformers")
    result = small("unrolled_gpt2", tmp_path, data_dir)
    through = result["lds"]["through training"]["10 %"]["lds"]
    assert through > 0.8 > result["lds_of_a_new_adam"]["10 %"]["lds"]
    assert through > max(
        found["10 %"]["lds"] for name, found in result["lds"].items() if "through" not in name
    )
    assert set(result["without_strongest"]) == {*result["lds"], "at random"}
