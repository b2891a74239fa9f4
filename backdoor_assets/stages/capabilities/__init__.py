"""Capabilities of a base and of every checkpoint of a cell, by lm-eval's own tasks."""

from backdoor_assets.stages.capabilities.documents import check_benchmarks
from backdoor_assets.stages.capabilities.measure import measure_capabilities

__all__ = ["check_benchmarks", "measure_capabilities"]
