# Copyright 2026 verl-redit contributors
#
# Licensed under the Apache License, Version 2.0 (the "License");
# you may not use this file except in compliance with the License.
# You may obtain a copy of the License at
#
#     http://www.apache.org/licenses/LICENSE-2.0
#
# Unless required by applicable law or agreed to in writing, software
# distributed under the License is distributed on an "AS IS" BASIS,
# WITHOUT WARRANTIES OR CONDITIONS OF ANY KIND, either express or implied.
# See the License for the specific language governing permissions and
# limitations under the License.

"""The data files that a run reads, and what is in them before it starts.

Only parquet files are looked into; other formats are checked row by row as they are read.
"""

from collections.abc import Callable
from glob import glob
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from omegaconf import DictConfig, OmegaConf


def reads_files(config: DictConfig) -> bool:
    """Whether the data set reads ``data.train_files`` and ``data.val_files`` as verl's does; a user's may not."""
    return OmegaConf.select(config, "data.custom_cls.path") in (None, "pkg://verl_redit.paft.dataset")


def validates(config: DictConfig) -> bool:
    """Whether the run ever validates; verl wants ``data.val_files`` in any case."""
    trainer = config.trainer
    return bool(trainer.get("val_before_train", True) or trainer.get("val_only", False) or trainer.test_freq > 0)


def listed(files: Any) -> list[str]:
    """The files of a data setting, which may be null, one path or a list of paths."""
    if files is None:
        return []
    return [files] if isinstance(files, str) else list(files)


def found(file: str) -> list[Path]:
    """What a path of a data setting stands for here: it may be a pattern (``train-*.parquet``)."""
    path = Path(file).expanduser()
    return [path] if path.is_file() else sorted(map(Path, glob(str(path), recursive=True)))


def parquet(files: Any) -> list[Path]:
    """Those files of a data setting that are parquet and there; a missing file is told by `verl_redit.preflight`."""
    return [path for file in listed(files) for path in found(file) if path.suffix == ".parquet"]


def row_count(file: Path) -> int:
    """Rows of a parquet file."""
    return pq.read_metadata(file).num_rows


def struct_fields(file: Path, column: str) -> dict[str, pa.DataType]:
    """Field -> type of a struct column; empty if there is no such column."""
    schema = pq.read_schema(file)
    struct = schema.field(column).type if column in schema.names else pa.struct([])
    return {field.name: field.type for field in struct} if pa.types.is_struct(struct) else {}


def first_row(file: Path, column: str, field: str, test: Callable[[pa.Array], pa.Array]) -> int:
    """Number of the first row with a field of a struct column for which the test is true; -1 if there is none."""
    before = 0
    for batch in pq.ParquetFile(file).iter_batches(columns=[f"{column}.{field}"]):
        row = pc.index(test(pc.struct_field(batch.column(0), field)), True).as_py()
        if row >= 0:
            return before + row
        before += len(batch)
    return -1


def values(file: Path, name: str) -> list[Any]:
    """One column, or one field of a struct column (``extra_info.split``); None in each row where there is none."""
    table = pq.ParquetFile(file)
    if name not in {table.schema.column(number).path for number in range(len(table.schema))}:
        return [None] * table.metadata.num_rows
    column, _, field = name.partition(".")
    rows = table.read(columns=[name]).column(column).to_pylist()
    return [row and row[field] for row in rows] if field else rows
