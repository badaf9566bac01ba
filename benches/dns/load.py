"""dnsperf, and what it says."""
import os, re, subprocess, sys

NAMES = 1000
IN_FLIGHT = 100


def questions(folder, names, file="names"):
    path = os.path.join(folder, file)
    with open(path, "w") as out:
        out.writelines(f"{it} A\n" for it in names)
    return path


class Result:
    """Of one run: queries answered, seconds, and the latencies, if they were asked for."""

    def __init__(self, said, errors=""):
        number = lambda what: float(found[1]) if (found := re.search(rf"{what}:\s+([\d.]+)", said)) else 0.0
        self.answered, self.seconds = number("Queries completed"), number(r"Run time \(s\)")
        self.sent, self.lost = number("Queries sent"), number("Queries lost")
        found = re.search(r"NOERROR (\d+)", said)
        self.good = int(found[1]) if found else 0
        self.latencies = [float(it) for it in re.findall(r"^> NOERROR \S+ \S+ ([\d.]+)$", said, re.M)]
        if not self.answered:
            sys.exit(f"dnsperf had no answer: {said[-2000:]}{errors[-1000:]}")

    @property
    def rate(self):
        return self.answered / self.seconds


def words(server, file, seconds, *more):
    return ["dnsperf", "-s", server, "-d", file, "-l", str(seconds), "-T", "1", "-c", "1", "-q", str(IN_FLIGHT), *more]


def dnsperf(place, server, file, seconds, *more, strict=True):
    done = subprocess.run(place.words(*words(server, file, seconds, *more)), capture_output=True, text=True)
    result = Result(done.stdout, done.stderr)
    if strict and result.good < 0.999 * result.answered:
        sys.exit(f"{server}: wrong answers: {done.stdout[-800:]}")
    return result
