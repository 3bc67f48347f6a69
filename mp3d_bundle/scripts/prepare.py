"""Command line of `scripts.tools.prepare_store`: ``python -m scripts.prepare --help``."""

from .cli import command_line

if __name__ == "__main__":
    command_line("tools.prepare_store", "main")
