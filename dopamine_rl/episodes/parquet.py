"""Reading and writing of parquet files; imports pyarrow lazily."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    import pyarrow as pa

HUGGINGFACE = b"huggingface"
"""Key of the schema metadata in which the `datasets` package describes the columns."""

_PANDAS = {"int64": "int64", "string": "unicode"}


class NoColumn(ValueError):
    """A file lacks the columns `names`; it has those in `found`."""

    def __init__(self, names: Sequence[str], found: Sequence[str]) -> None:
        super().__init__(f"it has no column {', '.join(names)}")
        self.names, self.found = tuple(names), tuple(found)


DAMAGED = (OSError, ValueError, NotImplementedError, TypeError, KeyError)
"""What pyarrow raises for a file that is damaged or no parquet file; its own errors are subclasses."""


def column_names(path: Path) -> list[str]:
    """Names of a file's columns. Raises one of DAMAGED if it is not a parquet file."""
    from pyarrow import parquet

    return list(parquet.read_schema(path).names)


def read_columns(path: Path, columns: Sequence[str], **equal_to: int) -> dict[str, list[Any]]:
    """Columns of a file as lists, of all rows or those in which columns equal given values; null is None.

    Raises:
        NoColumn: the file lacks a column.
        DAMAGED: the file is not a parquet file.
    """
    from pyarrow import parquet

    filters = [(name, "==", value) for name, value in equal_to.items()] or None
    with parquet.ParquetFile(path) as file:
        found = file.schema_arrow.names
    if missing := [name for name in (*columns, *equal_to) if name not in found]:
        raise NoColumn(missing, found)
    table = parquet.read_table(path, columns=list(columns), filters=filters, partitioning=None)
    return {name: table.column(name).to_pylist() for name in columns}


def write_columns(path: Path, columns: Mapping[str, Any], index: str | None = None) -> None:
    """Write columns to a file; pandas reads the column `index` as the index."""
    import pyarrow as pa
    from pyarrow import parquet

    table = pa.table(dict(columns))
    if index is not None:
        columns_metadata = [_pandas_column(name, str(table.schema.field(name).type)) for name in table.column_names]
        metadata = {
            "index_columns": [index],
            "column_indexes": [],
            "columns": columns_metadata,
            "pandas_version": "2.0.0",
        }
        table = table.replace_schema_metadata({b"pandas": json.dumps(metadata).encode()})
    parquet.write_table(table, path)


def _pandas_column(name: str, kind: str) -> dict[str, str | None]:
    """The metadata of a column for pandas."""
    numpy_type = kind.replace("string", "object")
    return {"name": name, "field_name": name, "pandas_type": _PANDAS[kind], "numpy_type": numpy_type, "metadata": None}


def rewrite(path: Path, to: Path, column: str, values: Callable[[pa.Table], NDArray[np.float32]] | None) -> None:
    """Copy a file row group by row group with one float32 column set or removed; everything else is unchanged.

    Args:
        path, to: the file and its copy.
        column: name of the column.
        values: maps a row group to the column's values; None removes the column.
    """
    import pyarrow as pa
    from pyarrow import parquet

    with parquet.ParquetFile(path) as file:
        schema = file.schema_arrow
        if column in schema.names:
            schema = schema.remove(schema.get_field_index(column))
        if values is not None:
            schema = schema.append(pa.field(column, pa.float32()))
        schema = schema.with_metadata(_with_feature(schema.metadata, column, values is not None))
        with parquet.ParquetWriter(to, schema) as writer:
            for group in range(file.num_row_groups):
                table = file.read_row_group(group)
                columns = [table.column(name) for name in schema.names if name != column]
                if values is not None:
                    columns.append(pa.chunked_array([pa.array(values(table), pa.float32())]))
                writer.write_table(pa.table(columns, schema=schema), row_group_size=max(1, len(table)))


def _with_feature(metadata: dict[bytes, bytes] | None, column: str, present: bool) -> dict[bytes, bytes] | None:
    """Schema metadata with the column added to (or removed from) the features that `datasets` reads."""
    if not metadata or HUGGINGFACE not in metadata:
        return metadata
    content = json.loads(metadata[HUGGINGFACE])
    features = content.get("info", {}).get("features", {})
    features.pop(column, None)
    if present:
        features[column] = {"dtype": "float32", "_type": "Value"}
    return {**metadata, HUGGINGFACE: json.dumps(content).encode()}
