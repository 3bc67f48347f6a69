"""The paper's tables as data, and the program that runs their rows and sets ours beside the paper's."""
