# Shared by the scripts beside it: where things are, and how missing packages are installed.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
export TOUCHSTONE_BUILD="$PWD/build"
export TOUCHSTONE_REFERENCE="$TOUCHSTONE_BUILD/dsa-reference"
jobs=$(nproc)

say() { printf '\n\033[1m== %s\033[0m\n' "$*"; }

# Installs the Debian packages among "$@" that are missing; elsewhere, or without root, says what to install.
need_packages() {
    local missing=() package
    if ! command -v dpkg-query >/dev/null; then
        echo "This script installs packages on Debian and Ubuntu only. Install the equivalents of: $*" >&2
        return 0
    fi
    for package in "$@"; do
        [ "$(dpkg-query -W -f='${Status}' "$package" 2>/dev/null)" = "install ok installed" ] || missing+=("$package")
    done
    [ ${#missing[@]} -eq 0 ] && return 0
    local sudo=""
    if [ "$(id -u)" -ne 0 ]; then
        command -v sudo >/dev/null || { echo "Missing packages: ${missing[*]}. Run as root: apt-get install ${missing[*]}" >&2; exit 2; }
        sudo=sudo
    fi
    echo "installing ${missing[*]}"
    $sudo env DEBIAN_FRONTEND=noninteractive apt-get update -qq
    $sudo env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq "${missing[@]}" >/dev/null
}

build_packages=(g++ cmake ninja-build libeigen3-dev nlohmann-json3-dev libcli11-dev doctest-dev)
python_packages=(python3 python3-venv)

# The Python package, in the active virtual environment or in build/venv. Prints nothing when all is there.
need_python() {
    need_packages "${python_packages[@]}"
    if [ -n "${VIRTUAL_ENV:-}" ]; then
        python="$VIRTUAL_ENV/bin/python"
    else
        python="$TOUCHSTONE_BUILD/venv/bin/python"
        [ -x "$python" ] || /usr/bin/python3 -m venv "$TOUCHSTONE_BUILD/venv"
    fi
    local stamp="$TOUCHSTONE_BUILD/python-$1.stamp"
    if [ ! -e "$stamp" ] || [ pyproject.toml -nt "$stamp" ]; then
        SKBUILD_WHEEL_CMAKE=false "$python" -m pip install -q --disable-pip-version-check -e ".[$1]"
        touch "$stamp"
    fi
    touchstone() { "$python" -m touchstone.cli "$@"; }
}

# The CUDA tree's Python binding in the same environment, once more where its sources have changed.
need_binding() {
    need_packages "${build_packages[@]}" python3-dev
    local stamp="$TOUCHSTONE_BUILD/binding.stamp"
    if [ ! -e "$stamp" ] || [ -n "$(find optimized/python optimized/tool/fields.* optimized/serving/fields.inc optimized/serving/dsa_serving.h golden/dsa.h -newer "$stamp" -type f ! -name '*.py' ! -name '*.pyc' ! -name '*.so')" ]; then
        "$python" -m pip install -q --disable-pip-version-check -e ./optimized/python
        touch "$stamp"
    fi
}

# build_reference TARGETS... : configures once, then builds.
build_reference() {
    need_packages "${build_packages[@]}"
    cmake -G Ninja -S . -B "$TOUCHSTONE_BUILD" >"$TOUCHSTONE_BUILD.log" 2>&1 || { cat "$TOUCHSTONE_BUILD.log"; exit 1; }
    rm -f "$TOUCHSTONE_BUILD.log"
    cmake --build "$TOUCHSTONE_BUILD" --target "$@"
}

# The build of tools/sanitize.sh, whose program tests/reference/reproducible.sh asks too.
sanitize_build="$TOUCHSTONE_BUILD/sanitize"
configure_sanitize() {
    cmake -G Ninja -S . -B "$sanitize_build" -DTOUCHSTONE_SANITIZE=ON -DTOUCHSTONE_NATIVE=OFF -DCMAKE_BUILD_TYPE=None -DCMAKE_CXX_FLAGS=-Og >/dev/null
}
