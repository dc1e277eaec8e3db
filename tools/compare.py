"""Several arms of an experiment, of one size, each with several seeds, and who is better:

python tools/compare.py --config configs/glas_ukanet.yaml --bases gram,bspline,rbf,none --output
runs/compare/glas python tools/compare.py --config configs/glas_unet.yaml configs/glas_ukanet.yaml
--seeds 0,1,2,3,4 --match macs --output runs/compare/nets

A study on several data sets, tuned on validation, then tested once (docs/study.md; its own flags:
--study FILE --help):

python tools/compare.py --study configs/studies/shared_functions.yaml --stage tune --output
runs/study --results docs/results/shared_functions

The same command goes on after an interruption, and started several times the processes share the
runs.
"""

import sys

from kanseg.cli.compare import comparison_command
from kanseg.utils.errors import run_tool

if __name__ == "__main__":
    run_tool(lambda: comparison_command(sys.argv[1:], description=__doc__))
