"""Command line of `scripts.tools.batch.run_batch`: ``python -m scripts.batch --help``."""

from .cli import command_line

if __name__ == "__main__":
    command_line("tools.batch.run_batch", "batch")
