"""What a process says of itself while it works: log lines and spans. Nothing here is on the way of a byte."""
