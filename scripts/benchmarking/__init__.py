"""What `pretexture benchmark` measures: one module for each contender, and the measuring itself.

`comparison.benchmark` does the whole; `jobs` lists the tasks and the contenders, `worker` measures
one job in a process of its own, `report` and `chart` show the results.
"""
