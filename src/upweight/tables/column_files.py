"""Parquet, Feather, Arrow and ORC: files that know the types of their columns."""

from __future__ import annotations

from dataclasses import dataclass
from io import BytesIO
from typing import TYPE_CHECKING

import pandas as pd

from .formats import Format, Source

if TYPE_CHECKING:
    import pyarrow as pa


@dataclass(frozen=True)
class ColumnFile(Format):
    """A file of columns, as pyarrow reads it: a pandas index in it is a column like any other.

    Attributes:
        suffix: ".parquet", ".orc", or another one for Feather and Arrow.
    """

    suffix: str

    def read(self, source: Source) -> tuple[pd.DataFrame, tuple[str, ...]]:
        table = self._loaded(source)[0]
        # An index that pandas keeps in the file's metadata alone counts the rows, as we do.
        return table.to_pandas(ignore_metadata=True, date_as_object=False), ()

    def edited(self, content: bytes, target: str, rows: pd.Series, *, exact: bool) -> bytes:
        table, stream = self._loaded(BytesIO(content))
        labels = table.column(target).take(rows.to_numpy())
        place = table.schema.get_field_index(target)
        made = table.take(rows.index.to_numpy()).set_column(place, table.schema.field(place), labels)
        return self._written(made, stream)

    def _loaded(self, source: Source) -> tuple[pa.Table, bool]:
        """The table, and whether it is a stream of Arrow's."""
        import pyarrow as pa

        if self.suffix == ".parquet":
            from pyarrow import parquet

            return parquet.ParquetFile(source).read(), False
        if self.suffix == ".orc":
            from pyarrow import orc

            return orc.ORCFile(source).read(), False
        from pyarrow import feather

        try:
            return feather.read_table(source), False
        except pa.ArrowInvalid:
            if isinstance(source, BytesIO):
                source.seek(0)
            try:
                with pa.ipc.open_stream(
                    source if isinstance(source, BytesIO) else source.read_bytes()
                ) as stream:
                    return stream.read_all(), True
            except pa.ArrowInvalid:
                pass
            raise

    def _written(self, table: pa.Table, stream: bool) -> bytes:
        import pyarrow as pa
        from pyarrow import feather, orc, parquet

        out = BytesIO()
        if stream:
            with pa.ipc.new_stream(out, table.schema) as writer:
                writer.write_table(table)
        elif self.suffix == ".orc":
            orc.write_table(table, out)
        elif self.suffix == ".parquet":
            parquet.write_table(table, out)
        else:
            feather.write_feather(table, out)
        return out.getvalue()
