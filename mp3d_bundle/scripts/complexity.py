"""Command line of `scripts.tools.count_operations`: ``python -m scripts.complexity --help``."""

from .cli import command_line

if __name__ == "__main__":
    command_line("tools.count_operations", "main")
