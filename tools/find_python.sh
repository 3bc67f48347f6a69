# Sourced by setup.sh and label_setup.sh: finds a Python and hands the command line over to a program of this folder.
# They set:
#   program     what to run
#   candidates  Pythons to try, in order, and `listed`, how a message lists them
#   newest      the newest suitable minor version of Python 3, and `too_new`, what is wrong with a newer one
#   purpose     what a message says the Python is for ("" or " for ..."), and `needed`, which ones suit
#   advice      the last lines of the message, when there is none
# PYTHON=... names a Python instead.

# Runs on any Python, 2.7 included: prints "ok" or what is wrong with this one.
probe="newest, too_new = $newest, '$too_new'"'
import sys
name = "%d.%d.%d" % tuple(sys.version_info[:3])
if sys.version_info[:2] < (3, 10):
    print("is Python %s, older than 3.10" % name)
elif sys.version_info[:2] > (3, newest):
    print("is Python %s, newer than 3.%d: %s" % (name, newest, too_new))
else:
    try:
        import ensurepip, venv
        print("ok")
    except ImportError:
        print("is Python %s without its venv module (on Debian and Ubuntu: apt install python%d.%d-venv)"
              % ((name,) + tuple(sys.version_info[:2])))
'

found=''
for candidate in ${PYTHON:-$candidates}; do
    command -v "$candidate" >/dev/null 2>&1 || continue
    # A stub that only offers to install Python, or a version manager's empty shim, fails here.
    verdict=$("$candidate" -c "$probe" 2>/dev/null </dev/null) || verdict='does not run'
    if [ "$verdict" = ok ]; then
        MP3D_PYTHON_NAMED=${PYTHON:+yes}
        export MP3D_PYTHON_NAMED
        exec "$candidate" -I "$tools/$program" "$@"
    fi
    found="$found
  $candidate $verdict"
done

{
    echo "Set-up stopped: no suitable Python$purpose. It needs Python $needed with the venv module."
    if [ -n "$found" ]; then
        echo "Found:$found"
    else
        echo "Found: none (looked for ${PYTHON:-$listed})."
    fi
    echo "$advice"
} >&2
exit 1
