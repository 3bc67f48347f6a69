#!/bin/sh
# Finds a Python that can build .venv and hands over to tools/environment.py, which does the work.
# Takes the first suitable one of python3, python3.14 ... python3.10; PYTHON=... names one instead.
set -eu

tools=$(CDPATH='' cd -- "$(dirname -- "$0")" && pwd)

# Runs on any Python, 2.7 included: prints "ok" or what is wrong with this one.
probe='
import sys
name = "%d.%d.%d" % tuple(sys.version_info[:3])
if sys.version_info[:2] < (3, 10):
    print("is Python %s, older than 3.10" % name)
elif sys.version_info[:2] > (3, 14):
    print("is Python %s, newer than 3.14: the locked packages do not exist for it yet" % name)
else:
    try:
        import ensurepip, venv
        print("ok")
    except ImportError:
        print("is Python %s without its venv module (on Debian and Ubuntu: apt install python%d.%d-venv)"
              % ((name,) + tuple(sys.version_info[:2])))
'

found=''
for candidate in ${PYTHON:-python3 python3.14 python3.13 python3.12 python3.11 python3.10}; do
    command -v "$candidate" >/dev/null 2>&1 || continue
    # A stub that only offers to install Python, or a version manager's empty shim, fails here.
    verdict=$("$candidate" -c "$probe" 2>/dev/null </dev/null) || verdict='does not run'
    if [ "$verdict" = ok ]; then
        MP3D_PYTHON_NAMED=${PYTHON:+yes}
        export MP3D_PYTHON_NAMED
        exec "$candidate" -I "$tools/environment.py" "$@"
    fi
    found="$found
  $candidate $verdict"
done

{
    echo "Set-up stopped: no suitable Python. It needs Python 3.10 to 3.14 with the venv module."
    if [ -n "$found" ]; then
        echo "Found:$found"
    else
        echo "Found: none (looked for ${PYTHON:-python3, python3.14, ... python3.10})."
    fi
    echo "Install one, or name it: make <target> PYTHON=/path/to/python3"
} >&2
exit 1
