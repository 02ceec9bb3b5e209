#!/bin/sh
# Programs as macOS has them: the BSD dialect of a program of this machine, known by the name it is called by.
#
# What macOS's program does not know is refused as macOS's refuses it, and what it prints differently is printed that
# way. What is here was checked against the manual pages of macOS 14. Refusing too much is fine, too little is not.
tool=${0##*/}
real=/usr/bin/$tool
[ -x "$real" ] || real=/bin/$tool

refuse() {
    echo "$tool: illegal option -- $1" >&2
    echo "usage: $tool (as on macOS)" >&2
    exit 64
}

# BSD programs have no long options; a lone `--` ends the options everywhere.
no_long_options() {
    for word; do
        case $word in
        --) return ;;
        --*) refuse "$word" ;;
        esac
    done
}

# Refuses single-letter options, alone or among others, up to the first word that is none.
no_letters() {
    letters=$1
    shift
    for word; do
        case $word in
        -- | - | [!-]* | '') return ;;
        -*[$letters]*) refuse "$word" ;;
        esac
    done
}

case $tool in
find)
    case ${1-} in '' | -[!HLPEXdsx]*) refuse "${1-a path is needed}" ;; esac
    for word; do
        case $word in
        -printf | -fprintf | -fprint | -fprint0 | -fls | -regextype | -readable | -writable | -executable | -xtype | -quit | \
            -daystart | -files0-from | -warn | -nowarn | -used | -printf0 | --*)
            echo "find: $word: unknown primary or operator" >&2
            exit 1
            ;;
        esac
    done
    ;;
stat)
    no_long_options "$@"
    case ${1-} in
    -f) ;;
    *) refuse "${1-}" ;;
    esac
    # Only the letters whose GNU name means exactly the same are known.
    format=$(printf '%s' "$2" | /usr/bin/sed -e 's/%Lp/%a/g' -e 's/%Fm/%.9Y/g' -e 's/%HT/@t/g' -e 's/%N/@n/g' -e 's/%m/%Y/g' -e 's/%z/@s/g' \
        -e 's/%l/%h/g' -e 's/%i/%i/g' -e 's/%d/%d/g' -e 's/%u/%u/g' -e 's/%g/%g/g' -e 's/@n/%n/g' -e 's/@s/%s/g' -e 's/@t/%F/g')
    case $2 in *%[!NmzlidugLFH]* | *%H[!T]* | *%L[!p]* | *%F[!m]*) refuse "$2" ;; esac
    shift 2
    exec /usr/bin/stat -c "$format" "$@"
    ;;
sed)
    no_long_options "$@"
    no_letters zs "$@"
    # `-i` takes its suffix as a word of its own, and there must be one.
    if [ "${1-}" = -i ]; then
        suffix=$2
        shift 2
        exec /bin/sed "-i$suffix" "$@"
    fi
    ;;
date)
    no_long_options "$@"
    for word; do
        case $word in -d* | -f* | -j* | -v* | *%N* | *%:*) refuse "$word" ;; esac
    done
    # `-r` is followed by seconds, not by a file.
    count=$#
    while [ "$count" -gt 0 ]; do
        case $1 in
        -r) set -- "$@" "-d@$2" && shift 2 && count=$((count - 2)) ;;
        *) set -- "$@" "$1" && shift && count=$((count - 1)) ;;
        esac
    done
    ;;
wc)
    no_long_options "$@"
    no_letters L "$@"
    # Numbers stand in columns of eight, also where there is one only.
    "$real" "$@" | /usr/bin/sed 's/^ */       /'
    exit
    ;;
readlink)
    # `-f` is there since macOS 12.3 only.
    no_long_options "$@"
    no_letters femqsvz "$@"
    ;;
cp) no_long_options "$@" && no_letters tTbuxZ "$@" ;;
mv) no_long_options "$@" && no_letters tTubZ "$@" ;;
ln) no_long_options "$@" && no_letters rTtbdLP "$@" ;;
ls) no_long_options "$@" && no_letters QNXvZ "$@" ;;
du) no_long_options "$@" && no_letters bDlS0 "$@" ;;
df) no_long_options "$@" && no_letters BT "$@" ;;
base64) no_long_options "$@" && no_letters w "$@" ;;
head)
    no_long_options "$@"
    before=
    for word; do
        case $before$word in -[nc]-*) refuse "$word" ;; esac
        before=$word
        case $word in -z* | -q* | -v* | -[nc]-* | -[nc]*[kKMGb]) refuse "$word" ;; -[0-9]*[!0-9]*) refuse "$word" ;; esac
        case $word in *[0-9][kKMG]) refuse "$word" ;; esac
    done
    ;;
tail) no_long_options "$@" && no_letters sz "$@" ;;
xargs) no_long_options "$@" && no_letters dae "$@" ;;
grep)
    # `-z` there means to decompress, and `-P` is not there.
    for word; do case $word in --color* | --) ;; --*) refuse "$word" ;; esac; done
    no_letters Pz "$@"
    ;;
mktemp) no_long_options "$@" && no_letters p "$@" ;;
ps) no_long_options "$@" ;;
dd)
    for word; do
        case $word in iflag=* | oflag=* | bs=*[KMG] | conv=*excl* | status=progress*) refuse "$word" ;; esac
    done
    ;;
touch) no_long_options "$@" && no_letters d "$@" ;;
uname)
    case ${1--s} in
    -s) echo Darwin ;;
    -m | -p) echo arm64 ;;
    -r) echo 23.6.0 ;;
    -sm) echo 'Darwin arm64' ;;
    *) refuse "$1" ;;
    esac
    exit
    ;;
md5)
    no_long_options "$@"
    [ "${1-}" = -q ] && shift
    /usr/bin/md5sum "$@" | /usr/bin/cut -d ' ' -f 1
    exit
    ;;
shasum)
    for word; do case $word in -a | -b | -c | [0-9]* | [!-]* | -) ;; -*) refuse "$word" ;; esac; done
    sum=sha1sum
    if [ "${1-}" = -a ]; then
        sum=sha$2sum
        shift 2
    fi
    exec "/usr/bin/$sum" "$@"
    ;;
*) no_long_options "$@" ;;
esac
exec "$real" "$@"
