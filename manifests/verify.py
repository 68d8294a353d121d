"""Verify: is every committed byte still there, and is every item accounted for?

Cheap: files exist with their sizes, parts have their rows, accounts add up from stage to stage. Deep: also
sha256 of each tar and part, crc32 of each member, and the tar's own structure against the index.
"""

from __future__ import annotations

import pyarrow as pa

from manifests import snapshots
from manifests.checking.accounts import check_accounts
from manifests.checking.columns import check_column
from manifests.checking.found import Report
from manifests.checking.whole import check_header, check_merged, check_plan, check_views, named_ones
from manifests.errors import RushesError
from manifests.layout import Dataset
from manifests.writing.unnamed import lost_snapshot, unnamed_tars


def verify(dataset: Dataset, deep: bool = False) -> Report:
    """Check every committed shard of every column, the plan, the views, and the accounts."""
    report = Report()
    dataset.refresh()
    for column in dataset.columns():
        for checked in check_column(dataset, column, deep, report):
            report.checked.append(checked)
            report.problems += checked.problems
    report.problems += [
        *check_merged(dataset, deep),
        *check_plan(dataset, deep),
        *check_header(dataset),
        *check_views(dataset),
    ]
    if not dataset.at:  # of a snapshot that is read by its name later files are no business
        report.problems += lost_snapshot(dataset)
        kept = [one for one in named_ones(dataset) if isinstance(one, snapshots.Snapshot)]
        sizes = unnamed_tars(dataset, {checked.tar for checked in report.checked}, kept)
        report.num_unnamed, report.unnamed_bytes = len(sizes), sum(sizes)
    if report.is_sound:
        try:
            report.problems += check_accounts(dataset)
        except (pa.ArrowException, OSError, RushesError) as error:
            report.problems.append(f"{dataset.uri}: a table of the plan cannot be read ({error})")
    return report
