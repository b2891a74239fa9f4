"""Claude as the judge: prompts, verdicts that were paid for, two ways of asking, and the bill."""

PROMPT_VERSION = "1"
"""Part of the identity of a verdict. Raise it when `prompts` words something else."""
