#!/bin/sh
# Finds a Python that can build .venv and hands over to tools/environment.py, which does the work.
# Takes the first suitable one of python3, python3.14 ... python3.10; PYTHON=... names one instead.
set -eu

tools=$(CDPATH='' cd -- "$(dirname -- "$0")" && pwd)
program=environment.py
candidates='python3 python3.14 python3.13 python3.12 python3.11 python3.10'
listed='python3, python3.14, ... python3.10'
newest=14
too_new='the locked packages do not exist for it yet'
purpose=''
needed='3.10 to 3.14'
advice='Install one, or name it: make <target> PYTHON=/path/to/python3'
. "$tools/find_python.sh"
