"""``make bench`` or ``make bench BENCH=<name>``: measures and reports; it never judges the build."""

import sys
from collections.abc import Callable, Sequence

from loadtests import startup
from loadtests.report import Outcome, publish
from loadtests.speculation import bench as speculation

BENCHES: dict[str, Callable[[], Outcome]] = {
    "startup": startup.measure,
    "speculation": speculation.measure,
    "controller": speculation.controller,
}


def main(names: Sequence[str]) -> int:
    unknown = set(names) - set(BENCHES)
    if unknown:
        print(f"no benchmark {', '.join(sorted(unknown))}; there are: {', '.join(BENCHES)}", file=sys.stderr)
        return 2
    for name in names or BENCHES:
        print(publish(name, BENCHES[name]()))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
