"""The doctor: streams from a server as a reader would, and says what is wrong with what came."""
