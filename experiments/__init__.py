"""The paper's figures and other judgements by retraining; `python -m experiments` lists them."""
