"""What several test modules share: real servers, clients, scripted producers."""
