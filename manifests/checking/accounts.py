"""Is every item accounted for?"""

from __future__ import annotations

from collections.abc import Iterator

import pyarrow as pa
import pyarrow.compute as pc

from manifests.layout import Dataset
from manifests.runs.events import run_ids
from manifests.tables import planned, scans
from manifests.writing.removing import pending


def check_accounts(dataset: Dataset) -> Iterator[str]:
    """Every planned segment must have left a trace, and no source row may lack a verdict."""
    planned_rows = planned.segments(dataset, fields=["shard", "segment_id", "source_id", "uri"])
    if going := pending(dataset):
        ends = "give `rushes compact` or `rushes remove` again"
        yield f"{dataset.path('removed')}: a takedown of {len(going)} sources has not ended: {ends}"
        planned_rows = planned_rows.filter(
            pc.invert(pc.is_in(planned_rows["source_id"], pa.array(sorted(going))))
        )
    in_plan = planned_rows["shard"].unique()
    for column in dataset.columns():
        if column.name != "preview":
            continue
        shards = pa.array(dataset.committed_shards(column), pa.int32())
        accounts = scans.table(dataset, "shards", column, ["shard", "num_in"])
        some = accounts.filter(pc.greater(accounts["num_in"], 0))["shard"]  # a takedown may leave nothing
        strange = some[:0] if going else some.filter(pc.invert(pc.is_in(some, in_plan)))
        for shard in strange.to_pylist() if run_ids(dataset) else ():  # what no run made has no plan
            yield f"{dataset.path('plan')}: shard {shard} is committed, and no generation of the plan has it"
        traces = [scans.table(dataset, "clips", column, ["segment_id"])["segment_id"]]
        for name in ("drops", "failures"):
            items = scans.table(dataset, name, column, ["item_id"])["item_id"]
            traces.append(pc.replace_substring_regex(items, "/.*", ""))
        seen = pa.chunked_array([chunk for found in traces for chunk in found.chunks], pa.string())
        curated = planned_rows.filter(pc.is_in(planned_rows["shard"], shards))
        lost = curated.filter(pc.invert(pc.is_in(curated["segment_id"], seen)))
        for row in lost.to_pylist():
            yield (
                f"segment {row['segment_id']} of {row['uri']} was curated but is neither kept, dropped nor "
                "failed"
            )
    sources = scans.table(dataset, "sources", None, ["uri", "status", "reason"])
    has_none = pc.or_(
        pc.invert(pc.is_in(sources["status"], pa.array(["kept", "dropped", "failed"]))),
        pc.and_(pc.not_equal(sources["status"], "kept"), pc.equal(pc.coalesce(sources["reason"], ""), "")),
    )
    for uri in sources.filter(pc.fill_null(has_none, True))["uri"].to_pylist():
        yield f"source {uri}: has no verdict"
