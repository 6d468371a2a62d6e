"""`upweight demo`: the command."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated

import typer

from ..runtime.progress import phase
from ..runtime.terminal import say
from .app import answering


@answering
def demo(
    out: Annotated[
        Path, typer.Option(help="Folder for report.html and verification.png.", file_okay=False)
    ] = Path("demo"),
    seed: Annotated[int, typer.Option(help="Seed of the random control group.", min=0)] = 0,
    k: Annotated[
        int,
        typer.Option("--k", help="Retrain without each of the k top and k random digits.", min=2, max=2000),
    ] = 30,
) -> None:
    """Explain a wrong prediction of a digit classifier, and verify the explanation by retraining.

    Trains softmax regression on 5,500 embedded MNIST digits, takes the wrong test prediction that the model is most
    confident of, and shows which training digits are responsible.
    """
    began = time.perf_counter()
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise typer.BadParameter(
            f"cannot make the folder {out}: {error.strerror}", param_hint="--out"
        ) from None
    with phase("loading"):
        from .demo import explained
    explained(out, seed, k)
    say(f"Total time: {time.perf_counter() - began:.1f} s")
