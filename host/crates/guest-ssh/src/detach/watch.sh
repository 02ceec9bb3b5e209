# Runs the program, keeps what it prints until it was fetched, and writes down how it ended. Arguments: the
# directory, the command line, `feed` or `none`, seconds between two looks for whoever follows, how many in vain are one too
# many, `group` or `session`, `exact` or `plain`.
#
# `order` carries a line for each piece of output, and what comes out of it is in the files `index.0`, `index.1`, …: stream,
# segment, length. The pieces themselves are in `1.0`, `1.1`, … and `2.0`, `2.1`, … Whoever follows deletes what was
# fetched; a program that is ahead by four segments of a stream has to wait.
case $3 in
feed) set -- "$1" "$2" "$1/in" "$4" "$5" "$6" "$7" ;;
*) set -- "$1" "$2" /dev/null "$4" "$5" "$6" "$7" ;;
esac
# No variable is assigned before the program is started: it would inherit one that was exported.
case $6 in
session) set -- "$1" "$2" "$3" "$4" "$5" setsid "$7" ;;
*)
    set -- "$1" "$2" "$3" "$4" "$5" "" "$7"
    set -m
    ;;
esac
case $7 in
exact)
    (exec $6 awk 'BEGIN {
        end = system(ARGV[1])
        if (end >= 512) said = "core " (end - 512)
        else if (end >= 256) said = "signal " (end - 256)
        else if (end == int(end)) said = "status " end
        else {
            end *= 256
            said = (end >= 128 ? "core " : "signal ") int(end % 128 + 0.5)
        }
        print said > ARGV[2]
    }' "$2" "$1/status") <"$3" >"$1/out" 2>"$1/err" &
    ;;
*) (exec $6 /bin/sh -c "$2") <"$3" >"$1/out" 2>"$1/err" & ;;
esac
group=$!
set +m
dir=$1 name=${1##*/} interval=$4 looks=$5 mode=$7

# Copies a stream into segments, a piece at a time, and tells of each. The pipe holds the program back meanwhile.
pump() {
    segment=0 size=0 pieces=0
    exec 4>"$dir/$1.0"
    while :; do
        # The line after `records out` begins with the number of bytes, in every dialect.
        said=$(LC_ALL=C dd bs=65536 count=1 2>&1 >&4) || said=
        length=${said##*records out}
        length=${length#?}
        length=${length%% *}
        case $length in
        0) break ;;
        '' | *[!0-9]*)
            echo fault
            break
            ;;
        esac
        echo "$1 $segment $length"
        size=$((size + length)) pieces=$((pieces + 1))
        if [ "$size" -ge 4194304 ] || [ "$pieces" -ge 4096 ]; then
            segment=$((segment + 1)) size=0 pieces=0
            room "$1" "$((segment - 4))"
            command exec 4>"$dir/$1.$segment" || {
                echo fault
                break
            }
        fi
    done
    : >"$dir/done.$1"
}

room() {
    [ -e "$dir/$1.$2" ] || return
    : >"$dir/full.$1"
    while [ -e "$dir/$1.$2" ]; do pause 0.05; done
    [ -d "$dir" ] || exit
    rm -f "$dir/full.$1"
}

# The one writer of the index, so that a file is complete once there is the next. A line less would give what follows to other
# bytes, so the first that cannot be written is the last; the end tells how much there was in all.
merge() {
    file=0 lines=0 total=0
    command exec 5>"$dir/index.0" || spoil
    while read -r what where more; do
        case $what in
        [12]) total=$((total + more)) ;;
        end) more="$more $total" ;;
        esac
        echo "$what $where $more" >&5 || spoil
        lines=$((lines + 1))
        if [ "$lines" -ge 4096 ]; then
            file=$((file + 1)) lines=0
            command exec 5>"$dir/index.$file" || spoil
        fi
    done
}

spoil() {
    : >"$dir/fault"
    exit
}

# Ends everything when nobody has followed for so long that nobody will, or when the directory was removed.
guard() {
    vain=0 last=
    while sleep "$interval"; do
        if [ -d "$dir" ]; then
            now=
            read -r now <"$dir/alive"
            vain=$((vain + 1))
            [ "$now" = "$last" ] || vain=0
            last=$now
            [ "$vain" -lt "$looks" ] && continue
            ! running || ask TERM
            sleep 2
        fi
        ! running || kill -KILL "-$group"
        rm -rf "$dir"
        kill -KILL "-$$"
    done
}

# Whether the program's group has anybody left. That the guard lives shows that the VM was not started anew, so that the number
# is the group's, also where the watcher was killed.
running() { [ ! -e "$dir/ended" ] && kill -0 "-$group"; }

drained() { [ -e "$dir/done.1" ] && [ -e "$dir/done.2" ]; }
full() { [ -e "$dir/full.1" ] || [ -e "$dir/full.2" ]; }

guard &
echo "$group $$ $mode $!" >"$dir/pids"
merge <"$dir/order" &
merger=$!
exec 9>"$dir/order"
pump 1 <"$dir/out" >&9 9>&- &
out=$!
pump 2 <"$dir/err" >&9 9>&- &
err=$!

wait "$group"
how=status number=$?
[ "$mode" = plain ] || read -r how number <"$dir/status" || how=unknown
case $how in
signal | core) number=$(kill -l "$number") ;;
esac

# What the program left behind may still print a moment; then it is ended, since nobody will follow it.
turns=0
until drained || [ "$turns" -ge 20 ]; do
    pause 0.1
    turns=$((turns + 1))
done
if kill -0 "-$group"; then
    kill -TERM "-$group"
    turns=0
    while kill -0 "-$group" && [ "$turns" -lt 5 ]; do
        pause 0.1
        turns=$((turns + 1))
    done
    kill -KILL "-$group"
fi
: >"$dir/ended"
turns=0
until drained || [ "$turns" -ge 30 ]; do
    pause 0.1
    # A stream that waits to be fetched has all the time there is.
    full || turns=$((turns + 1))
done
# Only what has left the group can hold a stream open still.
drained || kill -KILL "$out" "$err"
echo "end $how $number" >&9
exec 9>&-
wait "$merger"
