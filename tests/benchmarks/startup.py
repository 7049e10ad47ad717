"""Measures how long a user waits at the start: `python tests/benchmarks/startup.py [rounds]`.

Every line is measured in a fresh interpreter, seconds on the clock and of process CPU time, minimum and
median over all rounds; the imports in files are warm after the first round. It is not a part of pytest.
"""

import json
import statistics
import subprocess
import sys

STARTS = {
    "import fluxnb": "import fluxnb",
    "from fluxnb import FluxSession": "from fluxnb import FluxSession",
    "from fluxnb import FluxWidget": "from fluxnb import FluxWidget",
    "load the demo model": "import fluxnb; fluxnb.FluxSession.from_pretrained()",
}
PROGRAM = """
import json, time
clock, cpu = time.perf_counter(), time.process_time()
{code}
print(json.dumps([time.perf_counter() - clock, time.process_time() - cpu]))
"""


def measure(code: str) -> tuple[float, float]:
    """Runs the code in a fresh interpreter; returns seconds on the clock and of the CPU."""
    program = PROGRAM.format(code=code)
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    return tuple(json.loads(run.stdout))


def main(rounds: int) -> None:
    """Prints the table."""
    print(f"{'seconds':32s} {'clock min':>10s} {'median':>8s} {'CPU min':>10s} {'median':>8s}")
    for name, code in STARTS.items():
        clock, cpu = zip(*(measure(code) for _ in range(rounds)), strict=True)
        print(
            f"{name:32s} {min(clock):10.3f} {statistics.median(clock):8.3f} "
            f"{min(cpu):10.3f} {statistics.median(cpu):8.3f}"
        )


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 5)
