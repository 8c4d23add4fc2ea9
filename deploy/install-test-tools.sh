#!/usr/bin/env bash
# What the tests need beside Python, on Debian or Ubuntu:
#   redis-server   a second, independent store: every promise about the store is tested on it, too
#   chromium       the browser in which the dashboard is tested
#   g++            DeepSpeed compiles an operator of its own on its first use
#   nginx          the load balancer of deploy/nginx.conf
#   java           the tokenizer by which captions are judged
# Does nothing, quickly, where all of it is there.
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
by_hand="please install them by hand: redis-server, chromium, g++, nginx and java must be on the PATH"
if ! have apt-get; then
    echo "The tests need ${packages[*]}, and this system has no apt-get; $by_hand." >&2
    exit 1
fi
if [ "$(id -u)" -ne 0 ]; then
    if ! have sudo; then
        echo "The tests need ${packages[*]}, and installing them needs root or sudo; $by_hand." >&2
        exit 1
    fi
    as_root=(sudo)
fi

# Redis and nginx are started by the tests alone: a policy of "never" (101) keeps packages from starting services.
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
    echo "apt-get could not install ${packages[*]} (its reason is above); $by_hand." >&2
    exit 1
fi
