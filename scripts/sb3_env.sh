#!/usr/bin/env bash
# Build the environment in which Stable-Baselines3 learns from our wrapper: bash scripts/sb3_env.sh PYTHON [FOLDER]
#
# It is ours and one package more, which our packages' versions satisfy: PYTHON's packages are used where they lie, so this
# takes seconds. What is there and complete is kept.
set -euo pipefail

python=${1:?usage: sb3_env.sh PYTHON [FOLDER]}
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
folder=${2:-$root/.venv-sb3}
stamp=$folder/.installed
package=stable-baselines3==2.9.2

wanted=$(sha256sum <"${BASH_SOURCE[0]}")
[ -e "$stamp" ] && [ "$(cat "$stamp")" = "$wanted" ] && exit 0

echo "Stable-Baselines3 environment: building $folder"
"$python" -m venv --clear "$folder"
ours=$("$python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
theirs=$("$folder/bin/python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
"$folder/bin/python" -m pip --disable-pip-version-check install --quiet --progress-bar off --no-deps "$package"
# Not a path alone: what is installed editable there is found by files like this one.
echo "import site; site.addsitedir('$ours')" >"$theirs/ours.pth"
"$folder/bin/python" -W ignore -c "
from importlib.metadata import requires, version
from packaging.requirements import Requirement
from stable_baselines3 import SAC
needed = [need for need in map(Requirement, requires('stable-baselines3')) if not need.marker or need.marker.evaluate({'extra': ''})]
unmet = [str(need) for need in needed if not need.specifier.contains(version(need.name), prereleases=True)]
assert not unmet, f'our packages are others than Stable-Baselines3 asks for: {unmet}'
print('Stable-Baselines3 environment: stable-baselines3', version('stable-baselines3'))"
echo "$wanted" >"$stamp"
