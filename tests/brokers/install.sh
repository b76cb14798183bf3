#!/bin/sh
# Installs the brokers of the tests from the system's packages, where they are missing and that is
# possible. It never fails: without a broker the tests say themselves what that means.

# install NAME VARIABLE PACKAGE...
install() {
    name=$1 variable=$2
    shift 2
    if [ "$(id -u)" != 0 ]; then
        echo "$name is missing, and only root can install it: sudo apt-get install $*"
        return
    fi
    if ! command -v apt-get >/dev/null; then
        echo "$name is missing, and there is no apt-get${variable:+: start one and name it in $variable}"
        return
    fi
    echo "$name is missing: installing $* with apt-get"
    log=$(mktemp)
    export DEBIAN_FRONTEND=noninteractive
    if apt-get update >"$log" 2>&1 &&
        apt-get install -y --no-install-recommends "$@" >>"$log" 2>&1; then
        echo "$name is installed"
    else
        tail -n 20 "$log"
        echo "$name could not be installed (above is why): its tests won't run"
    fi
    rm -f "$log"
}

if [ -n "${CARROT_TEST_AMQP_URL:-}" ]; then
    echo "RabbitMQ: the one that CARROT_TEST_AMQP_URL names"
# The real scripts, not the wrapper in PATH, which only root and the service's user may run.
elif ! ls /usr/lib/rabbitmq/lib/rabbitmq_server-*/sbin/rabbitmq-server >/dev/null 2>&1; then
    install RabbitMQ CARROT_TEST_AMQP_URL rabbitmq-server
fi

if ! command -v java >/dev/null; then
    install Java "" default-jre-headless
fi
if [ ! -e /usr/share/activemq/lib/activemq-stomp.jar ]; then
    install ActiveMQ "" activemq
fi
