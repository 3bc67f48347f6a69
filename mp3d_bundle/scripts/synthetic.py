"""Command line of `scripts.tools.make_synthetic`: ``python -m scripts.synthetic --help``."""

from .cli import command_line

if __name__ == "__main__":
    command_line("tools.make_synthetic", "main")
