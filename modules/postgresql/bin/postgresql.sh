# Functions of this module's scripts; read by them with ".".
# Variables, from <user><var> of userconfig.xml:
#   PGDATA  data directory, replicated          PGBIN   directory of pg_ctl
#   PGPORT  port, default 5432                  PGCONF  postgresql.conf; none: that in PGDATA
#   PGOWNER system user, default postgres       PGSOCKETS directory of the sockets
#   PGLOG   where the server writes until its own log is open

PGPORT=${PGPORT:-5432}
PGOWNER=${PGOWNER:-postgres}
PGSOCKETS=${PGSOCKETS:-/var/run/postgresql}
PGLOG=${PGLOG:-/var/log/postgresql/havre-${SAFEMODULE:-module}.log}
# Seconds; the module's own limit for stop scripts (nicestoptimeout) should be longer.
PGSTART_LIMIT_S=${PGSTART_LIMIT_S:-300}
PGSTOP_LIMIT_S=${PGSTOP_LIMIT_S:-60}

say() {
    printf '%s: %s\n' "${0##*/}" "$*"
}

fail() {
    printf '%s: error: %s\n' "${0##*/}" "$*" >&2
    exit 1
}

[ -n "${PGDATA:-}" ] || fail "PGDATA is not set: add <var name=\"PGDATA\" .../> to <user>"
[ -x "${PGBIN:-}/pg_ctl" ] || fail "no pg_ctl in PGBIN=\"${PGBIN:-}\": is PostgreSQL installed?"

# Runs a command as the owner of the data. From "/": the owner may not read where we stand.
as_owner() {
    cd / || fail "cannot change to /"
    if [ "$(id -un)" = "$PGOWNER" ]; then
        "$@"
    else
        runuser -u "$PGOWNER" -- "$@"
    fi
}

# Prints the numbers of all processes of PostgreSQL that work on this data on this node. Two nodes
# may share one machine: the other node's processes are in another network namespace.
processes() {
    data=$(readlink -f "$PGDATA") || return 0
    find /proc/[0-9]* -maxdepth 1 -name cwd -lname "$data" 2>/dev/null | while read -r cwd; do
        process=${cwd%/cwd}
        case $(readlink "$process/exe") in */postgres | */postgres\ *) ;; *) continue ;; esac
        [ "$(readlink "$process/ns/net")" = "$(readlink /proc/self/ns/net)" ] || continue
        printf '%s\n' "${process#/proc/}"
    done
}

# Prints the number of the server's process, if it runs on this node. The file postmaster.pid is
# replicated: it may name a process of the other node, or a dead one.
server_pid() {
    [ -r "$PGDATA/postmaster.pid" ] || return 1
    named=$(sed -n 1p "$PGDATA/postmaster.pid")
    processes | grep -x "$named"
}

# Waits for up to $1 seconds until no process works on this data.
wait_for_end() {
    left=$1
    while [ -n "$(processes)" ]; do
        [ "$left" -gt 0 ] || return 1
        sleep 1
        left=$((left - 1))
    done
}
