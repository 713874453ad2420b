"""Series over time: their slope, and how they look, as text."""

import statistics

# Theil-Sen looks at each pair; a longer series is thinned to so many points.
POINTS_MAX = 400
# Dots of a braille character, by row and column of its four by two.
DOTS = ((0x01, 0x08), (0x02, 0x10), (0x04, 0x20), (0x40, 0x80))


def thin(points, most):
    """The medians of equal parts of a series of (time, value)."""
    if len(points) <= most:
        return points
    edges = [i * len(points) // most for i in range(most + 1)]
    parts = (points[a:b] for a, b in zip(edges, edges[1:]))
    return [(statistics.median(t for t, _ in part), statistics.median(v for _, v in part))
            for part in parts]


def slope(points):
    """Theil-Sen: the median of the slopes between all pairs, in units per second."""
    points = thin(points, POINTS_MAX)
    slopes = [(v2 - v1) / (t2 - t1)
              for i, (t1, v1) in enumerate(points) for t2, v2 in points[i + 1:] if t2 > t1]
    return statistics.median(slopes) if slopes else 0.0


def growth(points):
    """What the slope makes over the whole series."""
    return slope(points) * (points[-1][0] - points[0][0]) if len(points) > 1 else 0.0


def draw(points, width, height, low, high):
    """Lines of braille, `width` characters wide; the values between `low` and `high`. Each column
    of dots is filled from the smallest to the largest value of its time, those between two
    samples by a straight line."""
    cells = [[0] * width for _ in range(height)]
    columns, rows = 2 * width, 4 * height
    begin, end = points[0][0], points[-1][0]
    spans = {}
    before = None
    for time, value in points:
        x = min(columns - 1, int((time - begin) / max(end - begin, 1e-9) * columns))
        y = (value - low) / max(high - low, 1e-9) * (rows - 1)
        for between in range(before[0] + 1 if before else x, x):
            share = (between - before[0]) / (x - before[0])
            at = before[1] + share * (y - before[1])
            spans[between] = (at, at)
        lowest, highest = spans.get(x, (y, y))
        spans[x] = (min(lowest, y), max(highest, y))
        before = (x, y)
    for x, (lowest, highest) in spans.items():
        for y in range(round(lowest), round(highest) + 1):
            down = rows - 1 - y
            cells[down // 4][x // 2] |= DOTS[down % 4][x % 2]
    return ["".join(chr(0x2800 + cell) for cell in row) for row in cells]


def chart(title, series, show, width, height=4):
    """One chart, or two beside each other with one scale: `series` are lists of points, `show`
    makes a text of a value."""
    values = [value for points in series for _, value in points]
    low, high = min(values), max(values)
    if high - low < 0.05 * abs(high):
        # Nearly flat: shown as such, and not as noise magnified.
        middle, room = (low + high) / 2, max(0.05 * abs(high), 1e-9)
        low, high = max(0.0, middle - room), middle + room
    each = (width - 12 - 3 * (len(series) - 1)) // len(series)
    drawn = [draw(points, each, height, low, high) for points in series]
    labels = [show(high), *[""] * (height - 2), show(low)]
    lines = [title]
    for label, *rows in zip(labels, *drawn):
        lines.append(f"{label:>10} |" + " | ".join(rows))
    return lines
