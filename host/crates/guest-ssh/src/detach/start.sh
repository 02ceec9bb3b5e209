# Prepares a directory for a detached program and starts its watcher. Arguments: the directory's name below the home
# directory, the program's command line, whether it is fed from our input (`feed`) or reads nothing (`none`), the texts of
# `launch.sh` and `watch.sh`, seconds between two looks for whoever follows, and how many in vain are one too many.
#
# Positional parameters alone: an assigned variable could be one that the program inherits.
exec 3<&0 </dev/null
printf 'orka-step: begin\n'
case ${HOME-} in
/*) set -- "$HOME/$1" "$2" "$3" "$4" "$5" "$6" "$7" ;;
*) set -- "$PWD/$1" "$2" "$3" "$4" "$5" "$6" "$7" ;;
esac
# A directory that is there already belongs to somebody who has given this start up for lost.
mkdir -m 700 "$1" || exit 1

# What gives a background program a process group of its own: job control, where the shell has it without a terminal
# (macOS's has, Debian's has not), or `setsid`.
if /bin/sh -c 'set -m; case $- in *m*) ;; *) exit 1 ;; esac' 2>/dev/null; then
    set -- "$@" /bin/sh group
elif bash --posix -c 'set -m; case $- in *m*) ;; *) exit 1 ;; esac' 2>/dev/null; then
    set -- "$@" bash group
elif command -v setsid >/dev/null; then
    set -- "$@" /bin/sh session
else
    rm -rf "$1"
    echo unsupported
    exit 0
fi

# A shell gives a program killed by signal 9 and one that exits with status 137 the same `$?`. awk's `system` tells them
# apart in all versions but BusyBox's. Awk leads the program's group and must not be signalled with it, which takes `ps`.
if awk 'BEGIN { end = system("kill -KILL $$"); exit !(end > 256 || end != int(end)) }' 2>/dev/null &&
    ps -A -o pid= -o pgid= >/dev/null 2>&1; then
    set -- "$@" exact
else
    set -- "$@" plain
fi
mkfifo "$1/in" "$1/out" "$1/err" "$1/order" || {
    rm -rf "$1"
    exit 1
}

# From here on the program will run, whatever becomes of this shell; nobody else has forestalled it.
mkdir "$1/started" || exit 1
case $8 in
bash) exec bash --posix -c "$4" orka-step "$@" ;;
*) exec /bin/sh -c "$4" orka-step "$@" ;;
esac
