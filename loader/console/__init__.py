"""Text, files, signals and progress for people; the standard library only."""
