"""What scripts/benchmark.py measures, one module a contender, and how it measures and reports.

`jobs` says what there is to measure, `worker` measures one job in a process of its own, `report`
and `chart` show the results.
"""
