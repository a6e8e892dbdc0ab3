# Starts a command and sees to it that it ends with whoever holds the other end of our standard input:
# the kernel closes that pipe even after a kill -9.
#
#   sh -c SCRIPT supervisor STOP_SIGNAL GRACE_SECONDS DIRECTORY COMMAND [ARGUMENT…]
#
# standard input    one word a line: a signal for the command, or `keep` (leave DIRECTORY alone at the end)
# standard output   the process id of the command, then `exit STATUS`
# standard error    where the output of the command goes
#
# Must be the leader of its process group: the last thing it does is to kill that group.

signal=$1 grace=$2 directory=$3
shift 3

# Waits for one of our children, through the signals that interrupt `wait`.
await() {
    while
        wait "$1"
        status=$?
        [ "$status" -gt 128 ] && kill -s 0 "$1" 2>/dev/null
    do :; done
}

# Ends a helper of ours. It is waited for: where nothing reaps orphans, as in many containers, it would stay for ever.
dismiss() {
    kill -s TERM "$1" 2>/dev/null
    await "$1"
}

# Reads what we are told, and in the end sends us a signal.
listen() {
    trap 'exit 0' TERM
    tell=USR1
    while read -r word; do
        case $word in
        keep) tell=USR2 ;;
        *) kill -s "$word" "$command" ;;
        esac
    done
    # Again and again: `wait` does not see a signal that comes just before it.
    while kill -s "$tell" $$; do sleep 0.1; done
}

kill_after_grace() {
    trap 'exit 0' TERM
    tenths=$((grace * 10))
    while [ "$tenths" -gt 0 ]; do
        sleep 0.1
        tenths=$((tenths - 1))
    done
    kill -s KILL "$command"
}

exec 3<&0 </dev/null
end=
trap 'end=clean' USR1 HUP INT TERM
trap 'end=keep' USR2

"$@" >&2 3<&- &
command=$!
# Only from here on, since a command would inherit an ignored signal.
trap '' PIPE
echo "$command"

listen <&3 >/dev/null 2>&1 &
listener=$!
exec 3<&-

wait "$command"
status=$?
if [ -n "$end" ]; then
    kill -s "$signal" "$command" 2>/dev/null
    kill -s CONT "$command" 2>/dev/null
    kill_after_grace >/dev/null 2>&1 &
    timer=$!
    await "$command"
    ended=$status
    dismiss "$timer"
    status=$ended
fi
echo "exit $status" 2>/dev/null

while [ -z "$end" ]; do wait "$listener"; done
exec >/dev/null 2>&1
dismiss "$listener"
if [ "$end" = clean ] && [ -n "$directory" ]; then
    # What the command left running may write a last file.
    rm -rf "$directory" || { sleep 1 && rm -rf "$directory"; }
fi
kill -s KILL 0
