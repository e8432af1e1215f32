#!/usr/bin/env bash
# Make sure that SAPIEN can render on this machine: bash scripts/ensure_vulkan.sh PYTHON
#
# Renders one tiny picture with PYTHON. Where that works, nothing is changed. Where it does not, and this is root on
# Debian or Ubuntu, Mesa's software Vulkan driver is installed, for which an entry may be added to apt's sources;
# elsewhere the script says what to install and fails. With DOPAMINE_SYSTEM=keep it changes nothing in any case, and
# prints the commands to run by hand.
set -euo pipefail

python=${1:?usage: ensure_vulkan.sh PYTHON}
# SAPIEN needs VK_KHR_external_semaphore_fd, which Mesa's lavapipe has from this version on.
least_mesa=24.3
packages=(mesa-vulkan-drivers libvulkan1)
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
log=$(mktemp)
trap 'rm -f "$log"' EXIT

renders() { LP_NUM_THREADS=1 "$python" "$here/render_probe.py" >"$log" 2>&1; }

give_up() {
    echo "No usable Vulkan driver: $1" >&2
    echo "Install a Vulkan driver (${packages[*]} >= $least_mesa, or the GPU vendor's), then run this script again." >&2
    tail -n 3 "$log" >&2
    exit 1
}

# Print the commands that would install the driver, for somebody to run who may change the system.
by_hand() {
    local suite entry="" from=""
    if ! new_enough "$(candidate || true)"; then
        suite=$(. /etc/os-release && echo "${VERSION_CODENAME:-}")
        entry=$(backports_entry "$suite")
    fi
    echo "Run by hand, as root:"
    if [ -n "$entry" ]; then
        from="-t $suite-backports "
        printf "    cat >/etc/apt/sources.list.d/dopamine-backports.sources <<'END'\n%s\nEND\n" "$entry"
    fi
    echo "    apt-get update"
    echo "    apt-get install --no-install-recommends $from${packages[*]}"
}

candidate() { apt-cache policy "${packages[0]}" | awk '$1 == "Candidate:" { print $2 }'; }

new_enough() { dpkg --compare-versions "${1:-0}" ge "$least_mesa"; }

# Print a deb822 entry for SUITE-backports, with the address and key of the configured archive that holds SUITE.
backports_entry() {
    local suite=$1 entry="" file
    for file in /etc/apt/sources.list.d/*.sources; do
        [ -e "$file" ] || continue
        entry=$(awk -v suite="$suite" 'BEGIN { RS = ""; FS = "\n" } {
            uris = suites = key = ""
            for (i = 1; i <= NF; i++) {
                if ($i ~ /^URIs:/) uris = $i
                if ($i ~ /^Suites:/) suites = $i " "
                if ($i ~ /^Signed-By:/) key = $i
            }
            if (index(suites, " " suite " ")) {
                print "Types: deb\n" uris "\nSuites: " suite "-backports\nComponents: main" (key ? "\n" key : ""); exit
            }
        }' "$file")
        [ -n "$entry" ] && { echo "$entry"; return; }
    done
    { cat /etc/apt/sources.list /etc/apt/sources.list.d/*.list 2>/dev/null || true; } | awk -v suite="$suite" '!found && $1 == "deb" {
        line = $0; key = ""
        if (match(line, /\[[^]]*\]/)) {
            options = substr(line, RSTART + 1, RLENGTH - 2); sub(/\[[^]]*\]/, "", line)
            if (match(options, /signed-by=[^ ]*/)) key = substr(options, RSTART + 10, RLENGTH - 10)
        }
        split(line, words, " ")
        if (words[3] == suite) {
            print "Types: deb\nURIs: " words[2] "\nSuites: " suite "-backports\nComponents: main" (key ? "\nSigned-By: " key : "")
            found = 1
        }
    }'
}

install_mesa() {
    local suite entry version from=()
    export DEBIAN_FRONTEND=noninteractive
    apt-get update -qq || give_up "apt-get update failed"
    version=$(candidate)
    if ! new_enough "$version"; then
        suite=$(. /etc/os-release && echo "${VERSION_CODENAME:-}")
        entry=$(backports_entry "$suite")
        [ -n "$entry" ] || give_up "apt offers ${packages[0]} ${version:-(none)}, and no archive of '$suite' is configured"
        echo "$entry" >/etc/apt/sources.list.d/dopamine-backports.sources
        apt-get update -qq || give_up "apt-get update failed with $suite-backports"
        from=(-t "$suite-backports")
    fi
    apt-get install -y -qq --no-install-recommends "${from[@]}" "${packages[@]}" >/dev/null || give_up "apt-get install failed"
}

system=${DOPAMINE_SYSTEM:-change}
case $system in
change | keep) ;;
*) echo "DOPAMINE_SYSTEM = '$system': write keep, so that nothing is installed, or leave it out" >&2; exit 2 ;;
esac
found() { echo "Vulkan driver: $(tail -n 1 "$log")"; }

renders && { found; exit 0; }
command -v apt-get >/dev/null || give_up "this is not Debian or Ubuntu"
if [ "$system" = keep ]; then
    by_hand >&2
    give_up "DOPAMINE_SYSTEM=keep forbids to install one"
fi
[ "$(id -u)" = 0 ] || give_up "not root; run: sudo bash scripts/ensure_vulkan.sh $python"
echo "No usable Vulkan driver; installing ${packages[*]}" >&2
install_mesa
renders || give_up "${packages[0]} $(dpkg-query -W -f '${Version}' "${packages[0]}") is installed, but rendering fails"
found
