"""The paper's formulas, and the scores that they give."""
