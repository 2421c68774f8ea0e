"""Adds up what pytest did in all lanes: summary.py FOLDER_OF_JUNIT_FILES [FAILED_TARGET …].

A test that one lane skips and another one runs is not skipped. The tests that no lane could run are
listed with their reasons; the last line says how many there are. Exits with 1 if a test or a target
failed.
"""

import collections
import glob
import os
import sys
import xml.etree.ElementTree as ElementTree
from typing import Dict, Iterator, List, NamedTuple, Optional, Set


class Outcome(NamedTuple):
    """What became of one test in one lane.

    Attributes:
        module: where the test is.
        name: its name; None if the whole module was skipped or could not be imported.
        kind: passed, failed or skipped.
        reason: why it was skipped.
    """

    module: str
    name: Optional[str]
    kind: str
    reason: str


def _outcomes(path: str) -> Iterator[Outcome]:
    for case in ElementTree.parse(path).iter("testcase"):
        where, name = case.get("classname", ""), case.get("name", "")
        kind, reason = "passed", ""
        for child in case:
            if child.tag in ("failure", "error"):
                kind = "failed"
            elif child.tag == "skipped" and kind == "passed":
                kind, reason = "skipped", child.get("message", "")
        yield Outcome(where, name, kind, reason) if where else Outcome(name, None, kind, reason)


def main(folder: str, failed_targets: List[str]) -> int:
    """Prints the summary; returns the exit status."""
    lanes = sorted(glob.glob(os.path.join(folder, "*.xml")))
    totals: collections.Counter = collections.Counter()
    run: Dict[str, Set[Optional[str]]] = collections.defaultdict(set)
    skipped: Dict[tuple, str] = {}
    print()
    for path in lanes:
        outcomes = list(_outcomes(path))
        counts = collections.Counter(outcome.kind for outcome in outcomes)
        totals.update(counts)
        lane = os.path.splitext(os.path.basename(path))[0]
        print(f"{lane}: {counts['passed']:,} passed, {counts['failed']:,} failed")
        for outcome in outcomes:
            if outcome.kind == "skipped":
                skipped[outcome.module, outcome.name] = outcome.reason
            else:
                run[outcome.module].update((None, outcome.name))
                if outcome.kind == "failed":
                    print(f"  failed: {outcome.module} {outcome.name or ''}")
    nowhere = {test: why for test, why in skipped.items() if test[1] not in run[test[0]]}
    for (module, name), why in sorted(nowhere.items(), key=str):
        print(f"skipped in every lane: {module} {name or '(all of it)'}: {why}")
    for target in failed_targets:
        print(f"failed: make {target}")
    print(
        f"{totals['passed']:,} passed, {totals['failed']:,} failed, "
        f"{len(nowhere):,} skipped that no lane could run"
    )
    return 1 if failed_targets or totals["failed"] or not totals["passed"] else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], sys.argv[2:]))
