#!/usr/bin/env bash
# Build an environment with one distribution beside our packages: bash scripts/beside_env.sh PYTHON FOLDER NAME==VERSION [MORE …]
#
# It is ours and the packages named here, whose wishes our packages' versions satisfy: PYTHON's packages are used where they
# lie, so this takes seconds. What is there and complete is kept.
set -euo pipefail

python=${1:?usage: beside_env.sh PYTHON FOLDER NAME==VERSION [MORE …]} folder=${2:?FOLDER} packages=("${@:3}")
name=${packages[0]%%==*}
stamp=$folder/.installed

wanted=$({ cat "${BASH_SOURCE[0]}"; echo "${packages[*]}"; } | sha256sum)
[ -e "$stamp" ] && [ "$(cat "$stamp")" = "$wanted" ] && exit 0

echo "$name: building $folder"
"$python" -m venv --clear "$folder"
ours=$("$python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
theirs=$("$folder/bin/python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
"$folder/bin/python" -m pip --disable-pip-version-check install --quiet --progress-bar off --no-deps "${packages[@]}"
# Not a path alone: what is installed editable there is found by files like this one.
echo "import site; site.addsitedir('$ours')" >"$theirs/ours.pth"
"$folder/bin/python" -W ignore - "$name" <<'END'
import sys
from importlib import import_module
from importlib.metadata import requires, version

from packaging.requirements import Requirement

name = sys.argv[1]
import_module(name.replace("-", "_"))
needed = [need for need in map(Requirement, requires(name) or []) if not need.marker or need.marker.evaluate({"extra": ""})]
unmet = [str(need) for need in needed if not need.specifier.contains(version(need.name), prereleases=True)]
assert not unmet, f"our packages are others than {name} asks for: {unmet}"
print(f"{name} {version(name)}: ready")
END
echo "$wanted" >"$stamp"
