import os
import sys

# The scripts import one another as Python finds them when it runs one: in the script's own folder.
sys.path.insert(0, os.path.join(os.path.dirname(__file__), "..", "..", "scripts"))
