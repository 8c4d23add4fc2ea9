#!/bin/sh
# Run a command and pass SIGTERM on to its children.
#
# `docker stop` signals only the container's first process, and on one machine DeepSpeed's launcher dies of SIGTERM
# without passing it to its child, which stops the ranks in order (SIGTERM, 30 s, SIGKILL). So signal the child, and
# wait for the launcher.

"$@" &
launcher=$!

pass_on() {
    children=$(cat "/proc/$launcher/task/$launcher/children" 2>/dev/null)
    # Unquoted: one process id per child. Before the first child, signal the launcher itself.
    kill -TERM ${children:-"$launcher"} 2>/dev/null
}
trap pass_on TERM INT

# `wait` also returns on a signal, while the launcher may still run.
while wait "$launcher"; status=$?; kill -0 "$launcher" 2>/dev/null; do :; done
exit "$status"
