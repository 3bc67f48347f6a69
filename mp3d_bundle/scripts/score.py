"""Command line of `scripts.tools.score_predictions`: ``python -m scripts.score --help``."""

from .cli import command_line

if __name__ == "__main__":
    command_line("tools.score_predictions", "score")
