# Functions of this module's scripts; read by them with ".".
# SERVICES: names of services in the order of their start, separated by commas.

# Seconds a service may take to become active.
START_LIMIT_S=${START_LIMIT_S:-60}

say() {
    printf '%s: %s\n' "${0##*/}" "$*"
}

fail() {
    printf '%s: error: %s\n' "${0##*/}" "$*" >&2
    exit 1
}

in_order() {
    printf '%s\n' "${SERVICES:-}" | tr ',' '\n' | sed 's/^[[:space:]]*//; s/[[:space:]]*$//; /^$/d'
}

in_reverse() {
    in_order | sed '1!G;h;$!d'
}

with_systemd() {
    [ -d /run/systemd/system ]
}

service_start() {
    if with_systemd; then systemctl start "$1"; else service "$1" start; fi
}

service_stop() {
    if with_systemd; then systemctl stop "$1"; else service "$1" stop; fi
}

service_kill() {
    if with_systemd; then
        systemctl kill --signal=SIGKILL "$1"
        systemctl stop "$1"
    else
        service "$1" stop
    fi
}

service_is_active() {
    if with_systemd; then
        systemctl is-active --quiet "$1"
    else
        service "$1" status >/dev/null 2>&1
    fi
}
