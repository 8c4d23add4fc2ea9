#!/usr/bin/env bash
# Install the programs that the tests need, on Debian or Ubuntu:
#   redis-server   a second, independent store, on which the store's tests run, too
#   chromium       the browser of the dashboard's tests
#   g++            compiles DeepSpeed's own operator on its first use
#   nginx          the load balancer of deploy/nginx.conf
#   java           runs the tokenizer with which captions are scored
# Does nothing if all of them are installed.
set -euo pipefail

have() { command -v "$1" >/dev/null 2>&1; }

packages=()
have redis-server || packages+=(redis-server)
have chromium || have chromium-browser || packages+=(chromium)
have g++ || packages+=(g++)
have nginx || packages+=(nginx-light)
have java || packages+=(default-jre-headless)
[ ${#packages[@]} -eq 0 ] && exit 0

as_root=()
by_hand="install them by hand: redis-server, chromium, g++, nginx and java must be on the PATH"
if ! have apt-get; then
    echo "The tests need ${packages[*]}, but this system has no apt-get; $by_hand." >&2
    exit 1
fi
if [ "$(id -u)" -ne 0 ]; then
    if ! have sudo; then
        echo "The tests need ${packages[*]}; to install them, run this as root or install sudo, or $by_hand." >&2
        exit 1
    fi
    as_root=(sudo)
fi

# The tests start Redis and nginx themselves: a policy of "never" (101) keeps packages from starting services.
policy=/usr/sbin/policy-rc.d
if [ ! -e "$policy" ]; then
    printf '#!/bin/sh\nexit 101\n' | "${as_root[@]}" tee "$policy" >/dev/null
    "${as_root[@]}" chmod 755 "$policy"
    trap '"${as_root[@]}" rm -f "$policy"' EXIT
fi

echo "Installing ${packages[*]} with apt-get for the tests."
install() {
    "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends "${packages[@]}"
}
if ! { "${as_root[@]}" apt-get update -q && install; }; then
    echo "apt-get could not install ${packages[*]} (see its output above); $by_hand." >&2
    exit 1
fi
