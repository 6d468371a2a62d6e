"""The digits of the demo: what is in the package, and the prediction that is asked about."""

import numpy as np
import pytest
import torch

from upweight import LinearProblem, Softmax
from upweight.cli import digits


def test_the_package_holds_ten_digits_of_28_pixels():
    found = digits.embedded_digits()
    for images, labels in ((found.train, found.train_labels), (found.test, found.test_labels)):
        assert images.dtype == np.uint8
        assert images.shape == (len(labels), 28, 28)
        assert sorted(set(labels.tolist())) == list(range(digits.CLASSES))
    assert len(found.train_labels) == 5500
    # No test digit is one of those that were learned from.
    train = {image.tobytes() for image in found.train}
    assert not any(image.tobytes() in train for image in found.test)


def test_pixels_are_rows_from_0_to_1():
    images = np.array([[[0, 51], [102, 255]], [[255, 0], [0, 0]]], dtype=np.uint8)
    found = digits.pixels(images)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, torch.tensor([[0.0, 0.2, 0.4, 1.0], [1.0, 0.0, 0.0, 0.0]]))


def test_the_chosen_digit_is_wrong_and_the_most_confident():
    few = digits.Digits(*(part[:300] for part in digits.embedded_digits()))
    X, y = few.train.reshape(300, -1) / 255.0, few.train_labels
    problem = LinearProblem.fit(X, y, loss=Softmax(), outputs=10, l2=1.0)
    wrong = digits.most_confident_error(problem, few)
    scores = (few.test.reshape(300, -1) / 255.0) @ problem.theta.view(10, -1).numpy().T
    probability = np.exp(scores) / np.exp(scores).sum(1, keepdims=True)
    missed = probability.argmax(1) != few.test_labels
    assert missed[wrong.row]
    assert wrong.label == few.test_labels[wrong.row] != wrong.predicted
    # The demo reads the pixels in single precision.
    assert wrong.probability == pytest.approx(probability[missed].max(), rel=1e-5)


def test_the_question_names_the_digit_and_what_the_model_calls_it():
    words = digits.Wrong(row=7, label=4, predicted=9, probability=0.98765).question
    assert words.startswith("Test digit 7 is a 4, but the model calls it a 9 with probability 98.8%.")
    assert words.endswith("Which training digits are responsible?")
