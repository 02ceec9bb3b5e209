# Starts the watcher in a process group of its own and feeds the program. Arguments: those of `start.sh`, with the whole path
# of the directory, then the shell, `group` or `session`, `exact` or `plain`.
set -- "$1" "$2" "$3" "$5" "$6" "$7" "$9" "${10}" "$8"
case $7$9 in
groupbash)
    set -m
    bash --posix -c "$4" orka-step "$1" "$2" "$3" "$5" "$6" "$7" "$8" </dev/null >/dev/null 2>&1 3<&- &
    ;;
group*)
    set -m
    /bin/sh -c "$4" orka-step "$1" "$2" "$3" "$5" "$6" "$7" "$8" </dev/null >/dev/null 2>&1 3<&- &
    ;;
*) setsid /bin/sh -c "$4" orka-step "$1" "$2" "$3" "$5" "$6" "$7" "$8" </dev/null >/dev/null 2>&1 3<&- & ;;
esac
printf 'started\n'
[ "$3" = feed ] || exit 0
exec cat <&3 >"$1/in"
