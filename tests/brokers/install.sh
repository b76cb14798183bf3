#!/bin/sh
# Installs the brokers of the tests from the system's packages, where they are missing and that is
# possible. It never fails: without a broker the tests say themselves what that means.

# install NAME VARIABLE PACKAGE...
install() {
    name=$1 variable=$2
    shift 2
    "$(dirname "$0")/../../.ci/install" "$name" \
        "${variable:+start one and name it in $variable}" "$@" || echo "the tests that need $name won't run"
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
