#!/usr/bin/env bash
# Build the environment in which the `lerobot` package runs on a CPU: bash scripts/lerobot_env.sh PYTHON [FOLDER]
#
# LeRobot pins packages that ours have in other versions, so it gets its own environment; `make test-extern` reads and writes
# datasets with it. What is there and complete is kept. FOLDER/lib/ffmpeg has to be in LD_LIBRARY_PATH: torchcodec decodes with
# the FFmpeg that PyAV brings along.
set -euo pipefail

python=${1:?usage: lerobot_env.sh PYTHON [FOLDER]}
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
folder=${2:-$root/.venv-lerobot}
stamp=$folder/.installed
# The last release for Python 3.11. It asks for an older torch, of which there is no build for the CPU alone.
lerobot=lerobot==0.4.4
torch=torch==2.13.0+cpu
matching="torchvision==0.28.0 torchcodec==0.13.0"
# What datasets, the trainer and the ACT policy import; the rest of its requirements is for robots and larger policies.
needed=("accelerate>=1.10,<2" "av>=15,<16" "datasets>=4,<5" "deepdiff<9" "diffusers>=0.27.2,<0.36" "draccus==0.10.0" "einops<0.9"
    "gymnasium<2" "huggingface-hub>=0.34.2,<0.36" "imageio<3" "jsonlines<5" "numpy" "packaging<26" "pandas<3" "pillow" "pyarrow"
    "pyserial<4" "safetensors" "setuptools<81" "termcolor<4")

wanted=$(sha256sum <"${BASH_SOURCE[0]}")
[ -e "$stamp" ] && [ "$(cat "$stamp")" = "$wanted" ] && exit 0

say() { echo "LeRobot environment: $*"; }
pip() { "$folder/bin/python" -m pip --disable-pip-version-check "$@" --progress-bar off; }

say "building $folder (about 0.4 GB to load, 1.5 GB on disk, some minutes)"
"$python" -m venv --clear "$folder"
say "1/3 torch for the CPU"
pip install --quiet "$torch" || {
    echo "pip does not find the CPU build of torch: add PyTorch's CPU index to PIP_EXTRA_INDEX_URL, then run this again" >&2
    exit 1
}
say "2/3 $lerobot $matching"
# shellcheck disable=SC2086
pip install --quiet --no-deps "$lerobot" $matching
say "3/3 what it needs: ${#needed[@]} packages and theirs"
pip install --quiet --no-warn-conflicts "${needed[@]}"

packages=$("$folder/bin/python" -c 'from importlib.util import find_spec; print(find_spec("av").submodule_search_locations[0])')/..
if ! "$folder/bin/python" -c "import torchvision" 2>/dev/null; then
    # PyPI's torchvision is compiled for another torch. Only its Python half is needed, which wants two operators declared.
    init=$packages/torchvision/__init__.py
    cat - "$init" >"$init.new" <<'PYTHON'
import torch

_declared = torch.library.Library("torchvision", "DEF")
for _name in ("nms", "qnms"):
    _declared.define(f"{_name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
PYTHON
    mv "$init.new" "$init"
fi
mkdir -p "$folder/lib/ffmpeg"
# Each library looks for the others beside the link through which it was loaded.
for library in "$packages"/av.libs/*.so*; do ln -sf "$(realpath "$library")" "$folder/lib/ffmpeg/"; done
for library in "$packages"/av.libs/lib{av,sw}*-*.so.*; do
    name=$(basename "$library" | sed -E 's/-[0-9a-f]+\.so\.([0-9]+).*/.so.\1/') # libavcodec-1a2b3c4d.so.61.19.101 -> libavcodec.so.61
    ln -sf "$(realpath "$library")" "$folder/lib/ffmpeg/$name"
done
LD_LIBRARY_PATH=$folder/lib/ffmpeg "$folder/bin/python" -W ignore -c "
import torchcodec.decoders
from lerobot import __version__
from lerobot.datasets import lerobot_dataset
print('LeRobot environment: lerobot', __version__)"
echo "$wanted" >"$stamp"
say "done"
