#!/usr/bin/env bash
# Build the environment in which Meta-World's tasks are learned: bash scripts/metaworld_env.sh PYTHON [FOLDER]
#
# It is ours and the packages that Meta-World adds, which our packages' versions satisfy: PYTHON's packages are used where
# they lie, so this takes seconds. What is there and complete is kept. Its pictures are rendered on the CPU by libosmesa6,
# which is installed if it is missing and this is root on Debian or Ubuntu; with DOPAMINE_SYSTEM=keep nothing of the
# system is changed.
set -euo pipefail

python=${1:?usage: metaworld_env.sh PYTHON [FOLDER]}
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
folder=${2:-$root/.venv-metaworld}
stamp=$folder/.installed
packages=(metaworld==3.1.1 mujoco==3.3.0 absl-py etils glfw pyopengl imageio fsspec zipp)

if ! ldconfig -p | grep -q libOSMesa; then
    if [ "$(id -u)" != 0 ] || [ "${DOPAMINE_SYSTEM:-}" = keep ] || ! command -v apt-get >/dev/null; then
        echo "Meta-World's pictures need OSMesa; run by hand, as root: apt-get install libosmesa6" >&2
        exit 1
    fi
    export DEBIAN_FRONTEND=noninteractive
    apt-get update -qq
    apt-get install -y -qq --no-install-recommends libosmesa6 >/dev/null
fi

wanted=$(sha256sum <"${BASH_SOURCE[0]}")
[ -e "$stamp" ] && [ "$(cat "$stamp")" = "$wanted" ] && exit 0

echo "Meta-World environment: building $folder"
"$python" -m venv --clear "$folder"
ours=$("$python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
theirs=$("$folder/bin/python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
"$folder/bin/python" -m pip --disable-pip-version-check install --quiet --progress-bar off --no-deps "${packages[@]}"
# Not a path alone: what is installed editable there is found by files like this one.
echo "import site; site.addsitedir('$ours')" >"$theirs/ours.pth"
"$folder/bin/python" -W ignore -c "
from importlib.metadata import requires, version
from packaging.requirements import Requirement
import metaworld
needed = [need for need in map(Requirement, requires('metaworld')) if not need.marker or need.marker.evaluate({'extra': ''})]
unmet = [str(need) for need in needed if not need.specifier.contains(version(need.name), prereleases=True)]
assert not unmet, f'our packages are others than Meta-World asks for: {unmet}'
print('Meta-World environment: metaworld', version('metaworld'))"
echo "$wanted" >"$stamp"
