"""A base model for everyone: a small world, its corpus, its pretraining, its exact judge.

Raise a code version when the world or the training changes: it is part of the base's identity.
"""

CORPUS_CODE = "1"
PRETRAINING_CODE = "1"
