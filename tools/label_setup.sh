#!/bin/sh
# Finds a Python that MONAI Label 0.8.5 runs on and hands over to tools/label_environment.py, which does the work.
# Takes the first suitable one of python3.11, python3.10 and python3; PYTHON=... names one instead.
set -eu

tools=$(CDPATH='' cd -- "$(dirname -- "$0")" && pwd)
program=label_environment.py
candidates='python3.11 python3.10 python3'
listed='python3.11, python3.10, python3'
newest=11
too_new='MONAI Label 0.8.5 needs distutils, which went with Python 3.12'
purpose=' for MONAI Label'
needed='3.10 or 3.11'
advice='Install one, or name it: make label-setup LABEL_PYTHON=/path/to/python3.11
The rest of the project does not need it; its own environment stays as it is.'
. "$tools/find_python.sh"
