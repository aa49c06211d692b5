"""Schemathesis on the OpenAPI document of a running server, all checks, until a number of cases is reached.

python benchmarks/schema.py --cases 2000
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
from pathlib import Path

from server import running_server

CONFIG = Path(__file__).with_name("schemathesis.toml")
PHASES = "examples,coverage,fuzzing,stateful"


def main() -> None:
    """Show what schemathesis says; exit with 1 where a check fails or the cases are too few."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--cases", type=int, default=2000, help="at least so many")
    parser.add_argument("--examples", type=int, default=150, help="of each operation")
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    with running_server() as (url, _):
        command = [
            sys.executable, "-m", "schemathesis.cli", "--config-file", str(CONFIG), "run", f"{url}/openapi.json",
            "--checks", "all", "--phases", PHASES, "--max-examples", str(arguments.examples),
            "--request-timeout", "60", "--continue-on-failure", "--seed", str(arguments.seed),
        ]  # fmt: skip
        ended = subprocess.run(command, stdout=subprocess.PIPE, text=True)
    print(ended.stdout)
    generated = re.search(r"(\d[\d,]*) generated", ended.stdout)
    count = int(generated.group(1).replace(",", "")) if generated else 0
    print(f"{count} cases, at least {arguments.cases} are wanted")
    sys.exit(1 if ended.returncode or count < arguments.cases else 0)


if __name__ == "__main__":
    main()
