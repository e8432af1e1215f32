#!/usr/bin/env bash
# Make sure that MuJoCo can render on the CPU, by OSMesa (libosmesa6): bash scripts/ensure_osmesa.sh
#
# Where it is missing and this is root on Debian or Ubuntu it is installed; elsewhere, and with DOPAMINE_SYSTEM=keep, the
# script says what to run and fails.
set -euo pipefail

ldconfig -p | grep -q libOSMesa && exit 0
if [ "$(id -u)" != 0 ] || [ "${DOPAMINE_SYSTEM:-}" = keep ] || ! command -v apt-get >/dev/null; then
    echo "Meta-World's pictures need OSMesa; run by hand, as root: apt-get install libosmesa6" >&2
    exit 1
fi
export DEBIAN_FRONTEND=noninteractive
apt-get update -qq
apt-get install -y -qq --no-install-recommends libosmesa6 >/dev/null
