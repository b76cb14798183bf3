#!/bin/sh
# Installs RabbitMQ from the system's packages when it is missing and that is possible.
# It never fails: without a broker the tests say themselves what that means.

if [ -n "${CARROT_TEST_AMQP_URL:-}" ]; then
    echo "RabbitMQ: the one that CARROT_TEST_AMQP_URL names"
    exit 0
fi
# The real scripts, not the wrapper in PATH, which only root and the service's user may run.
if ls /usr/lib/rabbitmq/lib/rabbitmq_server-*/sbin/rabbitmq-server >/dev/null 2>&1; then
    exit 0
fi
if [ "$(id -u)" != 0 ]; then
    echo "RabbitMQ is missing, and only root can install it: sudo apt-get install rabbitmq-server"
    exit 0
fi
if ! command -v apt-get >/dev/null; then
    echo "RabbitMQ is missing, and there is no apt-get: start one and name it in CARROT_TEST_AMQP_URL"
    exit 0
fi
echo "RabbitMQ is missing: installing rabbitmq-server with apt-get"
log=$(mktemp)
export DEBIAN_FRONTEND=noninteractive
if apt-get update >"$log" 2>&1 &&
    apt-get install -y --no-install-recommends rabbitmq-server >>"$log" 2>&1; then
    echo "RabbitMQ is installed"
else
    tail -n 20 "$log"
    echo "RabbitMQ could not be installed (above is why): its tests won't run"
fi
rm -f "$log"
