"""The commands: `pretexture COMMAND`, or `python scripts/COMMAND.py` in a checkout."""
