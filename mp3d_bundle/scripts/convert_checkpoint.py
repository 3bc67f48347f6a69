"""Command line of `scripts.tools.convert_weights`: ``python -m scripts.convert_checkpoint --help``."""

from .cli import command_line

if __name__ == "__main__":
    command_line("tools.convert_weights", "convert")
