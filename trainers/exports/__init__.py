"""Trained networks for use elsewhere: SavedModels and frozen graphs."""
