"""What drivers on a byte stream share: sockets, the shared reader, the timer."""
