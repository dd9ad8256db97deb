# Functions of this module's scripts; read by them with ".".
# Variables, from <user><var> of userconfig.xml:
#   SITE        directory with the files of the site, replicated
#   PORT        port, default 80
#   NGINX       program, default nginx
#   NGINX_USER  system user of the workers; must be able to read SITE. Default: that of the package
#   NGINX_CONF  configuration to use as it is; none: one is made that serves SITE on PORT.
#               It must set "pid" to a file of its own, and name that file in NGINX_PID.

NGINX=${NGINX:-nginx}
PORT=${PORT:-80}
STATE=${SAFEUSERVAR:-/run}
NGINX_PID=${NGINX_PID:-$STATE/nginx.pid}
# Seconds; the module's own limit for stop scripts (nicestoptimeout) should be longer.
NGINX_STOP_LIMIT_S=${NGINX_STOP_LIMIT_S:-30}

say() {
    printf '%s: %s\n' "${0##*/}" "$*"
}

fail() {
    printf '%s: error: %s\n' "${0##*/}" "$*" >&2
    exit 1
}

PATH=$PATH:/usr/sbin:/sbin
command -v "$NGINX" >/dev/null || fail "there is no $NGINX: install nginx on both nodes"

# Prints the number of the server's main process, if it runs on this node. The number alone proves
# nothing: after a restart of the machine it may belong to another program.
server_pid() {
    [ -r "$NGINX_PID" ] || return 1
    named=$(cat "$NGINX_PID")
    case $(readlink "/proc/$named/exe") in */nginx | */nginx\ *) ;; *) return 1 ;; esac
    printf '%s\n' "$named"
}

# Prints the numbers of the main process $1 and its workers.
family() {
    printf '%s\n' "$1"
    pgrep -P "$1"
}

# Waits for up to $1 seconds until none of the processes $2... is left.
wait_for_end() {
    left=$(($1 * 10))
    shift
    for process in "$@"; do
        while [ -d "/proc/$process" ]; do
            [ "$left" -gt 0 ] || return 1
            sleep 0.1
            left=$((left - 1))
        done
    done
}

# Prints the system user that Debian's or another package of nginx made.
worker_user() {
    for user in ${NGINX_USER:-www-data nginx nobody}; do
        if id "$user" >/dev/null 2>&1; then
            printf '%s\n' "$user"
            return
        fi
    done
    fail "there is no user ${NGINX_USER:-www-data}: set NGINX_USER"
}

# Makes the configuration, unless the user has one, and prints its path.
configuration() {
    if [ -n "${NGINX_CONF:-}" ]; then
        printf '%s\n' "$NGINX_CONF"
        return
    fi
    conf=$STATE/nginx.conf
    mkdir -p "$STATE/nginx" || fail "cannot make $STATE/nginx"
    user=$(worker_user) || exit 1
    types=
    [ ! -r /etc/nginx/mime.types ] || types="include /etc/nginx/mime.types;"
    cat >"$conf" <<END || fail "cannot write $conf"
# Made by start_prim; changes are lost. Your own: set NGINX_CONF.
user $user;
worker_processes auto;
pid $NGINX_PID;
error_log $STATE/nginx/error.log;
events {}
http {
    $types
    access_log off;
    client_body_temp_path $STATE/nginx/body;
    proxy_temp_path $STATE/nginx/proxy;
    fastcgi_temp_path $STATE/nginx/fastcgi;
    uwsgi_temp_path $STATE/nginx/uwsgi;
    scgi_temp_path $STATE/nginx/scgi;
    server {
        listen $PORT;
        listen [::]:$PORT;
        root "$SITE";
    }
}
END
    printf '%s\n' "$conf"
}
