pause() { sleep "$1" 2>/dev/null || sleep 1; }

# Sends a signal to the program's process group. Where awk leads the group, it is left out: it has to tell how the rest ended.
ask() {
    if [ "$mode" = exact ]; then
        ps -A -o pid= -o pgid= | while read -r process its; do
            [ "$its" = "$group" ] && [ "$process" != "$group" ] && kill "-$1" "$process"
        done
    else
        kill "-$1" "-$group"
    fi
}

