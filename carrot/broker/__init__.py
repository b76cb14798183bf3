"""The in-process broker: RabbitMQ's semantics in this process. No driver, no network."""
