"""Writing: the parts of a corpus, put together in id order from texts put aside."""

from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from components.corpus.records import integers, runs

ROW_GROUP_BYTES = 2_000_000
"""Text in one row group, the piece that a reader takes at a time."""


def write_plan(records: Any, target: Path) -> None:
    """Which documents a part consists of, for `write_part` to read."""
    import pyarrow as pa

    plan = records.select(["id", "group", "source", "bytes", "file", "offset"])
    with pa.OSFile(str(target), "wb") as out, pa.ipc.new_file(out, plan.schema) as writer:
        writer.write_table(plan)


def write_part(part: dict[str, Any]) -> str:
    """Put one Parquet file together as its plan says."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    directory = Path(part["directory"])
    target = directory / part["file"]
    partial = target.with_suffix(".partial")  # a task that is run again starts over
    with pa.memory_map(part["plan"]) as source:
        plan = pa.ipc.open_file(source).read_all()
    names = pa.schema([(name, pa.string()) for name in ("id", "group", "text", "source")])
    with pq.ParquetWriter(partial, names, compression="zstd") as writer:
        for rows in runs(integers(plan, "bytes"), ROW_GROUP_BYTES):
            some = plan.slice(rows.start, rows.stop - rows.start)
            columns = [some.column(name).cast(pa.string()) for name in ("id", "group")]
            columns.append(pa.array(_texts(Path(part["aside"]), some), pa.string()))
            columns.append(pa.array([part["sources"][source] for source in integers(some, "source")], pa.string()))
            writer.write_table(pa.table(columns, schema=names), row_group_size=len(some))
    partial.replace(target)
    return str(part["file"])


def _texts(aside: Path, plan: Any) -> list[str]:
    """The texts of some documents, each file of texts opened once."""
    files, offsets, sizes = (integers(plan, name) for name in ("file", "offset", "bytes"))
    texts = [""] * len(plan)
    order: npt.NDArray[Any] = np.lexsort((offsets, files))
    for start, stop in _stretches(files[order]):
        with (aside / f"{files[order[start]]:06d}.text").open("rb") as file:
            for row in order[start:stop]:
                file.seek(int(offsets[row]))
                texts[row] = file.read(int(sizes[row])).decode("utf-8")
    return texts


def _stretches(values: npt.NDArray[Any]) -> list[tuple[int, int]]:
    """(start, stop) of the runs of equal values."""
    edges = [0, *(np.flatnonzero(values[1:] != values[:-1]) + 1).tolist(), len(values)]
    return list(pairwise(edges))
