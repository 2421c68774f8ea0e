"""The pipeline language: steps are parsed, checked and turned into operations."""
