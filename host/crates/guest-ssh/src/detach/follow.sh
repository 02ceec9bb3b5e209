# Sends what a detached program prints, from a place on, until it has ended. Arguments: the directory's name below the home
# directory, the line of the index to begin at, each stream's segment and the place in it, and how many bytes may be sent
# beyond those that were acknowledged.
#
# Prints `STREAM SEGMENT LINES LENGTH` before that many bytes, `end HOW NUMBER BYTES` at the end, `absent` if the program was not
# started and now never will be, `fault` if the disk could not hold what it printed, or `gone` if nobody watches it any more.
# Reads `ack BYTES` (in all), `rm FILE`, `signal NUMBER NAME`, and anything else as a sign of life; `heard COUNT` says how many of
# those words were taken to heart. A signal is sent once however often it comes: its number says which it is.
exec 3<&0 </dev/null
printf 'orka-step: begin\n'
case ${HOME-} in
/*) dir=$HOME/$1 ;;
*) dir=$PWD/$1 ;;
esac
name=$1 line=$2 window=$7
# Whoever makes the directory first decides; a start that comes late finds it taken.
mkdir -m 700 "$dir" 2>/dev/null
if mkdir "$dir/started" 2>/dev/null; then
    : >"$dir/void"
fi
if [ -e "$dir/void" ]; then
    echo absent
    exit
fi
turns=0
until [ -s "$dir/pids" ]; do
    [ "$turns" -lt 100 ] || {
        echo gone
        exit
    }
    pause 0.05
    turns=$((turns + 1))
done
read -r group watcher mode guard <"$dir/pids"
# A watcher that has ended has written all it had to. Not so where nobody can tell whose a number is.
if ! ours "$watcher" && ours "$$"; then
    group= watcher=
fi
watched() { [ -n "$watcher" ] && kill -0 "$watcher"; } 2>/dev/null

# An earlier follower may hang on a connection that is dead without its knowing.
if read -r earlier <"$dir/reader"; then
    for process in $earlier; do
        ! ours "$process" || kill -KILL "$process"
    done
fi 2>/dev/null

hear() {
    heard=0
    while read -r word text; do
        heard=$((heard + 1))
        case $word in
        ack) echo "$text" >"$dir/ack.$$" ;;
        rm) rm -f "$dir/$text" ;;
        signal)
            read -r had <"$dir/signalled" || had=0
            [ "${text%% *}" -le "$had" ] || {
                echo "${text%% *}" >"$dir/signalled"
                ask "${text#* }"
            }
            ;;
        esac
        echo "$$.$heard" >"$dir/alive"
    done
}
echo "$$ now" >"$dir/alive"
hear <&3 3<&- >/dev/null 2>&1 &
hearing=$!
exec 3<&-
echo "$$ $hearing" >"$dir/reader"
finish() {
    rm -f "$dir/ack.$$"
    kill -KILL "$hearing"
    exit
} 2>/dev/null

take() {
    case $1 in
    1) exec 7<"$dir/1.$2" ;;
    2) exec 8<"$dir/2.$2" ;;
    esac
}
# What was fetched before the last follower was lost.
forget() {
    fetched=$2
    while fetched=$((fetched - 1)) && [ -e "$dir/$1.$fetched" ]; do rm -f "$dir/$1.$fetched"; done
}
first=$3 second=$5
if [ "$first" -ge 0 ]; then
    forget 1 "$first"
    take 1 "$first"
    [ "$4" -eq 0 ] || dd bs="$4" count=1 <&7 >/dev/null 2>&1
fi
if [ "$second" -ge 0 ]; then
    forget 2 "$second"
    take 2 "$second"
    [ "$6" -eq 0 ] || dd bs="$6" count=1 <&8 >/dev/null 2>&1
fi
file=$((line / 4096))
forget index "$file"
until [ -e "$dir/index.$file" ]; do
    watched || {
        echo gone
        finish
    }
    pause 0.05
done
exec 6<"$dir/index.$file"
skip=$((line % 4096))
while [ "$skip" -gt 0 ] && read -r fetched <&6; do skip=$((skip - 1)); done

told=0
tell() {
    read -r text <"$dir/alive" || return
    text=${text#"$$".}
    case $text in
    "$told" | '' | *[!0-9]*) return ;;
    esac
    told=$text
    echo "heard $told" || exit
} 2>/dev/null

sent=0 acked=0
# Sends `length` bytes of `stream`, which `lines` lines of the index are about.
send() {
    [ "$lines" -gt 0 ] || return
    while [ "$sent" -gt "$acked" ] && [ "$((sent + length - acked))" -gt "$window" ]; do
        read -r text <"$dir/ack.$$" && case $text in
        '' | *[!0-9]*) ;;
        *) [ "$acked" -eq "$text" ] || {
            acked=$text
            continue
        } ;;
        esac
        pause 0.02
        [ -d "$dir" ] || exit
    done 2>/dev/null
    case $stream in
    1) [ "$first" = "$segment" ] || take 1 "$segment"; first=$segment ;;
    2) [ "$second" = "$segment" ] || take 2 "$segment"; second=$segment ;;
    esac
    echo "$stream $segment $lines $length" || exit
    case $stream in
    1) dd bs="$length" count=1 <&7 2>/dev/null || exit ;;
    2) dd bs="$length" count=1 <&8 2>/dev/null || exit ;;
    esac
    sent=$((sent + length)) lines=0 length=0
    tell
}

stream= segment= lines=0 length=0 idle=0 last=no part=
while :; do
    if IFS= read -r text <&6; then
        set -- $part$text
        part= idle=0 last=no
        case $1 in
        1 | 2)
            [ "$1 $2" = "$stream $segment" ] && [ "$length" -lt 196608 ] || send
            stream=$1 segment=$2
            lines=$((lines + 1)) length=$((length + $3))
            ;;
        *)
            send
            echo "$*"
            finish
            ;;
        esac
        continue
    fi
    # Perhaps the beginning of a line whose rest is still being written.
    part=$part$text
    send
    tell
    [ ! -e "$dir/fault" ] || {
        echo fault
        finish
    }
    if [ "$last" = next ]; then
        file=$((file + 1)) last=no
        exec 6<"$dir/index.$file"
        continue
    fi
    [ "$last" != gone ] || [ -e "$dir/index.$((file + 1))" ] || {
        echo gone
        finish
    }
    if [ -e "$dir/index.$((file + 1))" ]; then
        # Nothing is added once there is the next; what was added before the look is read first.
        last=next
        continue
    fi
    if ! watched; then
        last=gone
        continue
    fi
    idle=$((idle + 1))
    read -r process text <"$dir/reader" && [ "$process" = "$$" ] || finish
    case $idle in
    [1-9] | 1[0-9]) pause 0.02 ;;
    [2-3][0-9]) pause 0.1 ;;
    *) pause 0.25 ;;
    esac
done
