"""What carrot does when the network and the broker fail."""
