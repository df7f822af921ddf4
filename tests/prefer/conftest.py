"""Makes the stand-ins importable whatever the import mode."""

import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).parents[1] / "evolve"))
