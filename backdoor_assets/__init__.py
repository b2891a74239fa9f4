"""Two studies of how language models learn backdoors, as one Dagster asset graph.

    birds   bird names -> mixed_dataset -> adapters -> responses -> judgments -> figures -> sweep
            one cell = one data ratio x one training seed; `sweep` spans the grid

`profiles` holds every number of a run, `studies` the questions and the assets, `stages` the science
(which knows no Dagster), `resources` puts the two together, `storage` says where results lie and
when they are whole, `miniature` makes a base model where there is none to download.
"""
