#!/bin/sh
# Run a command and pass SIGTERM on to its children.
#
# `docker stop` signals the container's first process alone, and on one machine DeepSpeed's launcher dies of SIGTERM
# without a word to the process it started, which is the one that ends the ranks in order (SIGTERM, 30 s, SIGKILL).
# So that one is signalled, and the launcher is waited for.

"$@" &
launcher=$!

pass_on() {
    children=$(cat "/proc/$launcher/task/$launcher/children" 2>/dev/null)
    # Unquoted: one number per child. None yet: the launcher itself.
    kill -TERM ${children:-"$launcher"} 2>/dev/null
}
trap pass_on TERM INT

# `wait` also returns for a signal; the launcher may live on.
while wait "$launcher"; status=$?; kill -0 "$launcher" 2>/dev/null; do :; done
exit "$status"
