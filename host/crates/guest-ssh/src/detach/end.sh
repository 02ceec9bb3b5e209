# Ends a detached program and removes all traces of it. Arguments: the directory's name below the home directory, and tenths of
# a second between SIGTERM and SIGKILL.
printf 'orka-step: begin\n'
case ${HOME-} in
/*) dir=$HOME/$1 ;;
*) dir=$PWD/$1 ;;
esac
name=$1
[ -d "$dir" ] || exit 0
if ! mkdir "$dir/started" && [ ! -e "$dir/void" ]; then
    turns=0
    until [ -s "$dir/pids" ] || [ "$turns" -ge 40 ]; do
        pause 0.05
        turns=$((turns + 1))
    done
    if read -r group watcher mode guard <"$dir/pids"; then
        # Its number is the program's until the watcher has waited for it, and that of awk anyway. Where the watcher was killed
        # and no awk leads the group, the guard shows that the VM was not started anew.
        if [ ! -e "$dir/ended" ] && { ours "$watcher" || ours "$group" || ours "$guard"; } && kill -0 "-$group"; then
            ask TERM
            turns=0
            while [ ! -e "$dir/ended" ] && [ ! -s "$dir/status" ] && kill -0 "-$group" && [ "$turns" -lt "$2" ]; do
                pause 0.1
                turns=$((turns + 1))
            done
            [ -e "$dir/ended" ] || kill -KILL "-$group"
        fi
        # The guard is in the watcher's group and outlives it. Where nobody can tell whose a number is, the guard finds the
        # directory gone and does the rest.
        ! ours "$guard" || kill -KILL "-$watcher"
    fi
    if read -r earlier <"$dir/reader"; then
        for process in $earlier; do
            ! ours "$process" || kill -KILL "$process"
        done
    fi
    # Whoever waits for the other end of a pipe gets one, and finds it closed.
    for pipe in in out err order; do
        [ ! -p "$dir/$pipe" ] || : <>"$dir/$pipe"
    done
fi 2>/dev/null
rm -rf "$dir"
