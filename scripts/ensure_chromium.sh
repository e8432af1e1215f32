#!/usr/bin/env bash
# Make sure that there is a browser to test pages with (chromium and chromium-driver): bash scripts/ensure_chromium.sh
#
# Where it is missing and this is root on Debian or Ubuntu it is installed; elsewhere, and with DOPAMINE_SYSTEM=keep, the
# script says what to run and fails.
set -euo pipefail

command -v chromium >/dev/null && command -v chromedriver >/dev/null && exit 0
if [ "$(id -u)" != 0 ] || [ "${DOPAMINE_SYSTEM:-}" = keep ] || ! command -v apt-get >/dev/null; then
    echo "The test of the pages needs a browser; run by hand, as root: apt-get install chromium chromium-driver" >&2
    exit 1
fi
export DEBIAN_FRONTEND=noninteractive
apt-get update -qq
apt-get install -y -qq --no-install-recommends chromium chromium-driver >/dev/null
