pause() { sleep "$1" 2>/dev/null || sleep 1; }

# Whether a process is one of ours, by the directory's name in its command line. The number alone proves nothing: files outlive
# a VM that is started anew, and then others have it. macOS has no `/proc`; a small Linux has no `ps`, or one without `-p`.
ours() {
    case $(ps -ww -o args= -p "$1" || tr '\000' ' ' <"/proc/$1/cmdline") in
    *"$name"*) ;;
    *) return 1 ;;
    esac
} 2>/dev/null

# Sends a signal to the program's process group, whose number may be somebody else's once the program has ended. Where awk
# leads the group, it is left out: it has to tell how the rest ended.
ask() {
    [ -n "$group" ] && [ ! -e "$dir/ended" ] || return
    if [ "$mode" = exact ]; then
        ps -A -o pid= -o pgid= | while read -r process its; do
            [ "$its" = "$group" ] && [ "$process" != "$group" ] && kill "-$1" "$process"
        done
    else
        kill "-$1" "-$group"
    fi
}

