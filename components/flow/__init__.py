"""A small DAG engine over Ray: typed nodes, two keys, a store that commits, a plan, a run. Knows no language models.

A recipe binds stages into nodes (`node`), each node has an identity (`identity`), results live in the `store`,
`plan` says what must run and why, `run` runs it, `tracking` forwards what it logs to MLflow.
"""
