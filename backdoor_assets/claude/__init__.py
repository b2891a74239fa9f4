"""Claude as the judge: prompts, the store of paid verdicts, live and batch calls, the budget."""

PROMPT_VERSION = "1"
"""Part of the identity of a verdict. Raise it when the wording in `prompts` changes."""
