"""`python -m loadtest.locustfiles.beside_azure FOLDER`: the runs of a folder as a table beside Azure's
figures."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from loadtest.locustfiles.pages import markdown
from loadtest.locustfiles.scenarios import SCENARIOS


def main() -> None:
    if len(sys.argv) != 2:
        raise SystemExit(__doc__)
    found = [path for name in SCENARIOS if (path := Path(sys.argv[1]) / f"{name}.json").exists()]
    results = [json.loads(path.read_text()) for path in found]
    sys.stdout.write(markdown(results))
    for result in results:
        sys.stdout.write(f"\n{result['scenario']}: {result['verdict']}\n")


if __name__ == "__main__":
    main()
