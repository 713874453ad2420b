"""What the samples say: curves, first and last tenth, growth, and what must hold."""

import statistics
from dataclasses import dataclass

from curves import chart, growth

MIB = 1 << 20
# Shown as curves, where there are samples of them.
CURVES = [("rss", "RSS, MiB"), ("rss_anon", "RSS anonymous, MiB"), ("rss_file", "RSS file, MiB"),
          ("vsz", "VSZ, MiB"),
          ("cgroup_usage", "cgroup usage (page cache included), MiB"),
          ("cgroup_docker", "what docker stats shows (usage - inactive_file), MiB"),
          ("cgroup_kernel", "cgroup kernel, MiB"),
          ("threads", "threads"), ("fds", "file descriptors"), ("cpu", "CPU, % of a core")]
ROWS = ["rss", "rss_anon", "rss_file", "rss_peak", "vsz", "cgroup_usage", "cgroup_docker",
        "cgroup_docker_old", "cgroup_inactive_file", "cgroup_active_file", "cgroup_dirty",
        "cgroup_anon", "cgroup_kernel", "threads", "fds", "cpu", "mib_per_s"]
PLAIN = {"threads", "fds", "cpu", "mib_per_s"}
# The first segments, TLS and the pool have been touched by then.
WARM_UP_S, WARM_UP_SHARE = 120, 1 / 3
# In less time what is still warming up can't be told from what grows.
JUDGED_FROM_S = 300
RSS_GROWTH_MAX = 1 * MIB
USAGE_GROWTH_MAX = 4 * MIB
# More than this of the limit, and it is the limit alone that keeps the usage flat.
USAGE_SHARE_MAX = 0.9
THREADS_GROWTH_MAX, FDS_GROWTH_MAX = 1, 4
# What was sent and not recorded, at each end of a connection: less than a second's messages.
MISSING_S = 1


@dataclass
class Check:
    """One thing that must hold; `passed` is None where the run was too short to tell."""

    passed: bool | None
    text: str

    def line(self):
        """For people."""
        word = {True: "ok      ", False: "FAILED  ", None: "untold  "}[self.passed]
        return word + self.text


class Samples:
    """The rows of one program, in order of time."""

    def __init__(self, name):
        self.name = name
        self.rows = []

    def add(self, second, figures, tape_bytes):
        """One more; CPU and throughput are those since the one before."""
        row = {"s": second, **figures, "tape_bytes": tape_bytes}
        before = self.rows[-1] if self.rows else None
        span = second - before["s"] if before else 0
        row["cpu"] = (row["cpu_s"] - before["cpu_s"]) / span * 100 if span else 0.0
        row["mib_per_s"] = (tape_bytes - before["tape_bytes"]) / span / MIB if span else 0.0
        self.rows.append(row)
        return row

    def points(self, figure, from_s=0.0):
        """Time and value; without the first row, before which nothing was measured."""
        scale = 1 if figure in PLAIN else MIB
        return [(row["s"], row[figure] / scale) for row in self.rows[1:]
                if figure in row and row["s"] >= from_s]

    def tenths(self, figure):
        """Medians of the first and the last tenth, and the largest."""
        values = [value for _, value in self.points(figure)]
        part = max(1, len(values) // 10)
        return (statistics.median(values[:part]), statistics.median(values[-part:]), max(values))

    def warm_up_s(self):
        """From here on nothing should grow any more."""
        return min(WARM_UP_S, self.rows[-1]["s"] * WARM_UP_SHARE)

    def growth(self, figure):
        """Over the run after the warm-up, by Theil-Sen; as `points` has it."""
        return growth(self.points(figure, self.warm_up_s()))


def curves(programs, width=98):
    """All charts."""
    lines = []
    names = " | ".join(program.name for program in programs)
    for figure, title in CURVES:
        series = [program.points(figure) for program in programs]
        if all(len(points) > 1 for points in series):
            title += f"   [{names}]" if len(programs) > 1 else ""
            lines += [*chart(title, series, lambda value: f"{value:.1f}", width), ""]
    return lines


def table(programs):
    """First and last tenth, largest, growth of each figure and program."""
    lines = []
    for program in programs:
        lines.append(f"{program.name:22} {'first 10 %':>11} {'last 10 %':>11} {'largest':>11} "
                     f"{'growth after ' + format(program.warm_up_s(), '.0f') + ' s':>20}")
        for figure in ROWS:
            if not program.points(figure):
                continue
            first, last, largest = program.tenths(figure)
            unit = "" if figure in PLAIN else " MiB"
            lines.append(f"  {figure:20} {first:11.2f} {last:11.2f} {largest:11.2f} "
                         f"{program.growth(figure):+16.2f}{unit}")
        lines.append("")
    return lines


def judge_growth(ours, limit, group):
    """That nothing grows."""
    judged_s = ours.rows[-1]["s"] - ours.warm_up_s()
    long_enough = judged_s >= JUDGED_FROM_S
    over = f"over {judged_s / 60:.0f} min after the warm-up"
    if not long_enough:
        over += f", too short: {JUDGED_FROM_S // 60} min are needed"

    def check(figure, most, unit, scale=MIB):
        grown = ours.growth(figure)
        passed = grown <= most / scale if long_enough else None
        return Check(passed, f"{figure} grew by {grown:+.2f}{unit} {over} (at most "
                             f"{most / scale:g}{unit})")

    checks = [check("rss", RSS_GROWTH_MAX, " MiB")]
    if group:
        checks.append(check("cgroup_usage", USAGE_GROWTH_MAX, " MiB"))
        usage = statistics.median(v for _, v in ours.points("cgroup_usage", ours.warm_up_s()))
        share = usage * MIB / limit
        checks.append(Check(share <= USAGE_SHARE_MAX,
                            f"cgroup usage is {usage:.1f} MiB, {share:.0%} of the limit (beyond "
                            f"{USAGE_SHARE_MAX:.0%} it is the limit that keeps it flat); limit "
                            f"hit {group.limit_hits()} times"))
        kills = group.oom_kills()
        checks.append(Check(kills == 0, f"{kills} OOM kills"))
    checks.append(check("threads", THREADS_GROWTH_MAX, "", 1))
    checks.append(check("fds", FDS_GROWTH_MAX, "", 1))
    return checks


def judge_loss(args, counts, kept, verified, code):
    """That nothing is lost that the tapes don't tell."""
    allowed = counts.connections * args.rate * MISSING_S
    return [
        Check(code == 0, "the recorder did not end within its time: killed" if code is None
              else f"the recorder's exit code is {code}"),
        Check(counts.recorded > 0 and counts.dropped == 0,
              f"{counts.recorded} messages recorded, {counts.dropped} dropped"),
        Check(0 <= counts.missing <= allowed and not counts.more_than_sent,
              f"{counts.missing} of {counts.sent} messages that were given to sockets are not on "
              f"the tapes (at most {allowed:.0f}: a second's at each end of {counts.connections} "
              "connections)"),
        Check(kept.messages > 0 and not kept.wrong,
              f"{kept.messages} messages on the tapes that are left: {kept.holes} holes of "
              f"{kept.holes_messages} messages between two connections, {len(kept.wrong)} "
              f"elsewhere{indented(kept.wrong[:10])}"),
        Check(verified.returncode == 0, f"verify: exit {verified.returncode}"
              + indented(verified.stdout.splitlines()[-10:] if verified.returncode else ())),
    ]


def indented(lines):
    """Below what they belong to."""
    return "".join(f"\n          {line}" for line in lines)
