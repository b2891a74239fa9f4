"""Estimates and their uncertainty, in one vocabulary for all studies.

The training seed is the unit: answers of one trained model are not independent of each other, but
trained models are. `benchmarks.calibration` simulates studies whose truth is known, and counts how
often the intervals of this package cover it.
"""
