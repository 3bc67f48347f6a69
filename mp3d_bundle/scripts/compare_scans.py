"""Command line of `scripts.tools.comparing.compare_results`: ``python -m scripts.compare_scans --help``."""

from .cli import command_line

if __name__ == "__main__":
    command_line("tools.comparing.compare_results", "compare")
