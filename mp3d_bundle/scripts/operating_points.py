"""Command line of `scripts.tools.set_operating_points`: ``python -m scripts.operating_points --help``."""

from .cli import command_line

if __name__ == "__main__":
    command_line("tools.set_operating_points", "operating_points")
