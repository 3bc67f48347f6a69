#!/bin/sh
# Finds a Python that MONAI Label 0.8.5 runs on and hands over to tools/label_environment.py, which does the work.
# Takes the first suitable one of python3.11, python3.10 and python3; PYTHON=... names one instead.
set -eu

tools=$(CDPATH='' cd -- "$(dirname -- "$0")" && pwd)

# Runs on any Python, 2.7 included: prints "ok" or what is wrong with this one.
probe='
import sys
name = "%d.%d.%d" % tuple(sys.version_info[:3])
if sys.version_info[:2] < (3, 10):
    print("is Python %s, older than 3.10" % name)
elif sys.version_info[:2] > (3, 11):
    print("is Python %s, newer than 3.11: MONAI Label 0.8.5 needs distutils, which went with Python 3.12" % name)
else:
    try:
        import ensurepip, venv
        print("ok")
    except ImportError:
        print("is Python %s without its venv module (on Debian and Ubuntu: apt install python%d.%d-venv)"
              % ((name,) + tuple(sys.version_info[:2])))
'

found=''
for candidate in ${PYTHON:-python3.11 python3.10 python3}; do
    command -v "$candidate" >/dev/null 2>&1 || continue
    # A stub that only offers to install Python, or a version manager's empty shim, fails here.
    verdict=$("$candidate" -c "$probe" 2>/dev/null </dev/null) || verdict='does not run'
    if [ "$verdict" = ok ]; then
        MP3D_PYTHON_NAMED=${PYTHON:+yes}
        export MP3D_PYTHON_NAMED
        exec "$candidate" -I "$tools/label_environment.py" "$@"
    fi
    found="$found
  $candidate $verdict"
done

{
    echo "Set-up stopped: no suitable Python for MONAI Label. It needs Python 3.10 or 3.11 with the venv module."
    if [ -n "$found" ]; then
        echo "Found:$found"
    else
        echo "Found: none (looked for ${PYTHON:-python3.11, python3.10, python3})."
    fi
    echo "Install one, or name it: make label-setup LABEL_PYTHON=/path/to/python3.11"
    echo "The rest of the project does not need it; its own environment stays as it is."
} >&2
exit 1
