"""What goes wrong in earnest: scripts with a seed against real server processes. See docs/reliability.md."""
