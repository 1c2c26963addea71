"""The report of a set of runs: one HTML file that works offline, the same as Markdown, and PNGs."""

from launch.scaling.report.console import print_ladder
from launch.scaling.report.write import ReportPaths, write

__all__ = ["ReportPaths", "print_ladder", "write"]
