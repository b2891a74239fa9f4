"""Sample answers from the base and from every checkpoint of a cell, with either of two engines:
`generate` (transformers, one cell at a time) and `row` (vLLM, all cells of a run together)."""

from backdoor_assets.stages.sampling.generate import sample_cell

__all__ = ["sample_cell"]
