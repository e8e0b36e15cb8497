"""The operator: turns a `RaftCluster` into members that elect, grow, shrink and heal without ever harming quorum.

One pass over one cluster is  observe -> diagnose -> ensure children -> plan -> act -> status  (`reconcile.py`).
`diagnose`, `plan`, `rules/`, `resources/` and `status` are pure functions over frozen values.
"""
