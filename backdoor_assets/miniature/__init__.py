"""A small base model that is pretrained on the spot: world, corpus, pretraining, probes, gates.

Raise a code version when the world or the training changes: it is part of the base's identity.
"""

CORPUS_CODE = "1"
PRETRAINING_CODE = "1"
