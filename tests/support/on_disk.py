"""One small table of numbers in every form that X may have on disk."""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.feather
import pyarrow.parquet
import torch

from tests.support.cases import draw
from upweight import stream

N, D = 57, 4
X = draw(N, D).float()
Y = (X[:, 0] + draw(N, seed=5) > 0).long()
FORMS = [
    "memmap",
    "parquet",
    "parquet folder",
    "arrow file",
    "arrow table",
    "arrow list column",
    "datasets",
    "datasets selection",
]


def table() -> pa.Table:
    columns = {f"x{j}": X[:, j].numpy() for j in range(D)}
    return pa.table({"note": [f"row {i}" for i in range(N)], **columns, "label": Y.numpy()})


def on_disk(form: str, folder: Path) -> tuple[Any, Any]:
    """X and y of that form, as `LinearProblem` takes them."""
    names = [f"x{j}" for j in range(D)]
    if form == "memmap":
        np.save(folder / "X.npy", X.numpy())
        return np.load(folder / "X.npy", mmap_mode="r"), Y
    if form == "parquet":
        pa.parquet.write_table(table(), folder / "t.parquet", row_group_size=13)
        return stream(folder / "t.parquet", "label", names)
    if form == "parquet folder":
        for i in range(3):
            pa.parquet.write_table(table().slice(20 * i, 20), folder / f"{i}.parquet", row_group_size=7)
        return stream(str(folder), "label", names)
    if form == "arrow file":
        pa.feather.write_feather(table(), folder / "t.arrow", chunksize=11)
        return stream(folder / "t.arrow", "label", names)
    if form == "arrow list column":
        flat = pa.array(X.numpy().ravel())
        lists = pa.FixedSizeListArray.from_arrays(flat, D)
        return stream(pa.table({"vector": lists, "label": Y.numpy()}), "label")
    if form == "arrow table":
        return stream(table(), "label", names)
    import datasets

    data = datasets.Dataset(table().drop(["note"]))
    if form == "datasets selection":  # stored in another order, with rows between
        order = torch.randperm(2 * N, generator=torch.Generator().manual_seed(1))
        doubled = datasets.concatenate_datasets([data, data]).select(order.argsort().tolist())
        data = doubled.select(order[:N].tolist())
    return stream(data, "label")
