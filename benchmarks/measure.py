"""What the benchmarks share: quartiles of figures measured side by side, and a row of the table."""
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Row:
    """One line of the table. The ratio is the claim; the absolute figures belong to this machine at this moment."""

    what: str
    ours: str
    against: str
    ratio: str
    goal: str
    met: bool


def spread(values: Sequence[float], form: Callable[[float], str]) -> str:
    """'median (lower quartile to upper quartile)'."""
    low, middle, high = statistics.quantiles(values, n=4, method="inclusive")
    return f"{form(middle)} ({form(low)} to {form(high)})"


def table(rows: Sequence[Row]) -> str:
    """The rows as Markdown."""
    lines = ["| measured | gpt_trader | against | ratio | goal | met |", "|---|---|---|---|---|---|"]
    lines += [f"| {r.what} | {r.ours} | {r.against} | {r.ratio} | {r.goal} | {'yes' if r.met else '**no**'} |" for r in rows]
    return "\n".join(lines)
