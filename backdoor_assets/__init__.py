"""Studies of how language models learn backdoors, and whether those can be removed, as one Dagster
asset graph. `docs/graph.md` follows one result through the files.

`profiles` holds every number of a run and `studies` what is asked; `mixtures` is what studies of
data ratios have in common. `graph` makes assets of them, `stages` are the science (which knows no
Dagster), `workers` spread it over processes and hosts, `storage` says where results lie and when
they are whole, `miniature` makes a base model where there is none to download.
"""
