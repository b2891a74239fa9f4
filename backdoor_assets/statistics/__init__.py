"""Estimates and their uncertainty, in one vocabulary for all studies."""
